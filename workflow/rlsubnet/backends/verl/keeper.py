"""Making room while verl trains: a save becomes a delta as soon as the next one is finished."""

import shutil
from collections.abc import Callable
from pathlib import Path

from rlsubnet.backends.saves import remove_save
from rlsubnet.backends.verl.metrics import logged_steps
from rlsubnet.backends.verl.saves import Save, due, finished_saves
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.saved_steps import step_file

# Writes a save's actor folder as a Hugging Face folder.
Merge = Callable[[Path, Path], None]


class Keeper:
    """Merges, packs and deletes what verl saves, while it trains.

    The disk holds the newest save, the newest that can be resumed from, and the one under way. At
    7.6e9 weights these are 30 GB each, or 91 (PRIME: 183) where they can be resumed from; a merged
    model is 15 GB and a delta about 1.5 GB.

    Args:
        init: what the run started from.
        saves: folder that verl saves into.
        log: steps that verl has logged.
        steps: folder of the deltas, or None where only the last step is wanted.
        every: steps between two deltas; the last step is one, too.
        merge: writes one save as a model folder.
    """

    def __init__(
        self,
        init: StoredWeights,
        saves: Path,
        log: Path,
        steps: Path | None,
        every: int,
        merge: Merge,
    ) -> None:
        self._init, self._saves, self._log = init, saves, log
        self._steps, self._every, self._merge = steps, every, merge

    def keep_finished(self) -> None:
        """Pack every finished save but the newest; delete those that are no longer needed."""
        finished = self._finished()
        needed = [save for save in finished if save.resumable][-1:]
        for save in finished[:-1]:
            merged = self._saves.parent / "merged"
            if due(save.step, self._every) and self._pack(save, merged):
                shutil.rmtree(merged)
            if save not in needed:
                remove_save(save.folder)

    def finish(self, out: Path) -> int:
        """Merge the last save into ``out`` and return its step; the save stays.

        Raises:
            ValueError: verl did not save the last step, or a delta is missing.
        """
        self.keep_finished()
        finished = self._finished()
        if not (finished and finished[-1].last):
            raise ValueError(f"{self._saves}: verl ended well and did not save its last step")
        if not self._pack(finished[-1], out):
            self._merge(actor_folder(finished[-1]), out)
        self._check_steps(finished[-1].step)
        return finished[-1].step

    def _check_steps(self, last: int) -> None:
        if self._steps is None:
            return
        expected = [step for step in range(1, last + 1) if due(step, self._every) or step == last]
        names = map(step_file, expected)
        if missing := [name for name in names if not (self._steps / name).exists()]:
            raise ValueError(
                f"{self._steps}: saved steps are missing: {', '.join(missing)}; "
                f"delete {self._saves.parent} to start from the beginning"
            )

    def _finished(self) -> list[Save]:
        return finished_saves(self._saves, logged_steps(self._log))

    def _pack(self, save: Save, merged: Path) -> bool:
        """Merge a save and write its delta; return whether that was still to be done."""
        if self._steps is None or (self._steps / step_file(save.step)).exists():
            return False
        self._merge(actor_folder(save), merged)
        pack(self._init, StoredWeights(merged), self._steps / step_file(save.step))
        return True


def actor_folder(save: Save) -> Path:
    """Return where the policy's files of a save lie."""
    return save.folder / "actor"
