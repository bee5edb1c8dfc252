"""Tokens that a policy draws a second, into a cache of fixed size and into one that grows."""

from collections.abc import Callable

from torch import Tensor

from benchmarks.figure import Figure, ratio
from benchmarks.gpu.clock import in_turn
from benchmarks.gpu.training import Bench
from rlsubnet.evaluation.generate import generate_growing
from rlsubnet.evaluation.static_cache import generate_static, noise_generator


def rollout_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return tokens a second of both ways, in turn, and how much quicker the first is."""
    size, model = bench.size, bench.model
    prompts = [bench.tokens(size.prompt) for _ in range(size.sequences // size.group)]
    ends = {"eos_token_id": size.vocabulary - 2, "pad_token_id": size.vocabulary - 1}

    def draw(way: Callable[..., Tensor]) -> Callable[[], Tensor]:
        def once() -> Tensor:
            noise = noise_generator(model.device, 1)
            return way(model, prompts, size.response, 1.0, noise, samples=size.group, **ends)

        return once

    static, growing = draw(generate_static), draw(generate_growing)
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
