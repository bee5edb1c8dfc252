import math

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from rlsubnet.config.model import Recipe
from rlsubnet.training.optimizer import MasterOptimizer


def recipe(**changes: object) -> Recipe:
    return Recipe(**{"steps": 1, "batch_size": 1, "lr": 0.1, "clip": None, **changes})


def give_gradient(parameter: Parameter, gradient: Tensor, optimizer: MasterOptimizer) -> None:
    parameter.grad = gradient.to(parameter.dtype)
    optimizer.accumulate()


def test_one_step_equals_adamw_worked_by_hand():
    # g = 0.5: m = 0.1 * 0.5, v = 0.001 * 0.25; both corrected: m^ = 0.5, v^ = 0.25.
    # Decay: 1 * (1 - 0.1 * 0.2) = 0.98; update: 0.1 * 0.5 / (0.5 + 0.5) = 0.05 with eps = 0.5.
    weight = Parameter(torch.tensor([1.0]))
    optimizer = MasterOptimizer({"w": weight}, recipe(weight_decay=0.2, eps=0.5))
    give_gradient(weight, torch.tensor([0.5]), optimizer)
    optimizer.step(lr=0.1, divisor=1)
    assert optimizer.masters["w"].item() == pytest.approx(0.93, abs=1e-7)
    # Between 0.5 and 1 bfloat16 has steps of 1/256: 0.93 * 256 = 238.08, rounded to 238.
    assert weight.item() == 238 / 256


def test_steps_equal_those_of_torch_without_fused_kernels():
    generator = torch.Generator().manual_seed(1)
    init = torch.randn(33, generator=generator)
    weight, other = Parameter(init.clone()), Parameter(init.clone())
    settings = recipe(beta1=0.8, beta2=0.98, weight_decay=0.01)
    optimizer = MasterOptimizer({"w": weight}, settings)
    reference = torch.optim.AdamW(
        [other], lr=0.1, betas=(0.8, 0.98), eps=1e-8, weight_decay=0.01, foreach=False
    )
    for lr in (0.1, 0.05, 0.02):
        gradient = torch.randn(33, generator=generator)
        give_gradient(weight, gradient, optimizer)
        optimizer.step(lr, divisor=1)
        other.grad = gradient.clone()
        reference.param_groups[0]["lr"] = lr
        reference.step()
    torch.testing.assert_close(optimizer.masters["w"].detach(), other.detach())


def test_two_steps_equal_sgd_with_momentum_worked_by_hand():
    # v = 1, w = 1 - 0.25 * 1 = 0.75; then v = 0.5 * 1 + 1 = 1.5, w = 0.75 - 0.25 * 1.5 = 0.375.
    weight = Parameter(torch.tensor([1.0]))
    optimizer = MasterOptimizer({"w": weight}, recipe(optimizer="sgd", beta1=0.5))
    for expected in (0.75, 0.375):
        give_gradient(weight, torch.tensor([1.0]), optimizer)
        optimizer.step(lr=0.25, divisor=1)
        assert optimizer.masters["w"].item() == expected


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_model_holds_bfloat16_values_and_the_master_more(compute):
    weight = Parameter(torch.linspace(-1, 1, 101).to(compute))
    optimizer = MasterOptimizer({"w": weight}, recipe())
    for _ in range(3):
        give_gradient(weight, torch.linspace(1, 2, 101), optimizer)
        optimizer.step(lr=1e-3, divisor=1)
        assert torch.equal(weight.detach(), weight.detach().bfloat16().to(compute))
    master = optimizer.masters["w"].detach()
    assert not torch.equal(master, master.bfloat16().float())


def test_a_drift_below_half_a_step_of_bfloat16_shows_only_in_the_master():
    # Above 1 bfloat16 has steps of 1/128; AdamW's first update is lr = 0.003 < 1/256.
    weight = Parameter(torch.tensor([1.5]))
    optimizer = MasterOptimizer({"w": weight}, recipe())
    give_gradient(weight, torch.tensor([-7.0]), optimizer)
    optimizer.step(lr=0.003, divisor=1)
    assert weight.item() == 1.5
    assert optimizer.masters["w"].item() == pytest.approx(1.503)
    give_gradient(weight, torch.tensor([-7.0]), optimizer)
    optimizer.step(lr=0.003, divisor=1)
    assert weight.item() == 1.5 + 1 / 128


def test_gradients_of_parts_are_summed_in_float32_and_divided_once():
    weight = Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = MasterOptimizer({"w": weight}, recipe())
    for gradient in (256.0, 1.0, 1.0):  # bfloat16 would keep 256: its steps there are 2
        give_gradient(weight, torch.tensor([gradient]), optimizer)
    assert weight.grad is None
    norms = optimizer.step(lr=0.1, divisor=3)
    assert (norms.full.value(), norms.masked) == (86.0, None)


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves():
    weight = Parameter(torch.ones(2))
    optimizer = MasterOptimizer({"w": weight}, recipe())
    give_gradient(weight, torch.tensor([math.nan, 1.0]), optimizer)
    with pytest.raises(ValueError, match="the gradient's norm is nan"):
        optimizer.step(lr=0.1, divisor=1)
    assert weight.tolist() == [1.0, 1.0]


def test_a_parameter_without_gradient_is_named():
    used, unused = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = MasterOptimizer({"used": used, "unused": unused}, recipe())
    give_gradient(used, torch.ones(2), optimizer)
    with pytest.raises(ValueError, match="parameter unused: no gradient"):
        optimizer.step(lr=0.1, divisor=1)
