"""What a scale costs before anything is run: GPU hours and disk, for each table and figure."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import reduce
from math import ceil
from operator import or_
from typing import Any

from rlsubnet.config.layout import mask_name
from rlsubnet.config.scale import Scale
from rlsubnet.config.schema import Pair
from rlsubnet.items import ITEMS

BFLOAT16 = 2.0
# Bytes a weight of a saved step: a tenth of the model where a quarter of the weights changed
# (docs/DELTA_FORMAT.md), by Figure 5 the most.
DELTA = BFLOAT16 / 10


@dataclass
class Needs:
    """The checkpoints behind an item: models, runs, masks, and what of the runs is evaluated."""

    models: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    masks: set[str] = field(default_factory=set)
    evaluated: set[str] = field(default_factory=set)
    evaluated_steps: set[str] = field(default_factory=set)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Cost:
    """What an item costs at most.

    Attributes:
        runs: training runs.
        gpu_hours: time limits of training and evaluation, times their GPUs.
        disk: bytes of models, runs with their saved steps, and masks that are kept.
        under_way: bytes that the job with the most fills while it runs, what it keeps included.
    """

    runs: int
    gpu_hours: float
    disk: float
    under_way: float


def _checkpoint(scale: Scale, name: str) -> Needs:
    """Return a model or run with all it waits for."""
    if name not in scale.runs:
        architecture = "architecture" in scale.config["models"][name]
        return Needs() if architecture else Needs(models={name})
    run = scale.runs[name]
    found = Needs(runs={name}) | _checkpoint(scale, run.init)
    if run.mask:
        mask = Needs(masks={mask_name(run.mask_pair, run.mask_kind)})
        found |= mask | _pair(scale, scale.pairs[run.mask_pair])
    policy = scale.config["data"][run.data].get("policy")
    return found | _checkpoint(scale, policy) if policy else found


def _pair(scale: Scale, pair: Pair) -> Needs:
    return _checkpoint(scale, pair.init) | _checkpoint(scale, pair.tuned)


def item_needs(scale: Scale, item: str) -> Needs:
    """Return what the rows that name an item need."""
    found = Needs()
    for pair in scale.pairs.values():
        if item in pair.items:
            found |= _pair(scale, pair)
            if "scores" in ITEMS[item].runs:
                found |= Needs(evaluated={pair.init, pair.tuned} & set(scale.runs))
            if "step_scores" in ITEMS[item].steps and scale.config["evaluation"]["step_suites"]:
                found |= Needs(evaluated_steps={pair.tuned})
    for comparison in scale.comparisons.values():
        if item in comparison.items:
            for name in (comparison.pair1, comparison.pair2):
                mask = Needs(masks={mask_name(name, "official")})
                found |= mask | _pair(scale, scale.pairs[name])
    return found


def parameters_of(scale: Scale, name: str) -> float:
    """Return the number of weights of a model or run: that of the model it comes from."""
    while name in scale.runs:
        name = scale.runs[name].init
    return float(scale.config["models"][name].get("parameters", 0))


def _run_bytes(scale: Scale, name: str) -> float:
    """Return what a run keeps: its model, and the steps that it saves along its way."""
    recipe: Any = scale.recipe(name)
    steps = ceil(recipe.steps / recipe.checkpoint_every) if scale.saves_steps(name) else 0
    return (BFLOAT16 + DELTA * steps) * parameters_of(scale, name)


def cost_of(scale: Scale, needs: Needs) -> Cost:
    """Return the cost of what is needed, each thing counted once."""
    backends = [scale.backend_of(run) for run in needs.runs]
    kinds = ["train" if backend == "native" else f"train_{backend}" for backend in backends]
    kinds += ["evaluate"] * (len(needs.evaluated) + len(needs.evaluated_steps))
    jobs = [scale.config["resources"][kind] for kind in kinds]
    models = scale.config["models"]
    stored = [parameters_of(scale, n) * models[n]["bytes_per_parameter"] for n in needs.models]
    stored += [_run_bytes(scale, run) for run in needs.runs]
    pairs = [scale.pairs[mask.partition("__")[0]] for mask in needs.masks]
    stored += [parameters_of(scale, pair.init) / 8 for pair in pairs]
    return Cost(
        runs=len(needs.runs),
        gpu_hours=sum(job["gpus"] * job["nodes"] * job["runtime"] for job in jobs) / 60,
        disk=sum(stored),
        under_way=max((1e6 * job["disk_mb"] for job in jobs), default=0.0),
    )


def item_costs(scale: Scale) -> dict[str, Cost]:
    """Return the cost of every item that some row names, and of ``all`` of the scale.

    Items share checkpoints: their costs do not add up to that of ``all``.
    """
    needs = {item: item_needs(scale, item) for item in ITEMS}
    costs = {item: cost_of(scale, found) for item, found in needs.items() if found != Needs()}
    # Every run is evaluated, whether a table asks for it or not.
    whole = reduce(or_, needs.values())
    whole |= Needs(evaluated=set(scale.runs) if scale.config["evaluation"]["suites"] else set())
    for name in (*scale.runs, *(side for p in scale.pairs.values() for side in (p.init, p.tuned))):
        whole |= _checkpoint(scale, name)
    return {**costs, "all": cost_of(scale, whole)}


def cost_lines(costs: dict[str, Cost]) -> Iterator[str]:
    """Yield a table of costs, disk in GB."""
    heads = ("item", "runs", "GPU hours, at most", "disk, GB", "under way, GB")
    yield "{:<10}{:>6}{:>20}{:>12}{:>15}".format(*heads)
    for item, cost in costs.items():
        kept, most = cost.disk / 1e9, cost.under_way / 1e9
        yield f"{item:<10}{cost.runs:>6}{cost.gpu_hours:>20,.0f}{kept:>12,.0f}{most:>15,.0f}"
