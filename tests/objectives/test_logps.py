import pytest
import torch

from rlsubnet.objectives.logps import response_logps, token_entropies, token_logps


def test_bfloat16_logits_are_scored_in_float32():
    logits = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.bfloat16)
    found = token_logps(logits, torch.tensor([[0]]), torch.tensor([[True]]))
    assert found.dtype == torch.float32
    # log(e^1 / (e^1 + e^2 + e^3)) = -2.407606; bfloat16 would give -2.40625
    assert found.item() == pytest.approx(-2.407606, abs=1e-6)


def test_an_impossible_token_outside_the_mask_gives_no_nan():
    logits = torch.tensor([[[0.0, -torch.inf], [0.0, 0.0]]], requires_grad=True)
    mask = torch.tensor([[False, True]])
    total = response_logps(token_logps(logits, torch.tensor([[1, 1]]), mask))
    total.sum().backward()
    assert total.item() == pytest.approx(-0.693147, abs=1e-6)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_entropies_agree_with_torch_and_an_impossible_token_adds_nothing():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 4] = -torch.inf
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().float()
    found = token_entropies(logits, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


def test_shapes_that_do_not_fit_are_refused():
    mask = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"logits \[2, 3, 5\], targets \[2, 4\]"):
        token_logps(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.long), mask)
