"""Training only a subnetwork: the gradient of every frozen weight is 0 right before the update."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer


class MaskLike(Protocol):
    """What is needed of :class:`rlsubnet.checkpoints.masks.Mask`."""

    def read(self, name: str) -> np.ndarray:
        """Return the mask of one parameter, bool, True inside the subnetwork."""

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]], owner: str) -> None:
        """Raise ValueError unless the mask covers exactly these parameters."""


class GradientMask:
    """The mask of one optimizer.

    Attributes:
        frozen: bool tensor by parameter name, True where a weight must not move.
        updates: number of optimizer steps in which the gradient was masked right before the update.
    """

    def __init__(self, parameters: Mapping[str, Tensor], frozen: dict[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self.frozen = frozen
        self.updates = 0

    @torch.no_grad()
    def apply(self) -> None:
        """Set the gradients of the frozen weights to 0."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                # Filled, not multiplied: nan * 0 and inf * 0 are nan, and -1 * 0 is -0.
                parameter.grad.masked_fill_(self.frozen[name], 0.0)

    def before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Mask the gradient; the hook of ``Optimizer.register_step_pre_hook``."""
        self.apply()
        self.updates += 1

    def check_updates(self, steps: int) -> None:
        """Check that the gradient was masked in each of ``steps`` updates.

        Raises:
            ValueError: it was not, so that frozen weights may have moved.
        """
        if self.updates != steps:
            raise ValueError(
                f"the mask was applied in {self.updates} of {steps} updates; "
                "the result is not a masked run"
            )


def attach_mask(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], mask: MaskLike
) -> GradientMask:
    """Mask the gradient in front of each of the optimizer's updates, and return the mask.

    The hook runs after clipping, right before the update, whatever trainer drives the optimizer.
    For ``mask_at: pre_clip`` the trainer calls :meth:`GradientMask.apply` before it clips as well.
    AdamW's moments of a frozen weight stay 0 and its update is exactly 0: the weight keeps its
    bits.

    Args:
        optimizer: what updates ``parameters``, from zero moments.
        parameters: every parameter of the optimizer, under the name it has in the checkpoint.
        mask: True inside the subnetwork.

    Raises:
        ValueError: names or shapes of the mask and the parameters differ (with the full list), the
            optimizer has a weight decay, which moves frozen weights, it updates other parameters,
            or the mask is empty.
    """
    for group in optimizer.param_groups:
        if group.get("weight_decay"):
            raise ValueError(
                f"weight_decay {group['weight_decay']} moves frozen weights: "
                "expected 0 in a run with a mask"
            )
    updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if updated != {id(parameter) for parameter in parameters.values()}:
        raise ValueError("the optimizer updates other parameters than the mask is attached to")
    mask.check_shapes({n: tuple(p.shape) for n, p in parameters.items()}, "the model")
    frozen = {
        name: torch.from_numpy(~mask.read(name)).to(parameter.device)
        for name, parameter in parameters.items()
    }
    if all(bool(tensor.all()) for tensor in frozen.values()):
        raise ValueError("the mask is empty: no weight may move")
    gradient_mask = GradientMask(parameters, frozen)
    optimizer.register_step_pre_hook(gradient_mask.before_update)
    return gradient_mask
