"""The sparsity of the update while a run is under way."""

import torch
from torch import Tensor
from torch.nn import Module

from rlsubnet.measure.device import count_changed
from rlsubnet.training.readings import Reading


class ChangedWeights:
    """Counts how many weights differ from where a run started, where the weights are.

    Keeps the start, 2 bytes a weight; a count reads both models once.

    Args:
        model: with the weights it starts from; they hold bfloat16 values.
    """

    def __init__(self, model: Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._start = {
            name: parameter.detach().to(torch.bfloat16, copy=True)
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def sparsity(self) -> Reading:
        """Return the share of weights that are as they were, by the tables' rule and tolerance."""
        now: dict[str, Tensor] = dict(self._parameters)
        return Reading((count_changed(self._start, now).sparsity(),))
