"""From a row to the command line and environment of ``open_instruct/dpo_tune_cache.py``.

Argument names and values are those of the script at commit c35cd715 (2025-05-15). Where a value
is neither in the row nor the script's own default, a comment says why.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.backends.launch import launched, processes_per_node
from rlsubnet.backends.processes import PACKAGE

if TYPE_CHECKING:
    from rlsubnet.config.model import OpenInstructRecipe, Row

LAUNCHER = "rlsubnet.backends.open_instruct.launcher"
SCRIPT = "open_instruct/dpo_tune_cache.py"
# Relative to the checkout. bfloat16 and stage 3 without offloading are appendix B's.
DEEPSPEED_CONFIG = "configs/ds_configs/stage3_no_offloading_accelerate.conf"
# What accelerate fills in for `"gradient_clipping": "auto"` of that file.
AUTO_CLIP = 1.0


@dataclass(frozen=True)
class Places:
    """Where one run finds and leaves its files; every path is absolute.

    Attributes:
        checkout: clone of open-instruct; the working directory.
        python: interpreter of open-instruct's environment.
        init: Hugging Face folder to start from.
        data: JSON lines of ``{"chosen", "rejected"}``.
        scratch: folder of this run alone; what it needs to go on after it was killed lies here.
            Removed at the end.
        mask: mask file, or None to train every weight.
        nodes: machines that train together, all of which see the same files.
    """

    checkout: Path
    python: Path
    init: Path
    data: Path
    scratch: Path
    mask: Path | None = None
    nodes: int = 1

    @property
    def package(self) -> Path:
        """Return the folder that the launcher is imported from: a link to this package, no more.

        The folder that it is installed in may hold another torch than open-instruct's environment.
        """
        return self.scratch / PACKAGE

    @property
    def output(self) -> Path:
        """Return the folder in which the script makes one of its own."""
        return self.scratch / "output"

    @property
    def records(self) -> Path:
        """Return the folder of what the launcher writes down."""
        return self.scratch / "records"

    def deepspeed_config(self, recipe: "OpenInstructRecipe") -> Path:
        """Return DeepSpeed's configuration: the checkout's, or one of ours with another clip."""
        if recipe.clip == AUTO_CLIP:
            return Path(DEEPSPEED_CONFIG)
        return self.scratch / "deepspeed.json"


def _flags(**values: object) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def accelerate_arguments(recipe: "OpenInstructRecipe", places: Places) -> list[str]:
    """Return what ``accelerate launch`` is told, beside how many processes there are and where."""
    return [
        *_flags(mixed_precision="bf16"),
        "--use_deepspeed",
        *_flags(
            deepspeed_config_file=places.deepspeed_config(recipe),
            deepspeed_multinode_launcher="standard",
        ),
    ]


def expected_engine(recipe: "OpenInstructRecipe") -> dict[str, Any]:
    """Return what the launcher demands of DeepSpeed's engine, so that no default slips in."""
    return {
        "zero_stage": 3,
        "bf16": True,
        "clip": recipe.clip or 0.0,
        "accumulate": recipe.accumulate,
        "processes": recipe.processes,
    }


def launcher_arguments(recipe: "OpenInstructRecipe", places: Places) -> list[str]:
    """Return what our launcher is told, in front of the script."""
    masked = [] if places.mask is None else _flags(mask=places.mask, mask_at=recipe.mask_at)
    engine = json.dumps(expected_engine(recipe), separators=(",", ":"))
    return [*masked, *_flags(records=places.records, engine=engine)]


def saving_arguments(recipe: "OpenInstructRecipe") -> list[str]:
    """Return what makes the script save what it can go on from; the newest save is kept."""
    if not recipe.save_every:
        return []
    return _flags(checkpointing_steps=recipe.save_every, keep_last_n_checkpoints=1)


def tracking_arguments(wandb: Mapping[str, str]) -> list[str]:
    """Return what turns Weights & Biases on, nothing where it is disabled.

    Losses are recorded without it. Offline, the script would still ask the server for its teams if
    no entity was given; ``wandb sync --entity`` names the real one.
    """
    if wandb["mode"] == "disabled":
        return []
    entity = _flags(wandb_entity="offline") if wandb["mode"] == "offline" else []
    project = _flags(report_to="wandb", wandb_project_name=wandb["project"])
    return ["--with_tracking", *project, *entity]


def script_arguments(row: "Row[OpenInstructRecipe]", places: Places) -> list[str]:
    """Return what the training script is told."""
    recipe = row.recipe
    return [
        # Model and data are local: a hub's `revision` says nothing about them.
        *_flags(exp_name=row.run, model_name_or_path=places.init, model_revision="main"),
        *_flags(tokenizer_name_or_path=places.init, tokenizer_revision="main"),
        # Without effect at this commit; the authors of the recipe pass it.
        "--use_slow_tokenizer",
        # A name that the script does not know makes it take the tokenizer's own template.
        *([] if recipe.chat_template == "tulu" else _flags(chat_template_name="own")),
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
        *saving_arguments(recipe),
        *tracking_arguments(row.wandb),
        *_flags(logging_steps=1, seed=row.seed, output_dir=places.output),
        # Of this run alone: the cache knows a file by name and length, not by content.
        *_flags(dataset_local_cache_dir=places.scratch / "tokenized"),
        # Seconds that processes wait for the one that tokenizes; the recipe's 1,800 can be short.
        *_flags(timeout=7200),
        # All three are on by default and reach for accounts of the script's authors.
        *_flags(
            push_to_hub=False,
            try_launch_beaker_eval_jobs=False,
            try_auto_save_to_beaker=False,
        ),
    ]


def command(row: "Row[OpenInstructRecipe]", places: Places) -> list[str]:
    """Return the whole command line, to be run in the checkout.

    Raises:
        ValueError: the nodes cannot have the same number of processes each.
    """
    each = processes_per_node(row.run, row.recipe.processes, places.nodes)
    words = [
        *accelerate_arguments(row.recipe, places),
        *("--module", LAUNCHER),
        *launcher_arguments(row.recipe, places),
        SCRIPT,
        *script_arguments(row, places),
    ]
    return launched(places.nodes, "accelerate", each, places.python, words)


def environment(row: "Row[OpenInstructRecipe]", places: Places) -> dict[str, str]:
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


def deepspeed_config(template: Mapping[str, Any], clip: float | None) -> dict[str, Any]:
    """Return DeepSpeed's configuration with a clip of our own; 0 is DeepSpeed's word for none.

    >>> deepspeed_config({"gradient_clipping": "auto", "steps_per_print": 9}, None)
    {'gradient_clipping': 0.0, 'steps_per_print': 9}
    """
    return {**template, "gradient_clipping": clip or 0.0}
