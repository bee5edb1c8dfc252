"""One run by open-instruct: its command line, and what is checked, gone on from and collected.

Names and values of arguments are those of ``open_instruct/dpo_tune_cache.py`` at commit c35cd715
(2025-05-15). Where a value is neither in the row nor the script's own default, a comment says why.
"""

import itertools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlsubnet.backends.launch import launched
from rlsubnet.backends.open_instruct.launcher import REPORT, STEPS
from rlsubnet.backends.open_instruct.saving import SCRIPT_MARKER, complete_saves
from rlsubnet.backends.processes import (
    PACKAGE,
    check_commit,
    find_python,
    link_package,
    read_marker,
    read_steps,
    remove,
    run_to_end,
)
from rlsubnet.backends.trainers import check_start, take_up
from rlsubnet.checkpoints.pair import export_trained
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import OpenInstructRecipe, Row
from rlsubnet.files import iterate_jsonl, read_object, write_json
from rlsubnet.training.runlog import METRICS, metrics_row

LAUNCHER = "rlsubnet.backends.open_instruct.launcher"
SCRIPT = "open_instruct/dpo_tune_cache.py"
# Relative to the checkout. bfloat16 and stage 3 without offloading are appendix B's.
DEEPSPEED_CONFIG = "configs/ds_configs/stage3_no_offloading_accelerate.conf"
# What accelerate fills in for `"gradient_clipping": "auto"` of that file.
AUTO_CLIP = 1.0


@dataclass(frozen=True)
class Places:
    """Where one run finds and leaves its files; every path is absolute."""

    checkout: Path  # clone of open-instruct; the working directory
    python: Path  # interpreter of open-instruct's environment
    init: Path  # Hugging Face folder to start from
    data: Path  # JSON lines of {"chosen", "rejected"}
    scratch: Path  # of this run alone: what it needs to go on lies here; removed at the end
    mask: Path | None = None
    nodes: int = 1  # machines that train together, all of which see the same files

    @property
    def package(self) -> Path:
        return self.scratch / PACKAGE

    @property
    def output(self) -> Path:
        return self.scratch / "output"

    @property
    def records(self) -> Path:
        return self.scratch / "records"

    @property
    def deepspeed(self) -> Path:
        return self.scratch / "deepspeed.json"


def _flags(**values: object) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def _tracking(wandb: Mapping[str, str]) -> list[str]:
    """Return what turns Weights & Biases on; losses are recorded without it.

    Offline, the script would still ask the server for its teams if no entity was given;
    ``wandb sync --entity`` names the real one.
    """
    if wandb["mode"] == "disabled":
        return []
    project = _flags(report_to="wandb", wandb_project_name=wandb["project"])
    entity = _flags(wandb_entity="offline") if wandb["mode"] == "offline" else []
    return ["--with_tracking", *project, *entity]


def script_arguments(row: Row[OpenInstructRecipe], places: Places) -> list[str]:
    """Return what the training script is told."""
    recipe, own_template = row.recipe, row.recipe.chat_template != "tulu"
    saves = {"checkpointing_steps": recipe.save_every, "keep_last_n_checkpoints": 1}
    return [
        # Model and data are local: a hub's `revision` says nothing about them.
        *_flags(
            exp_name=row.run,
            model_name_or_path=places.init,
            model_revision="main",
            tokenizer_name_or_path=places.init,
            tokenizer_revision="main",
        ),
        # Without effect at this commit; the authors of the recipe pass it.
        "--use_slow_tokenizer",
        # A name that the script does not know makes it take the tokenizer's own template.
        *(_flags(chat_template_name="own") if own_template else []),
        # All of it: "1" would mean one pair.
        *("--dataset_mixer_list", str(places.data), "1.0"),
        *_flags(
            max_seq_length=recipe.max_length,
            per_device_train_batch_size=recipe.per_process,
            gradient_accumulation_steps=recipe.accumulate,
            learning_rate=recipe.lr,
            lr_scheduler_type=recipe.schedule,
            warmup_ratio=recipe.warmup_ratio,
            weight_decay=recipe.weight_decay,
            num_train_epochs=recipe.epochs,
            dpo_loss_type=row.algorithm,
            dpo_beta=recipe.beta,
            use_flash_attn=recipe.flash_attention,
        ),
        "--gradient_checkpointing",
        *(_flags(**saves) if recipe.save_every else []),
        *_tracking(row.wandb),
        *_flags(
            logging_steps=1,
            seed=row.seed,
            output_dir=places.output,
            # Of this run alone: the cache knows a file by name and length, not by content.
            dataset_local_cache_dir=places.scratch / "tokenized",
            # Seconds that processes wait for the one that tokenizes; the recipe's 1,800 can be
            # short.
            timeout=7200,
            # These are on by default and reach for accounts of the script's authors.
            push_to_hub=False,
            try_launch_beaker_eval_jobs=False,
            try_auto_save_to_beaker=False,
        ),
    ]


def command(row: Row[OpenInstructRecipe], places: Places) -> list[str]:
    """Return the whole command line, to be run in the checkout."""
    recipe = row.recipe
    # What the launcher demands of DeepSpeed's engine, so that no default slips in.
    engine = {
        "zero_stage": 3,
        "bf16": True,
        "clip": recipe.clip or 0.0,
        "accumulate": recipe.accumulate,
        "processes": recipe.processes,
    }
    config = DEEPSPEED_CONFIG if recipe.clip == AUTO_CLIP else places.deepspeed
    words = [
        *_flags(mixed_precision="bf16"),
        "--use_deepspeed",
        *_flags(deepspeed_config_file=config, deepspeed_multinode_launcher="standard"),
        *("--module", LAUNCHER),
        *([] if places.mask is None else _flags(mask=places.mask, mask_at=recipe.mask_at)),
        *_flags(records=places.records, engine=json.dumps(engine, separators=(",", ":"))),
        SCRIPT,
        *script_arguments(row, places),
    ]
    each = recipe.processes // places.nodes
    return launched(places.nodes, "accelerate", each, places.python, words)


def environment(row: Row[OpenInstructRecipe], places: Places) -> dict[str, str]:
    """Return the variables that the command needs beside those that are set."""
    return {
        # The checkout is not installed; the script imports it as `open_instruct`.
        "PYTHONPATH": f"{places.checkout}:{places.package}",
        # Its caches belong to the run. A configuration of accelerate in the usual place would
        # silently take precedence over the command line, too.
        "HF_HOME": str(places.scratch / "huggingface"),
        # Whatever is not here is an error, never a download.
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": row.wandb["mode"],
        "WANDB_DIR": str(places.scratch.parent),
    }


def _leave_only(kept: Path) -> None:
    """Remove what lies beside a file or folder."""
    for path in list(kept.parent.iterdir()):
        if path != kept:
            remove(path)


def find_checkout(option: str) -> Path:
    """Return the absolute folder of open-instruct: the option, else ``$OPEN_INSTRUCT_DIR``."""
    named = Path(option or os.environ.get("OPEN_INSTRUCT_DIR", ""))
    if named == Path():
        raise ValueError(
            "no checkout of open-instruct: set backends.open_instruct.checkout in the config, "
            "or the environment variable OPEN_INSTRUCT_DIR"
        )
    if not (named / SCRIPT).is_file():
        raise ValueError(f"{named}: not a checkout of open-instruct, there is no {SCRIPT}")
    return named.resolve()


def check_pairs(data: Path, batch_size: int) -> None:
    """Check that there is one batch of pairs, so that no GPU waits for nothing."""
    found = sum(1 for _ in itertools.islice(iterate_jsonl(data), batch_size))
    if found < batch_size:
        raise ValueError(f"{data}: {found} pairs, expected a batch of {batch_size}")


class OpenInstruct:
    """Trains one run by open-instruct: see :class:`rlsubnet.backends.trainers.Trainer`.

    Checkout and interpreter are ``$OPEN_INSTRUCT_DIR`` and ``$OPEN_INSTRUCT_PYTHON`` where they are
    not named; the nodes share the recipe's processes.
    """

    columns = METRICS

    def __init__(
        self,
        row: Row[OpenInstructRecipe],
        files: RunFiles,
        checkout: str = "",
        python: str = "",
        nodes: int = 1,
    ) -> None:
        assert files.init is not None, "the sheets were checked for it"
        self._row = row
        self.places = Places(
            checkout=find_checkout(checkout),
            python=find_python(python, "OPEN_INSTRUCT_PYTHON"),
            init=files.init.absolute(),
            data=files.data.absolute(),
            scratch=files.scratch.absolute(),
            mask=None if files.mask is None else files.mask.absolute(),
            nodes=nodes,
        )
        # Where the script writes saves and weights, as the launcher names it.
        self.output = self.places.output / f"{row.run}__{row.seed}"

    def check(self) -> None:
        places, recipe = self.places, self._row.recipe
        cure = f"run git checkout {recipe.commit} there, or name another in the recipe's key commit"
        check_commit(places.checkout, recipe.commit, cure, "open_instruct", "configs")
        check_start(places.init, places.mask)
        check_pairs(places.data, recipe.batch_size)

    def environment(self) -> dict[str, Any]:
        """Return nothing: every process checks its own against that of the save it loads."""
        return {}

    def train(self, belongs_to: Mapping[str, Any], lock: int) -> list[dict[str, Any]]:
        """Run the script, whose output goes where ours goes."""
        row, places = self._row, self.places
        if step := self.resume_or_start(belongs_to):
            print(f"{row.run}: resumed after step {step}", file=sys.stderr, flush=True)
        places.records.mkdir(parents=True)
        link_package(places.package)
        if row.recipe.clip != AUTO_CLIP:
            settings = read_object(
                "DeepSpeed's configuration", f"@{places.checkout / DEEPSPEED_CONFIG}"
            )
            # 0 is DeepSpeed's word for none.
            write_json(places.deepspeed, {**settings, "gradient_clipping": row.recipe.clip or 0.0})
        run_to_end(
            command(row, places),
            f"run {row.run}: open-instruct",
            {**os.environ, **environment(row, places)},
            cwd=places.checkout,
            pass_fds=[lock],
        )
        self._report = read_object("the launcher's report", f"@{places.records / REPORT}")
        lines = read_steps(places.records / STEPS, self._report["steps"])
        return [metrics_row(METRICS, **line) for line in lines]

    def resume_or_start(self, belongs_to: Mapping[str, Any]) -> int:
        """Return the step after which the run goes on, 0 where it begins; no more is left of it.

        A save that was not finished is removed; without a finished one, so is all that was left.
        """
        places = self.places
        # With another seed the folder had another name: found as well, and then refused.
        saves = [save for folder in places.output.glob("*") for save in complete_saves(folder)]
        kept = (places.output.name, "tokenized", "huggingface")
        if not take_up(places.scratch, saves[-1:], belongs_to, kept):
            return 0
        save = saves[-1]
        _leave_only(save.parent)
        _leave_only(save)
        # A process killed between the two markers has not written the script's own.
        (save / SCRIPT_MARKER).touch()
        return int(read_marker(save)["step"])

    def collect(self, folder: Path) -> dict[str, Any]:
        """Make the folder of the trained weights, with all else from the start."""
        if not self.output.is_dir():
            raise ValueError(f"{self.output}: open-instruct ended well and wrote no weights there")
        folder.mkdir()
        export_trained(self.places.init, self.output, folder)
        return {"batch_size": self._row.recipe.batch_size, **self._report}
