"""Checks of single operations: their numbers beside the CPU's, and whether their bits repeat."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from benchmarks.device.parts import Finding, Place
from rlsubnet.config.read import read_yaml
from rlsubnet.evaluation import sampler
from rlsubnet.evaluation.generate import SampleRequest, generate, noise_generator
from rlsubnet.evaluation.loading import attention_on, deterministic
from rlsubnet.evaluation.score import response_logprobs
from rlsubnet.measure import sparsity
from rlsubnet.measure.rank import update_rank
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.batches import Example, Sample, collate
from rlsubnet.training.device import count_changed
from rlsubnet.training.model import move_model, new_model, score_batch

TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128,
}
END, PAD = 2, 0
FLASH = 1  # torch.nn.attention.SDPBackend.FLASH_ATTENTION


def expect(holds: bool, message: str) -> None:
    """Raise AssertionError with a message unless something holds."""
    if not holds:
        raise AssertionError(message)


def architecture(place: Place) -> dict[str, Any]:
    """Return the shape of 75 million weights, or of few for a CPU."""
    if place.miniature:
        return TINY
    shape: dict[str, Any] = read_yaml("config/gpu/short.yaml")["models"]["small"]["architecture"]
    return shape


def policy(device: torch.device, dtype: torch.dtype, shape: dict[str, Any] = TINY) -> Any:
    """Return a model whose random weights are large enough to prefer some tokens."""
    model: PreTrainedModel = new_model(
        {**shape, "initializer_range": 0.05}, build_tokenizer(), seed=0
    )
    move_model(model, device, dtype)
    return model


def examples(count: int, length: int, given: int, members: int = 1) -> list[Example]:
    """Return sequences of somewhat different lengths, ``members`` to an example."""
    rng = np.random.default_rng(0)

    def sample() -> Sample:
        words = rng.integers(3, 21, length - 2 - rng.integers(0, 6)).tolist()
        return Sample([1, *words, END], given)

    return [tuple(sample() for _ in range(members)) for _ in range(count)]


def attention(place: Place) -> Iterator[Finding]:
    """Attention of training: which kernel is taken, how near it is, whether its bits repeat."""
    for heads, groups, length in [(4, 2, 9)] if place.miniature else [(12, 4, 57), (14, 2, 511)]:
        noise = torch.Generator().manual_seed(length)
        inputs = [
            torch.randn((4, count, length, 64), generator=noise).bfloat16()
            for count in (heads, groups, groups)
        ]
        first, second = attend(place, inputs), attend(place, inputs)
        pairs = zip(first, attend_exactly(inputs), strict=True)
        errors = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in pairs]
        what = f"{heads}/{groups} heads, {length} tokens"
        yield {"what": what, "errors": [float(f"{error:.2g}") for error in errors]}
        expect(max(errors) < 2e-2, f"{what}: relative errors of output and gradients {errors}")
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        expect(same, f"{what}: two passes on the same numbers differ")


def attend(place: Place, inputs: list[Tensor]) -> list[Tensor]:
    """Return attention's output and gradients on the device."""
    q, k, v = (part.to(place.device, copy=True).requires_grad_() for part in inputs)
    with deterministic(place.device):
        if place.is_gpu:
            kind = torch._fused_sdp_choice(q, k, v, is_causal=True, enable_gqa=True)
            expect(kind == FLASH, f"torch takes kernel {kind}, expected flash attention, {FLASH}")
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        grads = torch.autograd.grad(out.sum(), (q, k, v))
    return [out.detach(), *grads]


def attend_exactly(inputs: list[Tensor]) -> list[Tensor]:
    """Return the same in float64 on the CPU, by the formula."""
    q, k, v = (part.double().requires_grad_() for part in inputs)
    repeats = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(repeats, 1).transpose(2, 3) / q.shape[-1] ** 0.5
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    out = weights @ v.repeat_interleave(repeats, 1)
    return [out.detach(), *torch.autograd.grad(out.sum(), (q, k, v))]


def probabilities(place: Place) -> Iterator[Finding]:
    """Log-probabilities on the device beside the CPU's; padded prompts beside prompts alone."""
    cpu, shape, batch = torch.device("cpu"), architecture(place), examples(8, 57, 25)
    for dtype, most in ((torch.float32, 2e-4), (torch.bfloat16, 0.15)):
        scores = []
        for device, kind in ((cpu, torch.float32), (place.device, dtype)):
            model = policy(device, kind, shape)
            with torch.no_grad(), attention_on(device) if kind == dtype else nullcontext():
                found = score_batch(model, collate(batch, range(8), PAD, device))
            scores.append(found.double().cpu())
        error = float((scores[0] - scores[1]).abs().max())
        yield {"what": str(dtype), "most_nats": error}
        expect(error < most, f"{dtype}: off by {error} nats, expected less than {most}")
    model = policy(place.device, torch.float32, shape)
    prompts, answers = [[1, 4, 5, 6], [1, 7]], [[8, 9, END], [3, END]]
    sums = response_logprobs(model, prompts, answers)
    alone = [response_logprobs(model, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    expect(np.allclose(sums, alone, atol=1e-3), f"padded {sums}, alone {alone}")


def drawing(place: Place) -> Iterator[Finding]:
    """The cache of fixed size: greedy tokens, graphs beside kernels, frequencies of samples."""
    ends: dict[str, Any] = {"eos": END, "pad": PAD}
    model, rng = policy(place.device, torch.float32), np.random.default_rng(0)
    draw = sampler.StaticSampler(model)
    for longest in (9, 25, 14, 25):
        prompts = [[1, *rng.integers(3, 21, count).tolist()] for count in range(1, longest, 3)]
        wanted = SampleRequest(prompts, 20, **ends)
        ours, growing = draw(wanted), generate(model, wanted)
        width = min(ours.shape[1], growing.shape[1])
        expect(torch.equal(ours[:, :width], growing[:, :width]), f"up to {longest}: other tokens")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    half = policy(place.device, torch.bfloat16)

    def sampled(prompts: list[list[int]], room: int, count: int) -> Tensor:
        noise = noise_generator(half.device, 5)
        return sampler.StaticSampler(half)(SampleRequest(prompts, room, 1.0, noise, count, **ends))

    prompts = [[1, 4, 5], [1, 6, 7, 8, 9]]
    by_graph, again = (sampled(prompts, 12, 8) for _ in range(2))
    sampler.GRAPHS = False  # in this process alone
    by_kernels = sampled(prompts, 12, 8)
    expect(torch.equal(by_graph, again), "the same seed drew other tokens")
    expect(torch.equal(by_graph, by_kernels), "a graph draws other tokens than its kernels")
    with torch.no_grad():
        logits = half(torch.tensor(prompts[1:], device=place.device)).logits[0, -1]
    wanted = logits.double().softmax(-1).cpu()
    count = 400 if place.miniature else 20_000
    first = torch.bincount(sampled(prompts[1:], 1, count)[:, 0], minlength=len(wanted))
    chi_square = float(((first - count * wanted) ** 2 / (count * wanted)).sum())
    yield {"what": f"{count} first tokens", "chi_square": chi_square, "freedom": len(wanted) - 1}
    expect(chi_square < 60, f"chi square {chi_square:.1f}, expected less than 60")


def bfloat16_pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of bfloat16: half of them any, half like weights; and neighbours of them."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 1 << 16, size, dtype=np.uint16)
    weights = rng.normal(0, 0.02, size // 2).astype(np.float32).view(np.uint32) >> 16
    before[: size // 2] = weights.astype(np.uint16)
    after = (before + rng.integers(-2, 3, size)) & 0xFFFF
    return before, after.astype(np.uint16)


def counts(place: Place) -> Iterator[Finding]:
    """Changes, overlap and rank on the device: the integers of the files' way."""
    size = 4096 if place.miniature else 3_000_000
    before, after = bfloat16_pairs(size)
    init, tuned = (
        torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).to(place.device)
        for codes in (before, after)
    )
    thresholds = (sparsity.official_threshold, sparsity.exact_threshold)
    for rule, threshold in zip(sparsity.RULES, thresholds, strict=True):
        for atol in sparsity.TOLERANCES:
            here = sparsity.changed(before, after, rule, atol).sum()
            counted = int(count_changed([(init, tuned)], threshold(atol)))
            expect(counted == here, f"{rule} at {atol}: {counted} counted, {here} are")
    start = torch.randn(96, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    end = (start.float() + 0.01 * (torch.rand(96, 256) < 0.02)).bfloat16()
    delta = (end - start).float()
    rank = update_rank(delta.numpy(), place.device.type).rank
    alone = int(torch.linalg.matrix_rank(delta))
    expect(rank == alone, f"rank {rank} on the device, {alone} by matrix_rank on the CPU")
    yield {"what": f"{size} weights, all rules and tolerances", "rank": rank}
    if place.is_gpu:  # more weights than an int32 counts
        many = 2**31 + 4096
        zeros = torch.zeros(many, dtype=torch.bfloat16, device=place.device)
        found = int(count_changed([(zeros, torch.ones_like(zeros))]))
        yield {"what": "2^31 + 4096 changed weights", "counted": found}
        expect(found == many, f"{many} changed weights, {found} were counted")
