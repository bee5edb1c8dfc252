"""Tokens that a policy draws a second: into a cache of fixed size, into one that grows, by vLLM."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.figure import Figure, ratio
from benchmarks.gpu.clock import in_turn
from benchmarks.gpu.training import Bench
from rlsubnet.evaluation.generate import SampleRequest, generate, noise_generator
from rlsubnet.evaluation.sampler import Sampler, StaticSampler
from rlsubnet.evaluation.vllm import VllmSampler, vllm_version


def _draw(bench: Bench, prompts: list[list[int]], way: Sampler) -> Tensor:
    size, noise = bench.size, noise_generator(bench.device, 1)
    ends = {"eos": size.vocabulary - 2, "pad": size.vocabulary - 1}
    return way(SampleRequest(prompts, size.response, 1.0, noise, size.group, **ends))


def rollout_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return tokens a second of both ways, in turn, and how much quicker the first is."""
    size, model = bench.size, bench.model
    prompts = [bench.tokens(size.prompt) for _ in range(size.sequences // size.group)]

    ways = StaticSampler(model), partial(generate, model)
    static, growing = (partial(_draw, bench, prompts, way) for way in ways)
    # Random weights end hardly a response before its last token, and as many in both ways.
    count = static().numel()
    times = in_turn([static, growing], model.device, repeats)
    ours, theirs = ([count / t for t in found] for found in times)
    what = f"rollouts, {size.sequences} responses of {size.response} tokens, {size.name}"
    names = ("static", "growing")
    beside = ratio(
        f"{what}: static beside growing cache", ours, theirs, "tokens/s", names, more_is_better=True
    )
    return [Figure(what, tuple(ours), "tokens/s"), beside]


def vllm_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return tokens a second of vLLM with the model's weights, and of the static cache beside it.

    A round also gives vLLM the weights, as every step of a run does.
    """
    size, model = bench.size, bench.model
    prompts = [bench.tokens(size.prompt) for _ in range(size.sequences // size.group)]
    engine, static = VllmSampler(model), StaticSampler(model)

    own = partial(_draw, bench, prompts, static)

    def theirs() -> Tensor:
        with torch.no_grad():
            next(model.parameters()).add_(0)  # written, so that the weights are sent again
        return _draw(bench, prompts, engine)

    count = own().numel()
    theirs()  # also compares the two
    times = in_turn([theirs, own], model.device, repeats)
    vllm, beside_it = ([count / t for t in found] for found in times)
    what = f"rollouts by vLLM {vllm_version()}, weights sent each time, {size.name}"
    beside = ratio(
        f"{what}: beside the static cache",
        vllm,
        beside_it,
        "tokens/s",
        ("vllm", "static"),
        more_is_better=True,
    )
    engine.close()
    return [Figure(what, tuple(vllm), "tokens/s"), beside]
