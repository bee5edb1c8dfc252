"""What a GPU run does differently, on a CPU: the same numbers, read later, in other parts."""

import math
from typing import Any

import pytest
import torch

from rlsubnet.config.model import Row
from rlsubnet.evaluation import sampler
from rlsubnet.measure.sparsity import total_counts
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training import model, optimizer, run
from rlsubnet.training.batches import Sample, collate
from rlsubnet.training.model import prepare_training, score_batch
from tests.evaluation.tiny_models import tiny_model
from tests.measure.plain import plain_counts
from tests.training.training_runs import ARCHITECTURE, bits, column, metrics, row, weights

GRPO = row("grpo", samples=4, max_new_tokens=4)


@pytest.fixture
def reads_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read metrics four steps at a time, and no norm before a step, as on a GPU."""
    for module in (run, optimizer):
        monkeypatch.setattr(module, "read_every", lambda device: 4)


@pytest.mark.parametrize(
    "what", [row("dpo", checkpoint_every=3), row("prime", samples=4, max_new_tokens=4)]
)
def test_metrics_read_later_are_the_same(train, request, what):
    at_once = train(what, "at_once")
    request.getfixturevalue("reads_later")
    assert bits(train(what, "later")) == bits(at_once)


@pytest.mark.usefixtures("reads_later")
def test_a_gradient_that_was_not_finite_is_refused_when_it_is_read(train, monkeypatch, tmp_path):
    step = optimizer.MasterOptimizer.step
    steps = []

    def spoiled(self: optimizer.MasterOptimizer, lr: float, divisor: float):
        steps.append(lr)
        if len(steps) == 2:
            next(iter(self.masters.values())).grad.fill_(math.nan)  # type: ignore[union-attr]
        return step(self, lr, divisor)

    monkeypatch.setattr(optimizer.MasterOptimizer, "step", spoiled)
    with pytest.raises(ValueError, match="^run sft, step 2: the gradient's norm is nan"):
        train(row("sft"), "run")  # which saves its state every two steps
    assert len(steps) == 2
    assert not (tmp_path / "run" / "resume" / "state.pt").exists()


@pytest.mark.parametrize("what", [row("sft"), row("dpo"), GRPO], ids=lambda what: what.run)
def test_computing_activations_twice_changes_no_bit(train, what):
    twice = what.but(recipe=what.recipe.but(recompute=True))
    assert bits(train(twice, "twice")) == bits(train(what, "once"))


@pytest.mark.parametrize(
    ("room", "parts", "keys", "said"),
    [
        (None, 1, {}, "in 1 part(s)\n"),
        (8 / 4, 4, {}, "in 4 part(s)\n"),
        (1.0, 8, {"recompute": None}, "in 8 part(s)\n"),
        (0.9, 8, {"recompute": None}, "in 8 part(s), activations twice\n"),
    ],
)
def test_memory_divides_a_batch_and_computes_activations_twice_where_one_does_not_fit(
    train, monkeypatch, capsys, room, parts, keys, said
):
    config = model.new_model(ARCHITECTURE, build_tokenizer(), seed=0).config
    # The longest example is `<s>8+8=(016)</s>`, of whose 11 tokens 6 are scored.
    longest = model.bytes_per_sequence(config, recompute=False, tokens=11, scored=6, logit=12)
    memory = room and int(room * longest / model.SHARE) + 1
    monkeypatch.setattr(run, "device_memory", lambda device: memory)
    found = train(row("sft", accumulate=None, **keys), "by_memory")
    assert f"sft: a batch is computed {said}" in capsys.readouterr().err
    assert bits(found) == bits(train(row("sft", accumulate=parts), "by_hand"))


def test_dropout_forbids_computing_activations_twice():
    model = tiny_model()
    model.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match="without dropout, found {'attention_dropout': 0.1}"):
        prepare_training(model, row("sft").recipe.but(recompute=True))


def test_compiled_layers_train_to_nearly_the_same_weights(train, monkeypatch):
    # All of torch.compile but its code generator, which takes half a minute.
    compiling, layers = torch.nn.Module.compile, []

    def eagerly(layer: torch.nn.Module, **keys: Any) -> None:
        layers.append(layer)
        compiling(layer, backend="aot_eager", **keys)

    monkeypatch.setattr(torch.nn.Module, "compile", eagerly)
    what = row("prime", samples=4, max_new_tokens=4, steps=3, lr=1e-2)
    plain = train(what, "plain")
    compiled = train(what.but(recipe=what.recipe.but(compile=True)), "compiled")
    assert column(compiled, "grad_norm") == pytest.approx(column(plain, "grad_norm"), rel=1e-2)
    same = [
        (weights(plain / "final")[name] == found).mean()
        for name, found in weights(compiled / "final").items()
    ]
    assert sum(same) / len(same) > 0.9
    assert len(layers) == 3  # the policy's, the reference's and the reward model's


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_attention_without_a_mask_is_causal_attention_written_out(family):
    examples = [(Sample([1, *range(3, 3 + length), 2], given=2),) for length in (9, 2, 8)]
    batch = collate(examples, [0, 1, 2], pad=0, device=torch.device("cpu"))
    quick, plain = tiny_model(family), tiny_model(family)
    score_batch(quick, batch).sum().backward()
    plain.set_attn_implementation("eager")
    mask = torch.tensor(
        [[t < width for t in range(batch.inputs.shape[1])] for width in batch.widths]
    )
    logits = plain(input_ids=batch.inputs, attention_mask=mask.long()).logits
    kept = logits[:, -batch.targets.shape[1] :].log_softmax(-1)
    logps = kept.gather(-1, batch.targets[..., None]).squeeze(-1).masked_fill(~batch.mask, 0.0)
    logps.sum().backward()
    torch.testing.assert_close(score_batch(quick, batch), logps, rtol=1e-5, atol=1e-5)
    for (name, found), expected in zip(quick.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_losses_in_bfloat16_are_near_those_in_float32(train, algorithm):
    full = train(row(algorithm), "float32")
    half = train(row(algorithm, compute="bfloat16"), "bfloat16")
    assert column(half, "loss") == pytest.approx(column(full, "loss"), rel=2e-2)
    assert column(half, "grad_norm") == pytest.approx(column(full, "grad_norm"), rel=1e-1)


@pytest.mark.parametrize("what", [row("dpo"), GRPO], ids=lambda what: what.run)
def test_the_sparsity_on_the_way_is_that_of_the_saved_model(train, base, policy, what):
    init = policy if what == GRPO else base
    folder = train(what.but(recipe=what.recipe.but(sparsity_every=4)))
    cells = [line["sparsity"] for line in metrics(folder)]
    assert [bool(cell) for cell in cells] == [False, False, False, True, False, True]
    tuned = weights(folder / "final")
    expected = total_counts(plain_counts(w, tuned[name]) for name, w in weights(init).items())
    assert 0 < expected.sparsity("official", 1e-5) < 1
    assert float(cells[-1]) == pytest.approx(expected.sparsity("official", 1e-5), rel=1e-6)


def test_an_online_run_draws_from_a_static_cache_as_on_a_gpu(train, monkeypatch):
    monkeypatch.setattr(sampler, "is_static", lambda model: True)
    what: Row = row("grpo", samples=4, max_new_tokens=4, lr=1e-2)
    folder = train(what)
    assert max(column(folder, "reward")) > 0.0
    assert bits(folder) == bits(train(what, "again"))
