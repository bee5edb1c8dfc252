"""Losses against TRL's, an independent implementation.

TRL's losses are methods of its trainers. They are called with a stand-in for the trainer that has
the settings they read and, in place of a model, the log-probabilities that one would give.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlsubnet.objectives.logps import token_logps
from rlsubnet.objectives.policy_gradient import group_advantages, policy_loss, reference_kl
from rlsubnet.objectives.preference import (
    dpo_loss,
    dpo_norm_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    simpo_loss,
)

# Loading TRL takes seconds.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAIRS, WIDTH = 5, 4
CPU = SimpleNamespace(
    device=torch.device("cpu"),
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
)


class Responses:
    """Random responses to PAIRS prompts of one token: chosen above, rejected below."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def logps() -> Tensor:
            draws = torch.rand(2 * PAIRS, WIDTH, generator=generator, dtype=torch.float64)
            return -3 * draws * self.mask

        lengths = torch.randint(1, WIDTH + 1, (2 * PAIRS, 1), generator=generator)
        self.mask = torch.arange(WIDTH) < lengths
        self.policy, self.reference = logps(), logps()
        self.mismatched, self.reference_mismatched = logps(), logps() - 0.4
        self.tokens = self.mask.sum(dim=1)

    def pairs(self, *tensors: Tensor) -> list[Tensor]:
        """Return sums over tokens, chosen and rejected of each tensor in turn."""
        return [half for tensor in tensors for half in tensor.reshape(2, PAIRS, -1).sum(dim=2)]


class Trainer(SimpleNamespace):
    """What TRL's losses read of a trainer; nobody reads what they log."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            model=SimpleNamespace(training=True),
            accelerator=CPU,
            aux_loss_enabled=False,
            precompute_ref_logps=True,
            _metrics={"train": defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
            **settings,
        )


def batch_of(responses: Responses) -> dict[str, Tensor]:
    """Return the batch TRL makes of the responses; its first column is the prompt's token."""
    prompt = torch.zeros(2 * PAIRS, 1, dtype=torch.bool)
    ids = torch.zeros(2 * PAIRS, 1 + WIDTH, dtype=torch.long)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": torch.cat([prompt, responses.mask], dim=1).long(),
    }


def model_of(logps: Tensor) -> Any:
    """Return a function that stands for a model with these log-probabilities of its tokens."""
    zeros = torch.zeros_like(logps)
    logged = {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}
    return lambda **inputs: SimpleNamespace(log_probs=logps, **logged)


def test_simpo_and_the_odds_ratio_of_orpo_are_trl_s():
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    responses = Responses()
    tokens = responses.tokens.chunk(2)
    sums = responses.pairs(responses.policy)
    means = [total / count for total, count in zip(sums, tokens, strict=True)]
    settings = {"alpha": 0.0, "loss_type": "simpo", "label_smoothing": 0.0}
    trainer = Trainer(beta=2.5, simpo_gamma=0.7, **settings)
    expected, chosen, rejected = CPOTrainer.cpo_loss(trainer, *means)
    losses, margins = simpo_loss(*sums, *tokens, beta=2.5, gamma=0.7)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(margins, chosen - rejected)

    # TRL calls lambda beta, and computes in float32.
    ratio, *_, mean_log_odds = ORPOTrainer.odds_ratio_loss(Trainer(beta=0.3), *means)
    losses, margins = orpo_loss(*sums, *tokens, odds_weight=0.3)
    # TRL's likelihood term includes the prompt; ours, the paper's, is of the response.
    torch.testing.assert_close(losses + means[0], -ratio.double(), rtol=1e-5, atol=1e-6)
    assert margins.mean().item() == pytest.approx(mean_log_odds.item(), rel=1e-5)


def test_kto_is_trl_s():
    from trl import KTOTrainer

    responses = Responses()
    sums = responses.pairs(responses.policy, responses.reference)
    point = kto_reference_point(
        responses.mismatched.sum(dim=1), responses.reference_mismatched.sum(dim=1)
    )
    assert point > 0
    trainer = Trainer(
        beta=0.2,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.0,
        undesirable_weight=1.0,
        _compute_kl_logps=lambda model, batch: responses.mismatched.sum(dim=1),
    )
    batch = batch_of(responses) | {
        "label": torch.arange(2 * PAIRS) < PAIRS,
        "ref_logps": responses.reference.sum(dim=1),
        "ref_KL_logps": responses.reference_mismatched.sum(dim=1),
    }
    expected = KTOTrainer._compute_loss(trainer, model_of(responses.policy), batch, False)
    losses, _ = kto_loss(*sums, point, beta=0.2)
    torch.testing.assert_close(losses.mean(), expected)


@pytest.mark.parametrize(("loss_type", "norm"), [("sigmoid", False), ("sigmoid_norm", True)])
def test_dpo_and_dpo_norm_are_trl_s(loss_type, norm):
    from trl import DPOTrainer

    responses = Responses()
    sums = responses.pairs(responses.policy, responses.reference)
    trainer = Trainer(
        beta=0.6,
        loss_types=[loss_type],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
    )
    batch = batch_of(responses) | {
        "ref_chosen_logps": sums[2],
        "ref_rejected_logps": sums[3],
    }
    expected = DPOTrainer._compute_loss(trainer, model_of(responses.policy), batch, False)
    if norm:
        losses, _ = dpo_norm_loss(*sums, *responses.tokens.chunk(2), beta=0.6)
    else:
        losses, _ = dpo_loss(*sums, beta=0.6)
    torch.testing.assert_close(losses.mean(), expected)


def test_loss_and_gradient_of_grpo_are_trl_s():
    from trl import GRPOTrainer

    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    advantages = group_advantages(rewards).flatten()
    rows, columns, vocabulary = 8, 5, 6
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, columns, vocabulary, generator=generator).requires_grad_()
    targets = torch.randint(vocabulary, (rows, columns), generator=generator)
    lengths = torch.tensor([3, 1, 4, 2, 5, 5, 1, 4])
    mask = torch.arange(columns) < lengths[:, None]
    everything = torch.ones_like(mask)
    logps = token_logps(logits, targets, everything)
    old = logps.detach() + 0.4 * torch.randn(rows, columns, generator=generator)
    reference = logps.detach() + torch.randn(rows, columns, generator=generator)

    loss = policy_loss(logps, old, advantages[:, None], mask, 0.2)
    loss = (loss + 0.05 * reference_kl(logps, reference, mask)) / mask.sum()
    (ours,) = torch.autograd.grad(loss, logits, retain_graph=True)

    def identity(values: Tensor, reduction: str = "sum") -> Tensor:
        return values

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, logps.detach(), None),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.05,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        epsilon_low=0.2,
        epsilon_high=0.2,
        loss_type="bnpo",  # the mean over tokens
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        accelerator=SimpleNamespace(gather=identity, reduce=identity, num_processes=1),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": targets[:, :0],
        "prompt_mask": mask[:, :0].long(),
        "completion_ids": targets,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    theirs = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, logits)[0])
