"""What the sheets say about a pair: how far it was trained, on what, and with which other seeds."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlsubnet.config import Pair, Run, Scale
from rlsubnet.config.model import ONLINE, PROBLEM_KINDS, Recipe, learning_rate
from rlsubnet.config.scale import suite_kind
from rlsubnet.config.schema import ANSWERED_KINDS
from rlsubnet.report.export import tolerance_name
from rlsubnet.suites import MADE_UP_CHOICES, OLMES_SUITES

DRAWN_WHILE_TRAINING = "answers of the policy, drawn while it is trained"
ANSWERS_OF_THE_START = "answers of the start"
DATA_OF_THE_START = "what the start was trained on"
OTHER_DATA = "other data"


def recipe_of(scale: Scale, run: str) -> dict[str, Any]:
    """Return the recipe of a run with its own settings and what its trainer implies.

    ``steps`` is the number of optimizer steps, None where only the data tell.
    """
    recipe = scale.recipe(run)
    return recipe.model_dump(exclude={"backend"}) | recipe.implied()


def runs_between(scale: Scale, pair: Pair) -> list[Run]:
    """Return the runs that lead from a pair's init to its tuned; none if no such line exists."""
    line: list[Run] = []
    name = pair.tuned
    while name != pair.init:
        if name not in scale.runs:
            return []
        line.insert(0, scale.runs[name])
        name = scale.runs[name].init
    return line


def steps_columns(scale: Scale, pair: Pair) -> dict[str, Any]:
    """Return peak learning rate, steps, and the sum of the learning rates of all steps.

    AdamW moves a weight by at most about the learning rate a step, so the sum says how far a weight
    can have come; with a linear decay to zero it is about half the peak times the steps. Several
    runs in a row are added up. Empty where the sheet does not make the tuned model; the rate alone
    where it does not tell the steps.
    """
    runs = runs_between(scale, pair)
    if not runs:
        return {}
    recipes = [recipe_of(scale, run.run) for run in runs]
    peaks = dict.fromkeys(float(recipe["lr"]) for recipe in recipes)
    rate = {"lr": ", ".join(tolerance_name(peak) for peak in peaks)}
    if any(recipe["steps"] is None for recipe in recipes):
        return rate
    return rate | {
        "steps": sum(int(recipe["steps"]) for recipe in recipes),
        "lr_sum": sum(summed_rates(recipe) for recipe in recipes),
    }


def summed_rates(recipe: dict[str, Any]) -> float:
    """Return the sum of the learning rates of all optimizer steps.

    Ten steps, two of them warm-up, at a peak of 8: 4 + 8, then 8 + 7 + ... + 1.

    >>> summed_rates({"steps": 10, "lr": 8.0, "schedule": "linear", "warmup_ratio": 0.2})
    48.0
    """
    keys = ("steps", "lr", "schedule", "warmup_ratio")
    known = Recipe(batch_size=1, **{key: recipe[key] for key in keys})
    return sum(learning_rate(known, step) for step in range(1, known.steps + 1))


def data_of(scale: Scale, run: Run) -> str:
    """Return how near a run's data are to the distribution of the policy that it starts from.

    Out of the sheet alone, by the paper's two cases of in-distribution data (section 6): what the
    policy itself answered, and what it was trained on just before. Everything else is
    `OTHER_DATA`, answers of another model among it, however near they may be in truth.
    """
    if run.algorithm in ONLINE:
        return DRAWN_WHILE_TRAINING
    spec = scale.config["data"][run.data]
    # Word problems name a policy for the form of their prompts, too.
    if spec.get("policy") == run.init and spec["kind"] in ANSWERED_KINDS:
        return ANSWERS_OF_THE_START
    if run.init in scale.runs and scale.runs[run.init].data == run.data:
        return DATA_OF_THE_START
    return OTHER_DATA


def distribution_columns(scale: Scale, pair: Pair) -> dict[str, str]:
    """Return where a pair's training data came from and whether they were in distribution.

    Several runs in a row are in distribution where each of them is. Empty where the sheet does not
    make the tuned model.
    """
    runs = runs_between(scale, pair)
    if not runs:
        return {}
    origins = list(dict.fromkeys(data_of(scale, run) for run in runs))
    return {
        "data_origin": "; ".join(origins),
        "in_distribution": "no" if OTHER_DATA in origins else "yes",
    }


def is_sft_stage(scale: Scale, pair: Pair) -> bool:
    """Return whether a pair is the SFT stage that other training starts from.

    SFT once more on top of another, and SFT that leads nowhere, are controls. A released model is
    what it was released as.
    """
    if pair.method != "SFT":
        return False
    start = scale.runs.get(pair.init)
    leads = pair.tuned not in scale.runs or pair.tuned in {run.init for run in scale.runs.values()}
    return leads and (start is None or start.algorithm != "sft")


def all_but_seed(scale: Scale, run: str) -> Hashable:
    """Return everything a run follows from except its seed: equal for two seeds of one setting.

    A masked run counts as one of the subnetwork of its own full run, whose seed it shares, or of
    the named pair.
    """
    row = scale.runs[run]
    recipe = scale.recipe(run).bits()
    mask = row.mask
    if _has_own_mask(scale, row):
        mask = "random, the size of its own" if row.has_random_mask else "its own"
    return (row.algorithm, row.init, row.data, json.dumps(recipe, sort_keys=True), mask)


def _has_own_mask(scale: Scale, run: Run) -> bool:
    if not run.mask:
        return False
    start = scale.pairs[run.mask_pair]
    full = scale.runs.get(start.tuned)
    same = ("algorithm", "init", "data", "seed")
    return (
        full is not None
        and not full.mask
        and start.init == run.init
        and all(getattr(full, name) == getattr(run, name) for name in same)
    )


def seed_groups(scale: Scale, pairs: Sequence[Pair], side: str) -> list[list[Pair]]:
    """Return pairs that differ in a seed only, together; all others alone; in the order given.

    The pairs of a group share method and all settings of their runs but the seed. Where a seed
    would stand twice, something that this cannot see differs, too, and each pair stays alone.
    `side` varies: `tuned` (one start, tuned with several seeds), or `init` (full runs of several
    seeds, each against its own sub).
    """
    groups: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        init = all_but_seed(scale, pair.init) if side == "init" else pair.init
        # A released model has no seed: its name keeps its pair alone.
        tuned = all_but_seed(scale, pair.tuned) if pair.tuned in scale.runs else pair.tuned
        groups.setdefault((pair.method, init, tuned), []).append(pair)
    found = []
    for group in groups.values():
        seeds = {
            scale.runs[run].seed for pair in group if (run := getattr(pair, side)) in scale.runs
        }
        found += [group] if len(seeds) == len(group) else [[pair] for pair in group]
    return found


def seed_text(scale: Scale, group: Sequence[Pair], side: str) -> str:
    """Return the seeds of a group in print: `42`, `mean of 42, 123`, nothing if released."""
    runs = [getattr(pair, side) for pair in group]
    seeds = ", ".join(str(scale.runs[run].seed) for run in runs if run in scale.runs)
    return f"mean of {seeds}" if len(group) > 1 else seeds


GREEDY, LIKELIHOOD = "greedy", "log-likelihood"


@dataclass(frozen=True)
class SuiteFacts:
    """How a suite was asked and what of the paper it stands for; tasks without the suite's name.

    `decoding` is empty where the number of samples tells, `stands_for` names tasks of Table 3(a),
    and levels of `math500` stand beside those of Table 3(b).
    """

    kind: str
    decoding: str = ""
    chances: Mapping[str, float] = field(default_factory=dict)
    stands_for: Mapping[str, str] = field(default_factory=dict)
    math500: bool = False

    def decoded(self, samples: int) -> str:
        return self.decoding or (GREEDY if samples == 1 else f"sampled, {samples} an item")

    def sampled(self, samples: int) -> bool:
        return self.decoding not in (GREEDY, LIKELIHOOD) if self.decoding else samples > 1


def suite_facts(config: Mapping[str, Any], suite: str) -> SuiteFacts:
    """Return what tables say of a suite that ``evaluation.suites`` names.

    >>> olmes = {"evaluation": {"backend": "olmes"}}
    >>> suite_facts(olmes, "table3a").stands_for["lsat_ar"], suite_facts(olmes, "aime2024").math500
    ('AGIEval LSAT-AR', False)
    """
    kind = suite_kind(config, suite)
    if config["evaluation"]["backend"] == "olmes":
        found = OLMES_SUITES[suite]
        tasks = {task.name.removeprefix(f"{suite}_"): task for task in found.tasks}
        return SuiteFacts(
            kind,
            found.decoding,
            {name: task.chance for name, task in tasks.items() if task.chance is not None},
            {name: task.paper for name, task in tasks.items() if task.paper},
            math500=any(task.levels for task in tasks.values()),
        )
    if kind in PROBLEM_KINDS:
        return SuiteFacts("problems", math500=kind == "problems")
    made = MADE_UP_CHOICES if kind == "choices" else {}
    return SuiteFacts(
        kind,
        LIKELIHOOD,
        {name: task.chance for name, task in made.items()},
        {name: task.stands_for for name, task in made.items()},
    )
