"""Steps of SFT, DPO and GRPO as this project's trainer takes them, and what a mask costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.figure import Figure, ratio
from benchmarks.gpu.clock import in_turn, speed
from benchmarks.gpu.size import Size, forward_flops, random_model, word_tokenizer
from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.config.model import Recipe
from rlsubnet.training.batches import Example, Sample, collate, split_batch
from rlsubnet.training.credit import Credit, CreditAssigner, Question, Rollouts
from rlsubnet.training.loop import ALGORITHMS, reference_logps, train_step
from rlsubnet.training.masking import attach_mask
from rlsubnet.training.model import (
    bytes_per_logit,
    bytes_per_sequence,
    copied,
    device_memory,
    fewest_parts,
)
from rlsubnet.training.online import Learner, gather, new_learner, policy_step
from rlsubnet.training.optimizer import MasterOptimizer

# What DPO is expected to reach of a GPU's peak, and what a mask may cost.
GOAL_MFU, GOAL_MASK = 40.0, 3.0
# Share of the weights in the mask.
DENSITY = 0.2


@dataclass(frozen=True)
class Bench:
    """A model and what it is trained on.

    Attributes:
        size: of both.
        model: in bfloat16, on its device.
        rng: where tokens come from.
    """

    size: Size
    model: PreTrainedModel
    rng: np.random.Generator

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.model.device

    def recipe(self, examples: int, rows: int, **keys: Any) -> Recipe:
        """Return a recipe for batches of ``rows`` sequences in as few parts as memory allows."""
        fixed: dict[str, Any] = {"steps": 1000, "lr": 1e-6, "compute": "bfloat16"}
        recipe = Recipe(batch_size=examples, **fixed, **keys)
        response, logit = self.size.response, bytes_per_logit(recipe, online="samples" in keys)
        needed = bytes_per_sequence(
            self.model.config, False, self.size.prompt + response, response, logit
        )
        parts = fewest_parts(rows, examples, needed, device_memory(self.device))
        return recipe.but(accumulate=parts)

    def tokens(self, count: int) -> list[int]:
        """Return random tokens, none of which ends a response."""
        found: list[int] = self.rng.integers(0, self.size.vocabulary - 2, count).tolist()
        return found

    def examples(self, count: int, members: int) -> list[Example]:
        """Return sequences of one length, ``members`` to a prompt."""
        made = []
        for _ in range(count):
            prompt = self.tokens(self.size.prompt)
            made.append(
                tuple(
                    Sample(prompt + self.tokens(self.size.response), len(prompt))
                    for _ in range(members)
                )
            )
        return made


def make_bench(size: Size, device: torch.device) -> Bench:
    """Return what the steps of all algorithms are measured on."""
    return Bench(size, random_model(size, device), np.random.default_rng(0))


def offline_step(
    bench: Bench, name: str, examples: list[Example], mask: Path | None = None
) -> Callable[[], object]:
    """Return a step of an algorithm on one batch; making the batch is part of it."""
    size, algorithm = bench.size, ALGORITHMS[name]
    recipe = bench.recipe(len(examples), len(examples) * len(examples[0]))
    optimizer = MasterOptimizer(dict(bench.model.named_parameters()), recipe)
    if mask is not None:
        optimizer.mask = attach_mask(optimizer.inner, optimizer.masters, Mask(mask))
    pad, reference = size.vocabulary - 1, None
    if algorithm.reference:
        part = recipe.batch_size // recipe.parts
        reference = reference_logps(bench.model, examples, pad, part)

    def step() -> object:
        parts = split_batch(examples, np.arange(len(examples)), recipe.parts)
        batches = [collate(examples, part, pad, bench.device) for part in parts]
        return train_step(bench.model, optimizer, algorithm, batches, reference, None, recipe, 1)

    return step


def compiled(bench: Bench) -> Bench:
    """Return the same with a model of its own, whose layers are compiled as by ``compile``."""
    return replace(bench, model=copied(bench.model, bench.recipe(1, 1, compile=True)))


def random_mask(bench: Bench, folder: Path) -> Path:
    """Write a mask of random positions; return its file."""
    path = folder / "mask.safetensors"
    bits = {
        name: bench.rng.random(parameter.shape, np.float32) < DENSITY
        for name, parameter in bench.model.named_parameters()
    }
    save_mask(path, bits, {"rule": "random"})
    return path


def offline_figures(bench: Bench, folder: Path, repeats: int) -> list[Figure]:
    """Return speed of SFT and DPO, and the cost of a mask beside DPO without, in turn."""
    size, rows, figures = bench.size, bench.size.sequences, []
    length = size.prompt + size.response
    flops = 3 * forward_flops(size, rows, length, size.response)
    sft = offline_step(bench, "sft", bench.examples(rows, 1))
    (times,) = in_turn([sft], bench.device, repeats, size.steps)
    figures += speed("SFT step", size, bench.device, rows * length, flops, times)
    del sft  # with its masters and moments
    pairs = bench.examples(rows // 2, 2)
    whole = offline_step(bench, "dpo", pairs)
    masked = offline_step(bench, "dpo", pairs, random_mask(bench, folder))
    times, with_mask = in_turn([whole, masked], bench.device, repeats, size.steps)
    figures += speed("DPO step", size, bench.device, rows * length, flops, times, GOAL_MFU)
    costs = tuple(100 * (b / a - 1) for a, b in zip(times, with_mask, strict=True))
    goal = GOAL_MASK if bench.device.type == "cuda" else None
    what = f"mask of {DENSITY:.0%} of the weights, more time of a DPO step, {size.name}"
    return [*figures, Figure(what, costs, "%", goal, at_least=False)]


def compiled_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return speed of DPO with compiled layers, and how much quicker it is than without."""
    size, rows, length = bench.size, bench.size.sequences, bench.size.prompt + bench.size.response
    pairs = bench.examples(rows // 2, 2)
    steps = [offline_step(one, "dpo", pairs) for one in (compiled(bench), bench)]
    ours, eager = in_turn(steps, bench.device, repeats, size.steps)
    flops = 3 * forward_flops(size, rows, length, size.response)
    what = "DPO step, compiled layers"
    beside = ratio(
        f"{what} beside others, {size.name}",
        [1e3 * t for t in ours],
        [1e3 * t for t in eager],
        "ms",
        ("compiled", "eager"),
    )
    return [*speed(what, size, bench.device, rows * length, flops, ours, GOAL_MFU), beside]


def every_other_right(credit: CreditAssigner) -> CreditAssigner:
    """Let every other response count as right, since none of random weights is.

    With no reward at all every gradient would be 0, and zeros cost a GPU less time.
    """
    assign = credit.assign

    def as_if(rollouts: Rollouts, reference: Tensor) -> Credit:
        outcomes = torch.zeros_like(rollouts.outcomes)
        outcomes[1::2] = 1
        return assign(replace(rollouts, outcomes=outcomes), reference)

    credit.assign = as_if  # type: ignore[method-assign]
    return credit


def new_online(bench: Bench, algorithm: str) -> tuple[Learner, list[Question]]:
    """Return a run of GRPO or PRIME and the prompts of a step; every other answer is right."""
    size = bench.size
    prompts = size.sequences // size.group
    recipe = bench.recipe(
        prompts, size.sequences, samples=size.group, max_new_tokens=size.response, kl_coef=0.04
    )
    optimizer = MasterOptimizer(dict(bench.model.named_parameters()), recipe)
    tokenizer = word_tokenizer(size.vocabulary)
    learner = new_learner(algorithm, bench.model, optimizer, tokenizer, recipe)
    every_other_right(learner.credit)
    return learner, [Question(bench.tokens(size.prompt), ";08") for _ in range(prompts)]


def grpo_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return speed of GRPO's steps with what they learn from, and of learning alone."""
    size, device = bench.size, bench.device
    learner, questions = new_online(bench, "grpo")
    drawn = gather(learner, questions, seed=0)

    def whole() -> object:
        return policy_step(learner, gather(learner, questions, seed=0), 1)

    whole_times, learning = in_turn(
        [whole, lambda: policy_step(learner, drawn, 1)], device, repeats
    )
    rows, length = size.sequences, size.prompt + size.response
    forward = forward_flops(size, rows, length, size.response)
    figures = speed("GRPO, learning", size, device, rows * length, 3 * forward, learning)
    times = whole_times
    # Drawing takes a forward pass of its own, scoring by the reference another.
    return figures + speed(
        "GRPO step, drawing and scoring included", size, device, rows * length, 5 * forward, times
    )
