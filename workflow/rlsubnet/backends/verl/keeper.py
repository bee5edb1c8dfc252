"""Making room while verl trains: a save becomes a delta as soon as it is finished."""

import shutil
from collections.abc import Callable
from pathlib import Path

from rlsubnet.backends.verl.checkpoints import actor_folder, finished_steps
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.saved_steps import step_file

# Writes a save's actor folder as a Hugging Face folder.
Merge = Callable[[Path, Path], None]


class Keeper:
    """Merges, packs and deletes what verl saves, while it trains: the disk holds one save or two.

    At 7.6e9 weights a save is 30 GB, a merged model 15 GB and a delta about 1.5 GB.

    Args:
        init: what the run started from.
        saves: folder that verl saves into.
        steps: folder of the deltas, or None where only the last step is wanted.
        merge: writes one save as a model folder.
    """

    def __init__(self, init: StoredWeights, saves: Path, steps: Path | None, merge: Merge) -> None:
        self._init, self._saves, self._steps, self._merge = init, saves, steps, merge

    def keep_finished(self) -> None:
        """Turn every finished save but the newest into a delta."""
        for step in finished_steps(self._saves)[:-1]:
            merged = self._saves.parent / "merged"
            self._keep(step, merged)
            shutil.rmtree(merged)

    def finish(self, out: Path) -> int:
        """Merge the last save into ``out`` and return its step.

        Raises:
            ValueError: verl saved nothing.
        """
        self.keep_finished()
        steps = finished_steps(self._saves)
        if not steps:
            raise ValueError(f"{self._saves}: verl ended well and saved no step")
        self._keep(steps[-1], out)
        return steps[-1]

    def _keep(self, step: int, merged: Path) -> None:
        self._merge(actor_folder(self._saves, step), merged)
        if self._steps is not None:
            pack(self._init, StoredWeights(merged), self._steps / step_file(step))
        shutil.rmtree(self._saves / f"global_step_{step}")
