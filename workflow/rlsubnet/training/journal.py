"""What a run keeps while it is under way: its metrics, the models of its steps, and its state."""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import PatchedCheckpoint, step_file
from rlsubnet.checkpoints.delta_pack import write_delta
from rlsubnet.config.model import Recipe, Row
from rlsubnet.files import replacing
from rlsubnet.training.device import ChangedWeights, read
from rlsubnet.training.optimizer import check_norm
from rlsubnet.training.runlog import Progress, metrics_row

STATE = "state.pt"


def load_state(folder: Path, belongs_to: Mapping[str, Any]) -> dict[str, Any] | None:
    file = folder / STATE
    if not file.exists():
        return None
    try:
        # To the CPU: a copy on the device would double what the optimizer holds there.
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        saved = state["belongs_to"]
    except Exception as error:  # torch.load has no error of its own for a damaged file
        # Cut short, it makes torch look for the end of the archive before the file's beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"{file}: damaged, or not a saved state; delete {folder} to start from the beginning"
        ) from error
    check_same_run(file, saved, belongs_to, folder)
    return state


def check_same_run(
    file: Path, saved: Mapping[str, Any], belongs_to: Mapping[str, Any], folder: Path
) -> None:
    before, now = dict(_values(saved)), dict(_values(belongs_to))
    differing = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"{file}: saved by another run: {'; '.join(differing)}; "
            f"delete {folder} to start from the beginning"
        )


def _values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with the names on its way.

    >>> dict(_values({"seed": 1, "recipe": {"lr": 0.5}}))
    {'seed': 1, 'recipe.lr': 0.5}
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class StepSaver:
    """Saves the model whenever ``checkpoint_every`` divides the number of steps done.

    While the run is under way the files lie beside its saved state, not where they are wanted: a
    workflow deletes the declared outputs of a killed job before it starts it again.

    Raises:
        ValueError: the tensors of init are not those of the model, or not bfloat16.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, init: Checkpoint, model: PreTrainedModel
    ) -> None:
        self._folder, self._init = folder, init
        self._parameters = dict(model.named_parameters())
        self._due = range(recipe.checkpoint_every, recipe.steps + 1, recipe.checkpoint_every)
        expected = {name: f"BF16 {list(p.shape)}" for name, p in self._parameters.items()}
        found = {name: f"{info.dtype} {list(info.shape)}" for name, info in init.tensors.items()}
        for name in sorted(expected | found):
            if (wanted := expected.get(name, "none")) != (given := found.get(name, "none")):
                raise ValueError(
                    f"{init.path}: tensor {name}: saved steps are changes of what the run starts "
                    f"from: expected {wanted}, found {given}"
                )

    def start(self, done: int) -> None:
        """Keep the files of the ``done`` steps that are not done again, and no others."""
        kept = {step_file(step) for step in self._due if step <= done}
        found = {path.name for path in self._folder.glob("*")}
        for name in found - kept:  # of steps after the saved state, or of a run that was given up
            (self._folder / name).unlink()
        if missing := sorted(kept - found):
            raise ValueError(
                f"{self._folder}: the saved state is of step {done}, but saved steps are missing: "
                f"{', '.join(missing)}; delete {self._folder.parent} to start from the beginning"
            )

    def is_due(self, step: int) -> bool:
        return step in self._due

    def save(self, step: int) -> None:
        write_delta(self._folder / step_file(step), self._init, self._stored_bits)

    def _stored_bits(self, name: str) -> np.ndarray:
        """Return a weight as a saved model stores it: the codes of bfloat16 numbers."""
        weight = self._parameters[name].detach().to("cpu", torch.bfloat16).contiguous()
        bits: np.ndarray = weight.view(torch.int16).numpy().view(np.uint16)
        return bits

    def check_final(self, final: Checkpoint) -> None:
        last = self._folder / step_file(self._due[-1])
        if PatchedCheckpoint(self._init, last).digest() != final.digest():
            raise ValueError(f"{last}: expected the weights of the final model, found others")


def save_is_due(recipe: Recipe, step: int) -> bool:
    """Return whether the state after ``step`` is saved.

    Not after the last step: the run is then complete. Nor where the next step goes on learning from
    responses that were drawn before: they are not part of the state.

    >>> recipe = Recipe(steps=40, batch_size=8, lr=1.0, updates=4, save_every=10)
    >>> [step for step in range(1, 41) if save_is_due(recipe, step)]
    [12, 20, 32]
    """
    every, updates = recipe.save_every, recipe.updates
    if not every or step >= recipe.steps:
        return False
    return step % updates == 0 and step // every > (step - updates) // every


@contextmanager
def errors_of(run: str, step: int) -> Iterator[None]:
    """Let a ValueError name the run and the step that it is raised in."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"run {run}, step {step}: {error}") from error


@dataclass
class Journal:
    """Takes note of every step of a run, from the beginning or from its saved state on.

    Attributes:
        resume: folder of the saved state.
        belongs_to: what the run follows from (row, digests of inputs, machine); the run that
            resumes must have the same.
        log: takes every row of the metrics, resumed ones too.
        every: steps whose metrics are read from the device together.
        changed: counts what differs from the start, where the recipe asks for counts.
        done: steps done before this process; they are not done again.
    """

    row: Row
    resume: Path
    belongs_to: Mapping[str, Any]
    log: Callable[[Mapping[str, Any]], None]
    saver: StepSaver | None
    columns: Sequence[str]
    every: int
    changed: ChangedWeights | None

    def __post_init__(self) -> None:
        saved = load_state(self.resume, self.belongs_to)
        self.state: dict[str, Any] | None = saved and saved["optimizer"]
        self.done: int = saved["step"] if saved else 0
        self.rows: list[dict[str, Any]] = saved["rows"] if saved else []
        self._unread: list[dict[str, Any]] = []

    def start(self) -> None:
        """Log the steps that are not done again, and start the clock."""
        if self.saver:
            self.saver.start(self.done)
        for metrics in self.rows:
            self.log(metrics)
        self._progress = Progress(self.row.run, self.row.recipe.steps, self.done)

    def note(self, metrics: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        """Take note of a finished step; its model and the state after it are saved where due."""
        step, recipe = metrics["step"], self.row.recipe
        if self.changed and (step % recipe.sparsity_every == 0 or step == recipe.steps):
            metrics = {**metrics, "sparsity": self.changed.sparsity()}
        self._unread.append(metrics)
        saver = self.saver if self.saver and self.saver.is_due(step) else None
        if len(self._unread) >= self.every or step == recipe.steps or saver:
            self.read()
        if saver:
            saver.save(step)
        if save_is_due(recipe, step):
            self.read()  # a state after a gradient that was not finite is not worth saving
            self._save(step, state())

    def read(self) -> None:
        """Read the metrics of all steps noted since, log them and report progress."""
        unread, self._unread = read(self._unread), []
        for values in unread:
            with errors_of(self.row.run, values["step"]):
                check_norm(values["grad_norm"])
            metrics = metrics_row(self.columns, **values)
            self.rows.append(metrics)
            self.log(metrics)
            self._progress.report(metrics)

    def _save(self, step: int, optimizer: dict[str, Any]) -> None:
        belongs_to = dict(self.belongs_to)
        state = {"belongs_to": belongs_to, "step": step, "optimizer": optimizer, "rows": self.rows}
        with replacing(self.resume / STATE) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch says so of a full disk, in words of its own
                first, free = str(error).partition("\n")[0], shutil.disk_usage(self.resume).free
                raise OSError(
                    f"{self.resume / STATE}: cannot be written, {free:,} bytes are free: {first}"
                ) from error
