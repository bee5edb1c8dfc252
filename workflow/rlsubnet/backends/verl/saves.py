"""A run's saves: when one is due, and which are whole.

A save is a folder of verl's. One that can be resumed from holds all that the next step depends on,
others the policy's weights alone. It counts once it has a marker, written last, and once the log
has its step: verl logs a step after saving it.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsubnet.backends.processes import (
    is_marked,
    read_marker,
    read_steps,
    rotary_faults,
    run_checked,
)
from rlsubnet.checkpoints.pair import export_trained
from rlsubnet.checkpoints.sources import read_config
from rlsubnet.files import replacing
from rlsubnet.training.runlog import ONLINE_METRICS, metrics_row

if TYPE_CHECKING:
    from rlsubnet.config.model import VerlRecipe

_FOLDER = "global_step_"


class Save(NamedTuple):
    """A save that was finished."""

    folder: Path
    step: int  # counted from 1
    resumable: bool  # whether a run can go on from it
    last: bool  # whether it is of the run's last step

    @property
    def actor(self) -> Path:
        """Return where the policy's files lie."""
        return self.folder / "actor"


def save_folder(saves: Path, step: int) -> Path:
    return saves / f"{_FOLDER}{step}"


def due(step: int, every: int) -> bool:
    """Return whether something is saved after a step; with ``every`` 0 nothing is.

    >>> [step for step in range(1, 9) if due(step, 3)], due(3, 0)
    ([3, 6], False)
    """
    return every > 0 and step % every == 0


def finished_saves(saves: Path, logged: int) -> list[Save]:
    """Return the saves that are whole, in the order of their steps."""
    found = []
    for folder in filter(is_marked, saves.glob(f"{_FOLDER}*")):
        told, step = read_marker(folder), int(folder.name.removeprefix(_FOLDER))
        if step <= logged:
            found.append(Save(folder, step, told["resumable"], told["last"]))
    return sorted(found, key=lambda save: save.step)


def step_metrics(step: int, logged: Mapping[str, float], recipe: "VerlRecipe") -> dict[str, Any]:
    """Return the row of the metrics of one step: one batch of responses.

    The loss is ``surrogate + kl_coef * kl - entropy_coef * entropy``, what is minimized; it and the
    norms are means over the step's updates. The share of right responses and their length are
    means over all responses drawn; for PRIME, which learns from a part of them, its trainer logs
    both. ``rlsubnet/...`` are this project's own: verl divides its own loss by the number of
    micro-batches twice.

    >>> from types import SimpleNamespace
    >>> logged = {"rlsubnet/surrogate": -0.25, "actor/entropy": 0.5, "critic/score/mean": 0.75,
    ...           "response_length/mean": 7.5, "actor/lr": 5e-07, "actor/grad_norm": 2.0}
    >>> recipe = SimpleNamespace(kl_coef=0.0, entropy_coef=0.001, batch_size=2, samples=4)
    >>> row = step_metrics(1, logged, recipe)
    >>> row["loss"], row["reward"], row["kl"], row["tokens"], row["response_length"]
    (-0.2505, 0.75, '', 60, 7.5)
    """
    if "rlsubnet/surrogate" not in logged:
        raise ValueError(f"verl logged no loss of step {step}")
    kl = logged.get("rlsubnet/kl")
    loss = logged["rlsubnet/surrogate"] + recipe.kl_coef * (kl or 0.0)
    loss -= recipe.entropy_coef * logged.get("actor/entropy", 0.0)
    length = logged.get("response_length/mean")
    return metrics_row(
        ONLINE_METRICS,
        step=step,
        loss=loss,
        kl=kl,
        reward=logged.get("prime/reward", logged.get("critic/score/mean")),
        response_length=logged.get("prime/response_length", length),
        tokens=None if length is None else round(length * recipe.batch_size * recipe.samples),
        grad_norm=logged.get("actor/grad_norm"),
        grad_norm_masked=logged.get("rlsubnet/grad_norm_masked"),
        lr=logged.get("actor/lr"),
        entropy=logged.get("actor/entropy"),
    )


def logged_steps(log: Path) -> int:
    """Return the number of steps in the log; a line that was cut off is none."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def read_metrics(log: Path, recipe: "VerlRecipe") -> list[dict[str, Any]]:
    """Return the metrics of a whole run from what verl's logger ``file`` wrote of each step."""
    lines = read_steps(log, recipe.steps)
    return [step_metrics(line["step"], line["data"], recipe) for line in lines]


def check_rotary(init: Path) -> None:
    """Check that verl, with transformers 4, would not take other rotary embeddings, in silence."""
    if faults := list(rotary_faults(read_config(init))):
        raise ValueError(f"{init}: verl cannot train this checkpoint: {'; '.join(faults)}")


def merge_step(
    actor: Path, init: Path, out: Path, python: Path, variables: Mapping[str, str]
) -> None:
    """Write one saved step as a Hugging Face folder: weights in bfloat16, all else from ``init``.

    ``verl.model_merger`` joins the processes' shards and rounds their float32 masters. What it
    writes must be a whole model like ``init``, with finite weights.
    """
    merger = (str(python), "-m", "verl.model_merger", "merge", "--backend", "fsdp")
    with replacing(out) as folder, TemporaryDirectory(dir=actor.parent) as merged:
        words = [*merger, "--local_dir", str(actor), "--target_dir", merged]
        run_checked(words, f"{actor}: verl.model_merger", variables)
        folder.mkdir()
        export_trained(init, Path(merged), folder)
