"""What a GPU run does, at the sizes of config/gpu, on tensors without numbers: see stand_in.py.

Nothing is computed. What is checked: that no tensor of the CPU meets one of the GPU, that nothing
waits for the GPU but where metrics are read, that attention finds a quick kernel, and all dtypes
and shapes of bfloat16 with float32 masters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlsubnet.config.model import Row
from rlsubnet.evaluation import static_cache
from rlsubnet.evaluation.generate import Request
from rlsubnet.evaluation.loading import deterministic
from rlsubnet.evaluation.score import response_logprobs
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training import online
from rlsubnet.training.credit import ASSIGNERS
from rlsubnet.training.device import (
    ChangedWeights,
    count_changed,
    overlap_counts,
    read_every,
    to_device,
)
from rlsubnet.training.journal import Journal
from rlsubnet.training.loop import ALGORITHMS, train
from rlsubnet.training.masking import Layout, attach_layout, whole
from rlsubnet.training.model import prepare_training
from rlsubnet.training.online import new_learner, train_online
from rlsubnet.training.optimizer import MasterOptimizer
from rlsubnet.training.runlog import metrics_columns
from tests.training.gpu_runs import drawn, gpu_model, offline_examples, questions_of, row_of
from tests.training.stand_in import GPU, Noise, Waits, Watch, stand_in
from tests.training.test_nothing_is_read import EveryOther


@contextmanager
def on_gpu(readings: list[str] | None = None) -> Iterator[None]:
    """Run as ``rlsubnet train`` does, on the stand-in."""
    with stand_in(readings), deterministic(GPU):
        yield


# Layers are alike: two of them meet all that twelve do, and test_memory.py takes all.
LAYERS = 2


def begin(
    scale: str, row: Row, masked: bool = False, layers: int | None = LAYERS
) -> tuple[Any, MasterOptimizer]:
    model = gpu_model(scale, layers)
    prepare_training(model, row.recipe)
    optimizer = MasterOptimizer(dict(model.named_parameters()), row.recipe)
    if masked:
        shapes = {name: tuple(master.shape) for name, master in optimizer.masters.items()}
        held = [whole(name, master) for name, master in optimizer.masters.items()]
        mask: Any = EveryOther()
        layout = Layout(optimizer.inner, shapes, held)
        optimizer.mask = attach_layout(layout, mask, row.recipe.mask_at)
    return model, optimizer


def journal_of(row: Row, folder: Path, online: bool) -> Journal:
    columns = metrics_columns(online, sparsity=bool(row.recipe.sparsity_every))
    return Journal(row, folder, {}, lambda metrics: None, None, columns, read_every(GPU))


def run_offline(
    scale: str, row: Row, folder: Path, masked: bool = False, layers: int | None = LAYERS
) -> None:
    model, optimizer = begin(scale, row, masked, layers)
    changed = ChangedWeights(model) if row.recipe.sparsity_every else None
    examples, journal = offline_examples(row, scale), journal_of(row, folder, online=False)
    with Watch():
        train(row, model, optimizer, ALGORITHMS[row.algorithm], examples, 0, journal, changed)


def run_online(
    scale: str,
    row: Row,
    folder: Path,
    patch: pytest.MonkeyPatch,
    layers: int | None = LAYERS,
) -> None:
    model, optimizer = begin(scale, row, layers=layers)
    changed = ChangedWeights(model) if row.recipe.sparsity_every else None
    learner = new_learner(row.algorithm, model, optimizer, build_tokenizer(), row.recipe)
    patch.setattr(online, "draw_groups", lambda *args: drawn(args[2], row.recipe))
    with Watch():
        journal = journal_of(row, folder, online=True)
        train_online(row, learner, questions_of(row, scale), journal, changed)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_on_given_data_waits_for_its_metrics_alone(algorithm: str, tmp_path: Path) -> None:
    row = row_of("config", {"pretrain": "base"}.get(algorithm, "dpo"), algorithm, sparsity_every=1)
    readings: list[str] = []
    with on_gpu(readings):
        run_offline("config", row, tmp_path)
    assert readings == ["tolist"]  # of two steps


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"mask_at": "pre_clip"}])
def test_a_masked_run_waits_for_its_metrics_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    readings: list[str] = []
    with on_gpu(readings):
        run_offline("config", row_of("config", "sft", **changes), tmp_path, masked=True)
    assert readings == ["tolist"]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_a_run_on_its_own_answers_waits_for_its_metrics_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"ppo": "grpo"}.get(name, name)
    row = row_of("config", run, name, sparsity_every=1, kl_coef=0.1, entropy_coef=0.01)
    readings: list[str] = []
    with on_gpu(readings):
        run_online("config", row, tmp_path, monkeypatch)
    assert readings == ["tolist"]


@pytest.mark.parametrize("run", ["dpo", "prime"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_with_the_layers_of_half_a_billion_weights(
    run: str, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of("own-model", run, steps=1, accumulate=2, recompute=recompute)
    readings: list[str] = []
    with on_gpu(readings):
        if run == "prime":
            run_online("own-model", row, tmp_path, monkeypatch)
        else:
            run_offline("own-model", row, tmp_path)
    assert readings == ["tolist"]


def captured(run: Callable[[], Tensor], changed: list[Tensor]) -> Callable[[], Tensor]:
    """Stand for a CUDA graph: what it holds neither copies from the CPU nor reads."""

    def replay() -> Tensor:
        with stand_in(), Watch():
            return run()

    assert all(tensor.device == GPU for tensor in changed)
    return replay


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("scale", ["config", "own-model"])
def test_drawing_answers_asks_every_16_tokens_whether_to_go_on(
    scale: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_cache, "_captured", captured)
    prompts = [[1] * length for length in (20, 25, 23, 25)]
    noise: Any = Noise()
    readings: list[str] = []
    with on_gpu(readings):
        samples = 1 if temperature == 0 else 8
        rows = static_cache.StaticSampler(gpu_model(scale, LAYERS))(
            Request(prompts, 40, temperature, noise, samples, eos=2, pad=0)
        )
    assert rows.shape == (4 if temperature == 0 else 32, 40)
    # Whether a prompt is padded; behind 16, 32 and 40 tokens whether logits are finite, behind the
    # first two whether a row goes on; and the tokens.
    assert readings == ["__bool__"] * (1 + 2 * 2 + 1) + ["cpu"]


def test_scoring_given_answers_reads_their_sums() -> None:
    readings: list[str] = []
    with stand_in(readings):
        sums = response_logprobs(
            gpu_model("own-model", LAYERS), [[1] * 9, [2] * 4], [[3] * 5, [4] * 2]
        )
    assert len(sums) == 2
    # Whether prompts are padded, whether the sums are finite; and the sums.
    assert readings == ["__bool__"] * 2 + ["cpu"]


def test_saved_moments_go_back_to_the_gpu() -> None:
    row = row_of("config", "sft")
    cpu = {name: torch.zeros(3, 3) for name in ("a", "b")}
    saved = MasterOptimizer({n: torch.nn.Parameter(v) for n, v in cpu.items()}, row.recipe)
    for master in saved.masters.values():
        master.grad = torch.ones(3, 3)
    saved.step(1e-3, divisor=1)
    with on_gpu():
        gpu = {n: torch.nn.Parameter(v.to(GPU)) for n, v in cpu.items()}
        optimizer = MasterOptimizer(gpu, row.recipe)
        optimizer.load_state(saved.state())
        states = list(optimizer.inner.state.values())
        assert [sorted(state) for state in states] == [["exp_avg", "exp_avg_sq", "step"]] * 2
        assert all(value.device == GPU for state in states for value in state.values())


def test_counts_of_weights_on_the_gpu_wait_for_nothing() -> None:
    with on_gpu():
        init = {"w": torch.zeros(64, 48, dtype=torch.bfloat16, device=GPU)}
        tuned = {"w": torch.zeros(64, 48, device=GPU)}
        with Watch():
            for rule in ("official", "exact", "bitwise"):
                assert count_changed(init, tuned, rule).sparsity().device == GPU
            assert overlap_counts(init["w"] != 0, tuned["w"] != 0).device == GPU


def test_the_stand_in_refuses_what_a_gpu_refuses_or_waits_for() -> None:
    with on_gpu(), Watch():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device=GPU)
        waits: dict[str, Callable[[], object]] = {
            "tensors of two devices": lambda: torch.mm(here, there),
            "not pinned": lambda: here.to(GPU),
            "with strides": lambda: here[:, :1].pin_memory(),
            "is read": lambda: float(there.sum()),
            "no quick kernel": lambda: torch.nn.functional.scaled_dot_product_attention(
                *[torch.ones(1, 4, 8, 64, device=GPU)] * 3
            ),
        }
        for message, wait in waits.items():
            with pytest.raises(Waits, match=message):
                wait()
        with pytest.raises(NotImplementedError, match="nonzero"):
            there.nonzero()
        gap = np.zeros((3, 4), np.int64)[:, :2]
        assert to_device(gap, GPU).device == GPU
