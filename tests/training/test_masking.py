from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.config.model import Recipe
from rlsubnet.training.masking import Layout, attach_layout, attach_mask, whole
from rlsubnet.training.optimizer import MasterOptimizer

INSIDE = np.array([True, False, True, False])


def mask_file(tmp_path: Path, **masks: np.ndarray) -> Mask:
    save_mask(tmp_path / "mask.safetensors", masks, {"rule": "bitwise"})
    return Mask(tmp_path / "mask.safetensors")


def recipe(**changes: object) -> Recipe:
    return Recipe(**{"steps": 1, "batch_size": 1, "lr": 0.1, "eps": 1.0, **changes})


def masked(tmp_path: Path, **changes: object) -> tuple[Parameter, MasterOptimizer]:
    weight = Parameter(torch.tensor([1.0, -0.0, 0.5, -2.0]))
    optimizer = MasterOptimizer({"w": weight}, recipe(**changes))
    mask = mask_file(tmp_path, w=INSIDE)
    optimizer.mask = attach_mask(optimizer.inner, optimizer.masters, mask)
    return weight, optimizer


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().view(torch.int32).tolist()


@pytest.mark.parametrize("mask_at", ["post_clip", "pre_clip"])
def test_frozen_weights_keep_their_bits_and_the_others_move(tmp_path, mask_at):
    weight, optimizer = masked(tmp_path, mask_at=mask_at)
    before = bits(weight)
    for _ in range(3):
        weight.grad = torch.tensor([1.0, 2.0, -3.0, -4.0])
        optimizer.accumulate()
        optimizer.step(lr=0.1, divisor=1)
    after = bits(weight)
    assert [a == b for a, b in zip(after, before, strict=True)] == (~INSIDE).tolist()
    assert bits(optimizer.masters["w"])[1] == before[1]  # -0.0 stays -0.0
    assert optimizer.mask is not None
    optimizer.mask.check_updates(3)


@pytest.mark.parametrize(("mask_at", "clipped"), [("post_clip", 3 / 5), ("pre_clip", 3 / 3)])
def test_the_clip_sees_the_whole_gradient_or_its_part_inside_the_mask(tmp_path, mask_at, clipped):
    weight, optimizer = masked(tmp_path, clip=1.0, mask_at=mask_at)
    weight.grad = torch.tensor([3.0, 4.0, 0.0, 0.0])
    optimizer.accumulate()
    norms = optimizer.step(lr=1.0, divisor=1)
    assert norms.full.value() == 5.0
    assert norms.masked.value() == pytest.approx(3.0, rel=1e-5)
    # The first update with eps 1 is g / (g + 1).
    expected = 1 - clipped / (clipped + 1)
    assert optimizer.masters["w"][0].item() == pytest.approx(expected, rel=1e-5)


def test_a_gradient_of_nan_outside_the_mask_does_no_harm(tmp_path):
    weight = Parameter(torch.ones(4))
    adamw = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    attach_mask(adamw, {"w": weight}, mask_file(tmp_path, w=INSIDE))
    weight.grad = torch.tensor([1.0, torch.nan, 1.0, torch.inf])
    adamw.step()
    assert weight.detach().tolist() == pytest.approx([0.9, 1.0, 0.9, 1.0])


@pytest.mark.parametrize("fused", [False, True])
def test_weight_decay_that_rounding_loses_is_allowed(tmp_path, fused):
    # lr * weight_decay is 2^-25 exactly. Powers of two have the nearest neighbours below.
    start = torch.cat([2.0 ** torch.arange(-40, 40), torch.randn(4096), -torch.rand(4096)])
    weight = Parameter(start.clone())
    inside = np.zeros(start.numel(), np.bool_)
    inside[::7] = True
    adamw = torch.optim.AdamW([weight], lr=2.0**-10, weight_decay=2.0**-15, fused=fused)
    attach_mask(adamw, {"w": weight}, mask_file(tmp_path, w=inside))
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        adamw.step()
    changed = weight.detach().view(torch.int32) != start.view(torch.int32)
    assert not changed[~torch.from_numpy(inside)].any()

    # The control: eight times the decay moves frozen weights.
    free = Parameter(start.clone())
    adamw = torch.optim.AdamW([free], lr=2.0**-10, weight_decay=2.0**-12, fused=fused)
    free.grad = torch.zeros_like(free)
    adamw.step()
    assert (free.detach() != start).float().mean() > 0.9


def test_weight_decay_that_has_grown_too_large_stops_the_update(tmp_path):
    weight = Parameter(torch.ones(4))
    adamw = torch.optim.AdamW([weight], lr=0.0, weight_decay=0.01)
    attach_mask(adamw, {"w": weight}, mask_file(tmp_path, w=INSIDE))
    weight.grad = torch.ones(4)
    adamw.param_groups[0]["lr"] = 1e-5
    with pytest.raises(ValueError, match="moves frozen weights"):
        adamw.step()
    assert weight.tolist() == [1.0] * 4


ADAMW = torch.optim.AdamW


def scheduled(weight: Parameter) -> torch.optim.Optimizer:
    """Return an optimizer whose warm-up begins at a learning rate of 0."""
    adamw = ADAMW([weight], lr=1e-5, weight_decay=0.01)
    torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: step / 10)
    assert adamw.param_groups[0]["lr"] == 0
    return adamw


@pytest.mark.parametrize(
    ("make", "inside", "message"),
    [
        (lambda w: ADAMW([w], weight_decay=0.01), INSIDE, "weight_decay 0.01 moves frozen weights"),
        (scheduled, INSIDE, "moves frozen weights at learning rate 1e-05"),
        # SGD and Adam add it to the gradient.
        (lambda w: torch.optim.SGD([w], 1e-9, weight_decay=1e-9), INSIDE, "moves frozen weights"),
        (lambda w: torch.optim.Adam([w], 1e-9, weight_decay=1e-9), INSIDE, "moves frozen weights"),
        (lambda w: ADAMW([w], weight_decay=0.0), ~INSIDE & INSIDE, "the mask is empty"),
        (
            lambda w: ADAMW([Parameter(torch.ones(4))], weight_decay=0.0),
            INSIDE,
            "the optimizer updates other parameters",
        ),
    ],
)
def test_an_optimizer_that_a_mask_does_not_fit_is_refused(tmp_path, make, inside, message):
    weight = Parameter(torch.ones(4))
    with pytest.raises(ValueError, match=message):
        attach_mask(make(weight), {"w": weight}, mask_file(tmp_path, w=inside))


def test_a_hook_that_never_fired_is_an_error(tmp_path):
    weight = Parameter(torch.ones(4))
    attached_to = torch.optim.AdamW([weight], weight_decay=0.0)
    mask = attach_mask(attached_to, {"w": weight}, mask_file(tmp_path, w=INSIDE))
    weight.grad = torch.ones(4)
    torch.optim.AdamW([weight], weight_decay=0.0).step()  # another optimizer does the update
    with pytest.raises(ValueError, match="the mask was applied in 0 of 1 updates"):
        mask.check_updates(1)


def two_tensors(tmp_path: Path) -> tuple[Layout, list[Parameter], Mask]:
    weights = [Parameter(torch.ones(4)) for _ in range(2)]
    adamw = torch.optim.AdamW(weights, lr=0.1, weight_decay=0.0)
    held = [whole(name, weight) for name, weight in zip("ab", weights, strict=True)]
    layout = Layout(adamw, {"a": (4,), "b": (4,)}, held)
    return layout, weights, mask_file(tmp_path, a=INSIDE, b=~INSIDE)


def step(optimizer: torch.optim.Optimizer, *weights: Parameter) -> None:
    """Update only these weights, as ZeRO-3 does with its sub-groups."""
    optimizer.param_groups[0]["params"] = list(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.param_groups[0]["params"] = []


def test_updates_are_counted_by_tensor_where_they_come_one_by_one(tmp_path):
    layout, (a, b), bits_of = two_tensors(tmp_path)
    mask = attach_layout(layout, bits_of)
    for _ in range(3):
        step(layout.optimizer, a)
        step(layout.optimizer, b)
    mask.check_updates(3)
    assert (a.detach() != 1).tolist() == INSIDE.tolist()
    assert (b.detach() != 1).tolist() == (~INSIDE).tolist()
    step(layout.optimizer, a)
    with pytest.raises(ValueError, match="the mask was applied in 3 to 4 of 4 updates"):
        mask.check_updates(4)


def test_a_tensor_that_something_else_updates_is_noticed_in_the_second_update(tmp_path):
    layout, (a, _), bits_of = two_tensors(tmp_path)
    attach_layout(layout, bits_of)
    step(layout.optimizer, a)
    with pytest.raises(ValueError, match="the mask was applied in 0 to 2 of 1 updates"):
        step(layout.optimizer, a)


def test_a_tensor_that_came_after_the_mask_is_refused(tmp_path):
    layout, (a, b), bits_of = two_tensors(tmp_path)
    attach_layout(layout, bits_of)
    late = Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="a tensor that came after the mask"):
        step(layout.optimizer, a, b, late)
    assert late.item() == 1.0


def test_pre_clip_fails_in_the_first_update_if_the_trainer_does_not_apply_it(tmp_path):
    layout, (a, b), bits_of = two_tensors(tmp_path)
    mask = attach_layout(layout, bits_of, "pre_clip")
    with pytest.raises(ValueError, match=r"must call apply\(\) before it clips"):
        step(layout.optimizer, a, b)
    assert a.tolist() == [1.0] * 4
    mask.apply()
    step(layout.optimizer, a, b)
    mask.check_updates(1)
    step(layout.optimizer, a, b)
    with pytest.raises(ValueError, match="applied before 1 of 2 clips"):
        mask.check_updates(2)


def test_a_mask_needs_a_gradient_to_apply_to_and_a_known_place(tmp_path):
    layout, _, bits_of = two_tensors(tmp_path)
    with pytest.raises(ValueError, match="must be applied after backward"):
        attach_layout(layout, bits_of).apply()
    with pytest.raises(ValueError, match="mask_at: expected post_clip or pre_clip, found after"):
        attach_layout(layout, bits_of, "after")
