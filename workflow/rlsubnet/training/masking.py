"""Training only a subnetwork: the gradient of every frozen weight is 0 right before the update.

What an optimizer updates differs from engine to engine: whole parameters, parts of them, or flat
tensors of many. A :class:`Layout` says which weight lies where; the rest is the same for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from rlsubnet.checkpoints.masks import Mask, Shape

MASK_AT = ("post_clip", "pre_clip")
# AdamW multiplies a weight with 1 - lr * weight_decay, which is 1 in float32 up to here.
LARGEST_DECAY = 2.0**-25


class WeightRange(NamedTuple):
    """A run of neighbouring weights of one parameter inside a tensor that an optimizer updates.

    Attributes:
        name: the parameter, as the checkpoint calls it.
        start: first weight of the run, counted in the flattened parameter.
        numel: number of weights.
        offset: where the run begins in the flattened tensor.
    """

    name: str
    start: int
    numel: int
    offset: int


class Held(NamedTuple):
    """A tensor that this process's optimizer updates; what no piece covers is padding.

    ``pieces`` may be a generator: a matrix cut along its columns has a piece for each row.
    """

    tensor: Tensor
    pieces: Iterable[WeightRange]


@dataclass(frozen=True)
class Layout:
    """Which weights this process's optimizer updates, and where they lie.

    Attributes:
        shapes: every parameter of the model, also what other processes hold; the same on each.
        held: what ``optimizer`` updates in this process.
    """

    optimizer: Optimizer
    shapes: Mapping[str, Shape]
    held: Sequence[Held]


def clip_factor(norm: float, clip: float | None) -> float:
    """Return what a gradient of this norm was multiplied with to clip it, as torch does.

    >>> clip_factor(4.0, 1.0), clip_factor(0.5, 1.0), clip_factor(4.0, None)
    (0.24999993750001562, 1.0, 1.0)
    """
    return min(1.0, clip / (norm + 1e-6)) if clip else 1.0


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a DTensor, sharing its memory; other tensors are whole."""
    # Asked for by attribute: importing DTensor costs a second that most runs need not spend.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(name: str, tensor: Tensor) -> Held:
    return Held(tensor, (WeightRange(name, 0, tensor.numel(), 0),))


@dataclass
class _Masked:
    """A tensor, its flat mask (True where a weight must not move) and how often it was masked."""

    tensor: Tensor
    frozen: Tensor
    updates: int = field(default=0)

    @torch.no_grad()
    def fill(self) -> bool:
        """Set the gradient of the frozen weights to 0; return whether there is a gradient."""
        if self.tensor.grad is None:
            return False
        gradient = local_part(self.tensor.grad)
        if self.frozen.device != gradient.device:  # offloaded since
            self.frozen = self.frozen.to(gradient.device)
        # Filled, not multiplied: nan * 0 and inf * 0 are nan, and -1 * 0 is -0.
        gradient.masked_fill_(self.frozen.view(gradient.shape), 0.0)
        return True


class GradientMask:
    """The mask of one optimizer; made by :func:`attach_layout`.

    Attributes:
        before_clip: how often the gradient was masked before clipping.
    """

    def __init__(self, masked: Iterable[_Masked], mask_at: str) -> None:
        self._masked = {id(one.tensor): one for one in masked}
        self.mask_at = mask_at
        self.before_clip = 0

    @property
    def updates(self) -> int:
        """Return the number of updates in which every gradient was masked right before."""
        return min((one.updates for one in self._masked.values()), default=0)

    def apply(self) -> None:
        """Set the gradients of the frozen weights to 0; before the clip, the trainer calls it.

        Raises:
            ValueError: there is no gradient: nothing was backpropagated, or the engine keeps its
                gradients elsewhere (DeepSpeed).
        """
        filled = [one.fill() for one in self._masked.values()]
        if not any(filled):
            raise ValueError("the mask found no gradient: it must be applied after backward")
        self.before_clip += 1

    def before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Mask the gradient; the hook of ``Optimizer.register_step_pre_hook``.

        An engine may update its tensors one after the other, each with a call of its own.
        """
        check_decay(optimizer)
        if self.mask_at == "pre_clip" and not self.before_clip:
            raise ValueError(
                "mask_at pre_clip: the gradient was not masked before it was clipped; "
                "the trainer must call apply() before it clips"
            )
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                if id(tensor) in self._masked:
                    self._masked[id(tensor)].fill()
                    self._masked[id(tensor)].updates += 1
                elif tensor.requires_grad:
                    raise ValueError("the optimizer updates a tensor that came after the mask")
        most = max((one.updates for one in self._masked.values()), default=0)
        if most > self.updates + 1:
            self.check_updates(most - 1)

    def check_updates(self, steps: int) -> None:
        """Check that the gradient was masked in each of ``steps`` updates."""
        counts = {one.updates for one in self._masked.values()}
        if self._masked and counts != {steps}:
            found = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
            raise ValueError(
                f"the mask was applied in {found} of {steps} updates; "
                "the result is not a masked run"
            )
        if self.mask_at == "pre_clip" and self.before_clip < steps:
            raise ValueError(
                f"mask_at pre_clip: the mask was applied before {self.before_clip} of {steps} clips"
            )


def check_decay(optimizer: Optimizer) -> None:
    """Check that the optimizer's weight decay moves no weight whose gradient is 0.

    AdamW's decay is allowed as long as it is lost in rounding to float32, which the largest of the
    learning rate and a schedule's peak decides. Other optimizers add it to the gradient.
    """
    for group in optimizer.param_groups:
        decay = float(group.get("weight_decay") or 0)
        lr = max(float(group["lr"]), float(group.get("initial_lr", 0)))
        decoupled = isinstance(optimizer, torch.optim.AdamW)
        if decay and not (decoupled and lr * decay <= LARGEST_DECAY):
            raise ValueError(
                f"weight_decay {decay} moves frozen weights at learning rate {lr}: expected 0 in "
                "a run with a mask, or AdamW with lr * weight_decay of at most 2^-25"
            )


def _frozen(held: Held, mask: Mask) -> Tensor:
    """Return the flat mask of one tensor, True where it must not move; reads only that part."""
    local = local_part(held.tensor)
    frozen = np.ones(local.numel(), np.bool_)
    for name, start, numel, offset in held.pieces:
        if offset + numel > frozen.size:
            raise ValueError(
                f"{name}: its weights {start} to {start + numel} lie beyond the {frozen.size} "
                "that the optimizer updates here"
            )
        np.logical_not(mask.read_range(name, start, numel), out=frozen[offset : offset + numel])
    return torch.from_numpy(frozen).to(local.device)


def attach_layout(layout: Layout, mask: Mask, mask_at: str = "post_clip") -> GradientMask:
    """Mask the gradient in front of each of the optimizer's updates, and return the mask.

    The hook runs after clipping, right before the update, whatever trainer drives the optimizer.
    For ``mask_at: pre_clip`` the trainer calls :meth:`GradientMask.apply` before it clips as well.
    AdamW's moments of a frozen weight stay 0 and its update is exactly 0: the weight keeps its
    bits.

    Raises:
        ValueError: names or shapes of the mask and the model differ (with the full list), the
            optimizer has a weight decay that moves frozen weights, it updates other tensors than
            the layout says, or the mask is empty. All processes of a run find the same.
    """
    if mask_at not in MASK_AT:
        raise ValueError(f"mask_at: expected {' or '.join(MASK_AT)}, found {mask_at}")
    mask.check_shapes(layout.shapes, "the model")
    check_decay(layout.optimizer)
    updated = {
        id(tensor)
        for group in layout.optimizer.param_groups
        for tensor in group["params"]
        if tensor.requires_grad
    }
    # ZeRO-3 lists a tensor only while it is updated; the hook checks it then.
    if updated and updated != {id(held.tensor) for held in layout.held}:
        raise ValueError("the optimizer updates other parameters than the mask is attached to")
    if mask.is_empty():
        raise ValueError(f"{mask.path}: the mask is empty: no weight may move")
    masked = [_Masked(held.tensor, _frozen(held, mask)) for held in layout.held]
    gradient_mask = GradientMask(masked, mask_at)
    layout.optimizer.register_step_pre_hook(gradient_mask.before_update)
    return gradient_mask


def attach_mask(optimizer: Optimizer, parameters: Mapping[str, Tensor], mask: Mask) -> GradientMask:
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    held = [whole(name, parameter) for name, parameter in parameters.items()]
    return attach_layout(Layout(optimizer, shapes, held), mask)
