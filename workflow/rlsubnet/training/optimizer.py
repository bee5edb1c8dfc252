"""An optimizer on float32 masters of weights that the model holds rounded to bfloat16.

What is done to every tensor alike is asked of torch once, by its ``_foreach`` functions: a GPU is
given a few kernels for all tensors, where starting one for each takes longer than its work. A CPU
computes the same one after the other.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from rlsubnet.config.model import Recipe
from rlsubnet.training.device import Reading, read_every
from rlsubnet.training.masking import GradientMask, clip_factor


class GradientNorms(NamedTuple):
    """Norms of one step's gradient before clipping: whole, and its part inside the mask."""

    full: Reading
    masked: Reading | None


def _inner_optimizer(masters: list[Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    fused = masters[0].device.type in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(masters, lr=recipe.lr, momentum=recipe.beta1, fused=fused)
    return torch.optim.AdamW(
        masters,
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def check_norm(norm: float) -> None:
    if not math.isfinite(norm):
        raise ValueError(
            f"the gradient's norm is {norm}: the learning rate is too high, "
            "or the weights were not finite to begin with"
        )


class MasterOptimizer:
    """AdamW or SGD as in mixed-precision training (DeepSpeed's bf16 with ZeRO, the paper's set-up).

    The optimizer moves a float32 master of every weight; after each step the model receives the
    master rounded to the nearest bfloat16. A master that drifts by less than half a step of
    bfloat16 leaves the model's weight as it was: this is where sparse updates come from.

    A step is: gradient of the batch -> norm -> clip -> mask -> AdamW or SGD -> round. With
    ``mask_at: pre_clip`` the mask comes before the norm that clips.

    Args:
        parameters: the model's parameters by name; they may be float32 or bfloat16 and are rounded
            to bfloat16 values at once.
        recipe: optimizer, learning rate, betas, eps, weight decay, clip, mask_at.

    Attributes:
        mask: what :func:`rlsubnet.training.masking.attach_mask` returned, once it is attached.
        waits: whether a step reads its norm and refuses one that is not finite before anything
            moves; without, it is for the reader of the metrics to refuse it.
    """

    def __init__(self, parameters: Mapping[str, Parameter], recipe: Recipe) -> None:
        self._parameters = dict(parameters)
        self._recipe = recipe
        self.mask: GradientMask | None = None
        self.waits = all(read_every(p.device) == 1 for p in parameters.values())
        # Copies, also of float32 weights: the model's own are overwritten with rounded values.
        self.masters = {
            name: Parameter(parameter.detach().to(torch.float32, copy=True))
            for name, parameter in self._parameters.items()
        }
        self.inner = _inner_optimizer(list(self.masters.values()), recipe)
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        weights: list[Tensor] = list(self._parameters.values())
        # A copy into bfloat16 rounds; float32 weights, on a CPU, are to hold rounded values.
        rounded = [
            master if weight.dtype == torch.bfloat16 else master.to(torch.bfloat16)
            for weight, master in zip(weights, self.masters.values(), strict=True)
        ]
        torch._foreach_copy_(weights, rounded)

    @torch.no_grad()
    def accumulate(self) -> None:
        """Move the model's gradients to the masters, added to what is there, in float32."""
        widened: list[Tensor] = []
        narrow: list[Tensor] = []
        for parameter, master in zip(self._parameters.values(), self.masters.values(), strict=True):
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            if master.grad is not None:
                master.grad.add_(gradient)
            elif gradient.dtype == torch.float32:
                master.grad = gradient
            else:
                master.grad = torch.empty_like(master)
                widened.append(master.grad)
                narrow.append(gradient)
        if widened:
            torch._foreach_copy_(widened, narrow)

    @torch.no_grad()
    def step(self, lr: float, divisor: float) -> GradientNorms:
        """Update every weight once and return the norms of the gradient.

        Args:
            lr: learning rate of this step.
            divisor: what turns the accumulated sum of gradients into the batch's mean: its number
                of tokens or pairs.

        Raises:
            ValueError: the norm that clips is not finite; nothing was updated.
        """
        gradients = []
        for name, master in self.masters.items():
            if master.grad is None:
                raise ValueError(f"parameter {name}: no gradient; the loss does not depend on it")
            gradients.append(master.grad)
        torch._foreach_div_(gradients, divisor)
        full = norm = get_total_norm(gradients)
        if self.mask is not None and self._recipe.mask_at == "pre_clip":
            self.mask.apply()
            norm = get_total_norm(gradients)
        if self.waits:
            check_norm(norm.item())
        if self._recipe.clip is not None:
            clip_grads_with_norm_(self.masters.values(), self._recipe.clip, norm)
        self.inner.param_groups[0]["lr"] = lr
        self.inner.step()  # a mask is applied here, by the hook that attach_mask registered
        self._round()
        masked = None
        if self.mask is not None:
            clip = self._recipe.clip
            masked = Reading(
                (get_total_norm(gradients), norm),
                lambda clipped, norm: clipped / clip_factor(norm, clip),
            )
        for master in self.masters.values():
            master.grad = None
        return GradientNorms(Reading((full,)), masked)

    def state(self) -> dict[str, Any]:
        masters: dict[str, Tensor] = {name: m.detach() for name, m in self.masters.items()}
        return {"masters": masters, "inner": self.inner.state_dict()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
        self.inner.load_state_dict(state["inner"])
        self._round()
