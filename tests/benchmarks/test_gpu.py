"""The benchmark of a GPU runs its whole code on a CPU, says so, and promises nothing there."""

import doctest
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.__main__ import run as run_benchmark
from benchmarks.figure import Figure, Unavailable
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import clock, size
from benchmarks.gpu.size import HALF_BILLION, Size, forward_flops
from benchmarks.gpu.training import compiled_figures, make_bench, new_online
from benchmarks.suite.gpu import figures
from rlsubnet.training.model import new_model
from rlsubnet.training.online import gather


def test_a_fault_keeps_what_was_measured_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures(*settings: object) -> Iterator[Figure]:
        yield Figure("first", (2.0,))
        raise MemoryError

    monkeypatch.setattr(program, "figures", figures)
    with pytest.raises(MemoryError):
        program.main(["--miniature", "--out", str(tmp_path / "out.md")])
    assert "| first | 2 x |" in (tmp_path / "out.md").read_text(encoding="utf-8")


def test_dpo_is_measured_with_compiled_layers_and_leaves_the_others_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All of torch.compile but its code generator, which takes a minute.
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compiling, backend="aot_eager"))
    bench = make_bench(size.MINIATURE, torch.device("cpu"))
    speed, beside = compiled_figures(bench, repeats=1)
    assert speed.what == "DPO step, compiled layers, miniature"
    assert "compiled" in beside.detail
    assert "eager" in beside.detail
    layers = bench.model.get_submodule("model.layers").children()
    assert all(layer._compiled_call_impl is None for layer in layers)


def test_a_step_of_grpo_learns_from_rewards_as_trl_is_given_them() -> None:
    learner, questions = new_online(make_bench(size.MINIATURE, torch.device("cpu")), "grpo")
    experience = gather(learner, questions, seed=0)
    first = experience.credit.advantages[:, 0].view(2, 4)
    # Two prompts, four responses each, of which the second and the fourth are right.
    assert (first[:, 1::2] > 0).all()
    assert (first[:, ::2] < 0).all()


def test_a_share_of_the_peak_stands_beside_one_of_a_measured_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "peak_of", lambda device: ("G1", 1000e12))
    monkeypatch.setattr(clock, "product_rate", lambda device: 800e12)
    found = clock.speed("step", size.MINIATURE, torch.device("cpu"), 10, 100e12, [0.25])
    # 100 TFLOP in 0.25 s are 400 TFLOP/s: 40 % of 1000 and 50 % of 800.
    assert found[1].values == (40.0,)
    assert "50 % of a product's 800 TFLOP/s, measured" in found[1].detail

    # The rate of a product is that of the seconds it takes.
    monkeypatch.undo()
    monkeypatch.setattr(clock, "in_turn", lambda actions, device, repeats, times: [[0.5, 1, 2]])
    # 2 * 10^3 operations, 1 s in the median.
    assert clock.product_rate.__wrapped__(torch.device("cpu"), edge=10) == 2000


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H100 NVL", 835e12), ("NVIDIA H200", 989e12)])
def test_a_peak_is_that_of_the_very_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert size.peak_of(torch.device("cuda")) == (name, peak)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_does_not_pretend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main([])
    assert "there is no GPU; --miniature runs the same code on a CPU" in capsys.readouterr().err
    with pytest.raises(Unavailable, match="needs a GPU"):
        figures(tmp_path, repeats=1)
    (told,) = run_benchmark("gpu", tmp_path, repeats=1)
    assert told.startswith("Not run: needs a GPU")


def test_operations_are_two_for_every_weight_of_a_matrix_and_token() -> None:
    assert doctest.testmod(size).failed == 0
    architecture = {**HALF_BILLION.architecture, "num_hidden_layers": 2}
    small = Size("", architecture, 40, 1, 1, 1, 1, 1, (1, 1))
    model = new_model(small.architecture, size.word_tokenizer(40), seed=0)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    # Embedding and head share their weights: the head is the one use of them that multiplies.
    tokens = 7
    attention = 2 * tokens * 2 * 896 * tokens
    expected = 2 * matrices * tokens + attention
    assert forward_flops(small, rows=1, length=tokens, scored=tokens) == expected


def test_the_shape_is_that_of_half_a_billion_weights() -> None:
    # Qwen2.5-0.5B has 494,032,768 weights.
    config = Qwen2Config(**HALF_BILLION.architecture, vocab_size=HALF_BILLION.vocabulary)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 494_032_768
