"""One run by open-instruct: what is checked, started, gone on from and collected."""

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.open_instruct.command import (
    AUTO_CLIP,
    DEEPSPEED_CONFIG,
    SCRIPT,
    Places,
    command,
    deepspeed_config,
    environment,
)
from rlsubnet.backends.open_instruct.launcher import REPORT, STEPS
from rlsubnet.backends.open_instruct.saving import SCRIPT_MARKER, complete_saves
from rlsubnet.backends.processes import find_python, link_package, read_marker, remove, started
from rlsubnet.backends.trainers import check_start, take_up
from rlsubnet.checkpoints.pair import export_trained
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import OpenInstructRecipe, Row
from rlsubnet.files import iterate_jsonl, read_jsonl, read_object, write_json
from rlsubnet.tasks.rows import check_messages
from rlsubnet.training.runlog import METRICS, metrics_row


def output_folder(row: Row[OpenInstructRecipe], places: Places) -> Path:
    """Return the folder that the script writes saves and weights to, as the launcher names it."""
    return places.output / f"{row.run}__{row.seed}"


def _leave_only(kept: Path) -> None:
    """Remove what lies beside a file or folder."""
    for path in list(kept.parent.iterdir()):
        if path != kept:
            remove(path)


def find_checkout(option: str) -> Path:
    """Return the absolute folder of open-instruct: the option, else ``$OPEN_INSTRUCT_DIR``.

    Raises:
        ValueError: neither is set, or there is no training script.
    """
    named = Path(option or os.environ.get("OPEN_INSTRUCT_DIR", ""))
    if named == Path():
        raise ValueError(
            "no checkout of open-instruct: set backends.open_instruct.checkout in the config, "
            "or the environment variable OPEN_INSTRUCT_DIR"
        )
    if not (named / SCRIPT).is_file():
        raise ValueError(f"{named}: not a checkout of open-instruct, there is no {SCRIPT}")
    return named.resolve()


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{checkout}: git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def check_checkout(checkout: Path, commit: str) -> None:
    """Check that a checkout is at a commit and its code is unmodified.

    Raises:
        ValueError: it is not; says how to get there.
    """
    if (found := _git(checkout, "rev-parse", "HEAD")) != commit:
        raise ValueError(
            f"{checkout}: expected commit {commit}, found {found}; run git checkout {commit} "
            "there, or name another one in the recipe's key commit"
        )
    code = ("--", "open_instruct", "configs")
    if changed := _git(checkout, "status", "--porcelain", "--untracked-files=no", *code):
        raise ValueError(f"{checkout}: files differ from commit {commit}: {changed.split()[1::2]}")


def check_pairs(data: Path, batch_size: int) -> None:
    """Check that there is one batch of pairs, so that no GPU waits for nothing.

    Raises:
        ValueError: naming the line of the file, or the number of pairs.
    """
    first = list(itertools.islice(iterate_jsonl(data), batch_size))
    if len(first) < batch_size:
        raise ValueError(f"{data}: {len(first)} pairs, expected a batch of {batch_size}")
    for number, record in enumerate(first, start=1):
        for side in ("chosen", "rejected"):
            check_messages(record.get(side), f"{data}, line {number}, {side}")


class OpenInstruct:
    """Trains one run by open-instruct: see :class:`rlsubnet.backends.trainers.Trainer`.

    Args:
        row: the run.
        files: where it reads and writes.
        checkout: clone of open-instruct, or empty for ``$OPEN_INSTRUCT_DIR``.
        python: interpreter of its environment, or empty for ``$OPEN_INSTRUCT_PYTHON``, else ours.
        nodes: of the Slurm job that this runs in; they share the recipe's processes.
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

    def check(self) -> None:
        """Check checkout, start, mask and the first pairs."""
        places, recipe = self.places, self._row.recipe
        check_checkout(places.checkout, recipe.commit)
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
        self._prepare()
        words, variables = command(row, places), environment(row, places)
        with started(words, places.checkout, variables, [lock]) as process:
            status = process.wait()
        if status:
            raise ValueError(
                f"run {row.run}: open-instruct ended with status {status}; its words are above"
            )
        rows, self._report = read_metrics(places.records)
        return rows

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

    def _prepare(self) -> None:
        places, recipe = self.places, self._row.recipe
        places.records.mkdir(parents=True)
        link_package(places.package)
        if recipe.clip != AUTO_CLIP:
            template = read_object(
                "DeepSpeed's configuration", f"@{places.checkout / DEEPSPEED_CONFIG}"
            )
            write_json(places.deepspeed_config(recipe), deepspeed_config(template, recipe.clip))

    def collect(self, folder: Path) -> dict[str, Any]:
        """Make the folder of the trained weights, with all else from the start."""
        output = output_folder(self._row, self.places)
        if not output.is_dir():
            raise ValueError(f"{output}: open-instruct ended well and wrote no weights there")
        folder.mkdir()
        export_trained(self.places.init, output, folder)
        return {"batch_size": self._row.recipe.batch_size, **self._report}


def read_metrics(records: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of the metrics, and the launcher's report.

    Raises:
        ValueError: a step is missing: the records are not those of a whole run.
    """
    report = read_object("the launcher's report", f"@{records / REPORT}")
    lines = read_jsonl(records / STEPS)
    steps = [line["step"] for line in lines]
    if steps != list(range(1, report["steps"] + 1)):
        raise ValueError(
            f"{records / STEPS}: expected steps 1 to {report['steps']}, found {len(steps)}, "
            f"the last {steps[-1:] or 'none'}"
        )
    return [metrics_row(METRICS, **line) for line in lines], report
