"""The models a run saves along its way, as deltas against its init."""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from rlsubnet.checkpoints.checkpoint import Checkpoint, StoredWeights
from rlsubnet.checkpoints.delta import step_file
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.delta_pack import InitDigests, write_delta
from rlsubnet.config.model import Recipe
from rlsubnet.files import replacing


class StepSaver:
    """Saves the model whenever ``checkpoint_every`` divides the number of steps done.

    While the run is under way the files lie beside its saved state, not where they are wanted: a
    workflow deletes the declared outputs of a killed job before it starts it again.

    Args:
        folder: where the files lie until the run is complete.
        recipe: its ``steps`` and ``checkpoint_every``.
        init: the checkpoint the run starts from.
        model: the model that is trained; its weights hold bfloat16 values.

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
        """Keep the files of the ``done`` steps that are not done again, and no others.

        Raises:
            ValueError: one of them is missing.
        """
        kept = {step_file(step) for step in self._due if step <= done}
        found = set()
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.name in kept:
                found.add(path.name)
            else:  # of steps after the saved state, or of a run that was given up
                path.unlink()
        if missing := sorted(kept - found):
            raise ValueError(
                f"{self._folder}: the saved state is of step {done}, but saved steps are missing: "
                f"{', '.join(missing)}; delete {self._folder.parent} to start from the beginning"
            )

    def is_due(self, step: int) -> bool:
        """Return whether the model is saved after ``step`` steps."""
        return step in self._due

    def save(self, step: int) -> None:
        """Save the model as it is after ``step`` steps, where this is due."""
        if self.is_due(step):
            write_delta(self._folder / step_file(step), self._init, self._stored_bits)

    def _stored_bits(self, name: str) -> np.ndarray:
        """Return a weight as a saved model stores it: the codes of bfloat16 numbers."""
        weight = self._parameters[name].detach().to("cpu", torch.bfloat16).contiguous()
        bits: np.ndarray = weight.view(torch.int16).numpy().view(np.uint16)
        return bits

    def check_final(self, final: Checkpoint) -> None:
        """Check that the last saved step is the final model.

        Raises:
            ValueError: their weights differ.
        """
        last = Delta(self._folder / step_file(self._due[-1]))
        digests = InitDigests(StoredWeights(final.path))
        saved = last.manifest.tensors
        differing = [
            name
            for name in sorted({*saved, *digests.tensors})
            if name not in saved
            or name not in digests.tensors
            or saved[name].sha256 != digests.sha256(name)
        ]
        if differing:
            raise ValueError(
                f"{last.path}: expected the weights of the final model, these tensors differ: "
                f"{', '.join(differing)}"
            )

    def move_to(self, folder: Path) -> None:
        """Move all files of a complete run to ``folder``, which is complete or absent."""
        with replacing(folder) as temporary:
            shutil.move(self._folder, temporary)
