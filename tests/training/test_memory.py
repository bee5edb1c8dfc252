"""What a step is estimated to hold beside what it holds on tensors without numbers: stand_in.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlsubnet.config.model import Recipe
from rlsubnet.training import run
from rlsubnet.training.batches import Sample, collate
from rlsubnet.training.loop import ONLINE
from rlsubnet.training.model import (
    bytes_per_logit,
    bytes_per_sequence,
    prepare_training,
    score_batch,
    score_tokens,
)
from rlsubnet.training.run import fitted
from tests.training.gpu_runs import gpu_model, row_of, shape
from tests.training.stand_in import GPU, Watch
from tests.training.test_fake_gpu import on_gpu, run_offline, run_online

# An H200 and an H100 or A100, as torch reports them.
MEMORIES = {"141 GB": 150_000_000_000, "80 GB": 84_900_000_000}
RECIPE = Recipe(steps=1, batch_size=1, lr=1.0)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("scale", "tokens", "scored"),
    [("config", 57, 33), ("own-model", 400, 400), ("own-model", 400, 200)],
)
@pytest.mark.parametrize("keys", [None, {}, {"temperature": 0.7, "entropy_coef": 0.1}])
def test_a_step_holds_what_is_estimated_or_up_to_a_fifth_less(
    scale: str, tokens: int, scored: int, recompute: bool, keys: dict[str, float] | None
) -> None:
    recipe = replace(RECIPE, recompute=recompute, **(keys or {}))
    rows = 256 if scale == "config" else 64
    with on_gpu():
        model = gpu_model(scale)
        prepare_training(model, recipe)
        sample = Sample([1] * (tokens + 1), given=tokens + 1 - scored)
        batch = collate([(sample,)] * rows, range(rows), 0, GPU)
        with Watch() as watch:
            if keys is None:
                loss = score_batch(model, batch).sum()
            else:
                found = score_tokens(
                    model, batch, recipe.temperature, entropy_gradient=recipe.entropy_coef > 0
                )
                loss = found.logps.sum() + found.entropies.sum()
                del found
            loss.backward()
    logit = bytes_per_logit(recipe, online=keys is not None)
    estimate = rows * bytes_per_sequence(model.config, recompute, tokens, scored, logit)
    assert 1 < estimate / watch.peak < 1.2


# Every way of training in both sheets; masks and SGD change a byte or two of 20 a weight.
RUNS = [
    *(("config", run) for run in ("base", "sft", "dpo", "grpo", "raft", "prime")),
    *(("own-model", run) for run in ("sft", "dpo", "grpo", "prime")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "name", "size"),
    # The larger memory with the run that holds the most: others differ in the number of parts.
    [*((scale, name, "80 GB") for scale, name in RUNS), ("own-model", "prime", "141 GB")],
)
def test_every_run_of_the_configurations_fits_into_a_gpu(
    scale: str, name: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undecided = row_of(scale, name, steps=1, accumulate=None, recompute=None)
    longest, given, sequences = shape(undecided, scale)
    monkeypatch.setattr(run, "device_memory", lambda device: MEMORIES[size])
    with on_gpu(readings=[]), Watch(waits=True) as watch:
        row = fitted(undecided, gpu_model(scale, layers=None), longest, given, sequences)
        recipe = row.recipe
        # Parts are alike; two of them stand for all, with the gradients of the first.
        few = min(2, recipe.parts)
        size_of_part = recipe.batch_size // recipe.updates // recipe.parts
        row = replace(
            row,
            recipe=replace(recipe, accumulate=few, batch_size=few * size_of_part * recipe.updates),
        )
        if row.algorithm in ONLINE:
            run_online(scale, row, tmp_path, monkeypatch, layers=None)
        else:
            run_offline(scale, row, tmp_path, layers=None)
    # A twentieth is left to CUDA itself and to gaps between tensors.
    assert watch.peak < 0.95 * MEMORIES[size]
