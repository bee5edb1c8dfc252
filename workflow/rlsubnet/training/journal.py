"""What a run leaves behind while it is under way: metrics, progress, saved models, its state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlsubnet.config.model import Row
from rlsubnet.training.optimizer import check_norm
from rlsubnet.training.progress import Progress
from rlsubnet.training.readings import read
from rlsubnet.training.resume import load_state, save_state
from rlsubnet.training.runlog import METRICS, metrics_row
from rlsubnet.training.steps import StepSaver


@contextmanager
def errors_of(run: str, step: int) -> Iterator[None]:
    """Let a ValueError name the run and the step that it is raised in."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"run {run}, step {step}: {error}") from error


class Journal:
    """Takes note of every step of a run, from the beginning or from its saved state on.

    Args:
        row: the run.
        resume: folder of the saved state.
        belongs_to: what the state must belong to, see :mod:`rlsubnet.training.resume`.
        log: takes every row of the metrics, resumed ones too.
        saver: saves models along the run, or None.
        columns: of the metrics.
        every: steps whose metrics are read from the device together.

    Attributes:
        rows: the metrics of all steps done and read.
        done: steps done before this process; they are not done again.
        state: what the optimizer continues from, or None.

    Raises:
        ValueError: the saved state is another run's, or damaged.
    """

    def __init__(
        self,
        row: Row,
        resume: Path,
        belongs_to: Mapping[str, Any],
        log: Callable[[Mapping[str, Any]], None],
        saver: StepSaver | None = None,
        columns: Sequence[str] = METRICS,
        every: int = 1,
    ) -> None:
        self._row, self._resume, self._belongs_to = row, resume, belongs_to
        self._log, self._saver = log, saver
        self._columns, self._every = columns, every
        self._unread: list[dict[str, Any]] = []
        saved = load_state(resume, belongs_to)
        self.state: dict[str, Any] | None = saved and saved["optimizer"]
        self.done: int = saved["step"] if saved else 0
        self.rows: list[dict[str, Any]] = saved["rows"] if saved else []

    def start(self) -> None:
        """Log the steps that are not done again, and start the clock.

        Raises:
            ValueError: a model that was saved at one of these steps is missing.
        """
        if self._saver is not None:
            self._saver.start(self.done)
        for metrics in self.rows:
            self._log(metrics)
        self._progress = Progress(self._row.run, self._row.recipe.steps, self.done)

    def note(self, metrics: dict[str, Any]) -> None:
        """Take note of a finished step; its model is saved where that is due.

        Args:
            metrics: of the step, numbers or :class:`rlsubnet.training.readings.Reading`.

        Raises:
            ValueError: a gradient of a step that is read now was not finite; names the step.
        """
        self._unread.append(metrics)
        step = metrics["step"]
        saves = self._saver is not None and self._saver.is_due(step)
        if len(self._unread) >= self._every or step == self._row.recipe.steps or saves:
            self.read()
        if self._saver is not None:
            self._saver.save(step)

    def read(self) -> None:
        """Read the metrics of all steps noted since, log them and report progress.

        Raises:
            ValueError: see :meth:`note`.
        """
        unread, self._unread = read(self._unread), []
        for values in unread:
            with errors_of(self._row.run, values["step"]):
                check_norm(values["grad_norm"])
            metrics = metrics_row(self._columns, **values)
            self.rows.append(metrics)
            self._log(metrics)
            self._progress.report(metrics)

    def save(self, state: dict[str, Any]) -> None:
        """Save what the optimizer continues from after the last step noted."""
        self.read()  # a state after a gradient that was not finite is not worth saving
        save_state(self._resume, self._belongs_to, self.rows[-1]["step"], state, self.rows)
