"""Which updates and runs a claim is about, and their plain numbers; shares are per cent."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rlsubnet.config import Comparison, Pair, Scale
from rlsubnet.report.figure_data import logs_of
from rlsubnet.report.paired import Compared, compare_items, paired_answers
from rlsubnet.report.results import (
    TABLE5_NAMES,
    Published,
    Results,
    at_tolerance,
    clipped_share,
    late_fall,
    layer_sparsity,
    mean_rank_share,
    model_name,
    saved_steps,
    sparsity,
    spelling,
)
from rlsubnet.report.settings import (
    GREEDY,
    ONLINE,
    all_but_seed,
    distribution_columns,
    is_sft_stage,
    recipe_of,
    runs_between,
    suite_facts,
)
from rlsubnet.report.style import METHODS, RL_METHODS
from rlsubnet.report.tables import (
    MEAN_OF_SEEDS,
    ONE_OF_THE_SEEDS,
    pairs_of,
    sparsity_percent,
    tolerance_of,
)
from rlsubnet.report.tables.accuracy import (
    PREFERENCES,
    Accuracy,
    Gain,
    accuracies,
    measured_gains,
)
from rlsubnet.report.tables.weights import masked_pairs

SPARSE_ITEMS = ("table1", "fig1")
OFFLINE_WITHOUT_KL = ("simpo", "orpo")
Named = list[tuple[str, float, float]]  # a run or a pair, and two numbers of it


class Source(NamedTuple):
    """A scale, its results and what the paper prints."""

    scale: Scale
    results: Results
    published: Published


class Pace(NamedTuple):
    """What sparsity follows first: learning rate, number of steps, schedule and optimizer."""

    lr: float
    steps: int
    schedule: str
    optimizer: str


@dataclass(frozen=True)
class Update:
    """How sparse one pair is: `own` if both checkpoints are the paper's, `pace` if we trained."""

    pair: Pair
    sparsity: float
    own: bool
    pace: Pace | None

    @property
    def is_rl(self) -> bool:
        return self.pair.method in RL_METHODS


def pace_of(scale: Scale, pair: Pair) -> Pace | None:
    """Return at what pace a pair was trained; the steps of runs in a row are summed.

    None where no run made it, where its runs differ in rate, or where the sheet tells no steps.
    """
    recipes = [recipe_of(scale, run.run) for run in runs_between(scale, pair)]
    if any(recipe["steps"] is None for recipe in recipes):
        return None
    kinds = {(float(r["lr"]), r["schedule"], r["optimizer"]) for r in recipes}
    if len(kinds) != 1:
        return None
    [(rate, schedule, optimizer)] = kinds
    return Pace(rate, sum(int(recipe["steps"]) for recipe in recipes), schedule, optimizer)


def is_papers(source: Source, pair: Pair) -> bool:
    """Return whether a pair's checkpoints are the released ones of its `paper_model`.

    Both names must be spelled like the paper's but for case and punctuation; of the start only
    where Table 1 prints one.
    """
    if {pair.init, pair.tuned} & set(source.scale.runs) or not pair.paper_model:
        return False
    wanted = model_name(pair.paper_model)
    starts = {row["rl"]: row["init"] for row in source.published["table1"]["rows"]}
    names = {pair.tuned, TABLE5_NAMES.get(pair.tuned, pair.tuned)}
    same_start = spelling(starts.get(wanted, pair.init)) == spelling(pair.init)
    return same_start and spelling(wanted) in {spelling(name) for name in names}


def updates_of(source: Source, *items: str) -> list[Update]:
    """Return the sparsity of every pair that names one of the items, RL first, sheet order."""
    scale, results, _ = source
    pairs = {pair.pair: pair for item in items for pair in pairs_of(scale, item)}
    return [
        Update(
            pair,
            sparsity_percent(scale, results, pair.pair),
            is_papers(source, pair),
            pace_of(scale, pair),
        )
        for pair in pairs.values()
    ]


def reinforced(source: Source) -> list[Update]:
    """Return the RL pairs of Table 1 and Figure 1, without controls.

    Controls are masked runs, other optimizers than AdamW, the default of the paper's frameworks,
    and data out of distribution, which Takeaway 4 judges.
    """
    return [
        update
        for update in updates_of(source, *SPARSE_ITEMS)
        if update.is_rl
        and in_distribution(source, update.pair) is not False
        and not is_control(source.scale, update.pair)
    ]


def is_control(scale: Scale, pair: Pair) -> bool:
    """Return whether a pair was trained with a mask or with another optimizer than AdamW."""
    run = scale.runs.get(pair.tuned)
    return run is not None and (bool(run.mask) or recipe_of(scale, run.run)["optimizer"] != "adamw")


def supervised(source: Source) -> tuple[list[Update], list[Update]]:
    """Return (SFT stages, SFT controls at the pace and from the start of an RL run)."""
    matched = {(update.pair.init, update.pace) for update in reinforced(source) if update.pace}
    sft = [u for u in updates_of(source, *SPARSE_ITEMS, "table5") if u.pair.method == "SFT"]
    stages = [update for update in sft if is_sft_stage(source.scale, update.pair)]
    return stages, [update for update in sft if (update.pair.init, update.pace) in matched]


def in_distribution(source: Source, pair: Pair) -> bool | None:
    """Return whether a pair's training data were near its policy, None where nothing tells.

    By the sheets where they make the run, else by the paper's mark in Table 5.
    """
    ours = distribution_columns(source.scale, pair).get("in_distribution")
    if ours:
        return ours == "yes"
    printed = {
        (row["model"], row["method"]): bool(row["in_distribution"])
        for row in source.published["table5"]["rows"]
    }
    model = model_name(pair.paper_model)
    method = "DPO" if pair.method == "DPO_NORM" else pair.method
    return printed.get((TABLE5_NAMES.get(model, model), method))


def distributions(source: Source) -> tuple[list[Update], list[Update]]:
    """Return the pairs of Table 5 (in distribution, out of distribution), without controls."""
    found: tuple[list[Update], list[Update]] = ([], [])
    for update in updates_of(source, "table5"):
        inside = in_distribution(source, update.pair)
        if inside is not None and not is_control(source.scale, update.pair):
            found[0 if inside else 1].append(update)
    return found


def without_kl(source: Source) -> list[Update]:
    """Return the RL pairs whose loss holds no divergence from the start and no weight decay."""
    scale = source.scale
    marks = {row["rl"]: row["kl"] for row in source.published["table1"]["rows"]}
    found = []
    for update in reinforced(source):
        run = scale.runs.get(update.pair.tuned)
        if run is None:
            free = update.own and marks.get(update.pair.paper_model) is False
        else:
            recipe = recipe_of(scale, run.run)
            online = run.algorithm in ONLINE and not recipe["kl_coef"]
            free = (online or run.algorithm in OFFLINE_WITHOUT_KL) and not recipe["weight_decay"]
        if free:
            found.append(update)
    return found


def without_sft(source: Source) -> list[Update]:
    """Return on-policy RL that starts from a pretrained model, such as DeepSeek-R1-Zero."""
    scale = source.scale

    def from_base(update: Update) -> bool:
        run, start = scale.runs.get(update.pair.tuned), scale.runs.get(update.pair.init)
        ours = run is not None and run.algorithm in ONLINE
        return ours and start is not None and start.algorithm == "pretrain"

    zero = [u for u in reinforced(source) if u.own and u.pair.paper_model == "DeepSeek-R1-Zero"]
    return zero + [update for update in reinforced(source) if from_base(update)]


class Layers(NamedTuple):
    """Updated shares inside one model: layers as wholes, matrices, all layers together; norms."""

    pair: str
    layers: list[float]
    matrices: list[float]
    whole: float
    norms: float


def layers_of(source: Source, pairs: list[Pair]) -> list[Layers]:
    """Return densities by layer and matrix and unchanged norms, of models that have both."""
    atol = tolerance_of(source.scale)
    found = []
    for pair in pairs:
        updates = source.results.updates(pair.pair)
        rows = at_tolerance(updates, atol)
        inside, norms = rows[rows["layer"].notna()], rows[rows["matrix"].str.contains("norm")]
        if inside.empty or norms.empty:
            continue
        table = layer_sparsity(updates, atol)
        density = 100 * (1 - table["sparsity"])
        average = table["matrix"] == "average"
        vector = table["matrix"].str.contains(r"norm|\.bias")
        whole, unmoved = (
            100 * float(part["unchanged"].sum() / part["numel"].sum()) for part in (inside, norms)
        )
        matrices = density[~average & ~vector].tolist()
        found.append(Layers(pair.pair, density[average].tolist(), matrices, 100 - whole, unmoved))
    return found


def ranks_of(source: Source) -> tuple[Named, Named]:
    """Return the pairs of Table 2 (RL, SFT), without other controls.

    Of each its name, the mean rank of its update, and of the same changes at random positions.
    """
    found: tuple[Named, Named] = ([], [])
    for pair in pairs_of(source.scale, "table2"):
        if not is_control(source.scale, pair):
            ranks = source.results.get("ranks", pair.pair)
            shares = (mean_rank_share(ranks, name) for name in ("rank", "rank_of_random_control"))
            update, random = (100 * share for share in shares)
            found[0 if pair.method in RL_METHODS else 1].append((pair.pair, update, random))
    return found


def same_weights(source: Source, tolerance: float) -> Named:
    """Return (sub, equal weights of full and sub, of start and full: the null) of section 4."""
    scale, results, _ = source

    def equal(pair: Pair) -> float:
        return 100 * sparsity(results.updates(pair.pair), tolerance)

    return [
        (pair.tuned, equal(pair), equal(start))
        for pair, start in masked_pairs(scale)
        if not scale.runs[pair.tuned].has_random_mask
    ]


def random_subnetworks(source: Source) -> Named:
    """Return (run, equal at 1e-5 for full and sub, for full and it) of each random control."""
    scale, results, _ = source
    same, controls = {}, []
    for pair, _ in masked_pairs(scale):
        share = 100 * sparsity(results.updates(pair.pair), 1e-5)
        if scale.runs[pair.tuned].has_random_mask:
            controls.append((pair, share))
        else:
            same[pair.init] = share
    return [(p.tuned, same[p.init], share) for p, share in controls if p.init in same]


def judged_accuracies(source: Source) -> tuple[list[Accuracy], list[Accuracy]]:
    """Return (averages, single tasks and levels) of Table 3, of the mean where it has seeds.

    Sampled answers stand for greedy ones where there are both; held-out preferences are no task.
    """
    found = [one for one in summed_accuracies(source) if one.part != PREFERENCES]
    sampled = {one.pairs[0].tuned for one in found if one.sampled}
    judged = [one for one in found if one.decoding != GREEDY or one.pairs[0].tuned not in sampled]
    return [one for one in judged if one.is_whole], [one for one in judged if not one.is_whole]


def summed_accuracies(source: Source) -> list[Accuracy]:
    """Return the accuracies of Table 3 without single seeds of a setting that has several."""
    found = accuracies(source.scale, source.results)
    return [one for one in found if one.row != ONE_OF_THE_SEEDS]


def seeds_name(one: Accuracy) -> str:
    """Return what an accuracy is about: one masked run, or how many seeds of an algorithm."""
    first, seeds = one.pairs[0], len(one.pairs)
    return first.tuned if seeds == 1 else f"{METHODS[first.method].label}, {seeds} seeds"


def gains_of(source: Source, runs: Iterable[str]) -> list[Gain]:
    """Return the gains of single runs over their starts, where they were measured.

    A run's sampled answers count; its greedy ones, suite by suite, where it was never sampled.
    """
    wanted = set(runs)
    found = [
        one
        for one in measured_gains(source.scale, source.results)
        if one.row != MEAN_OF_SEEDS and one.pairs[0].tuned in wanted
    ]
    sampled = {one.pairs[0].tuned for one in found if one.sampled}
    return [one for one in found if one.sampled or one.pairs[0].tuned not in sampled]


def random_accuracies(source: Source) -> list[tuple[str, Compared, Gain]]:
    """Return (run in a random subnetwork, it against full, full's gain), where both have gains."""
    scale, results, _ = source
    found = []
    for run in scale.runs.values():
        if not run.mask or not run.has_random_mask:
            continue
        start = scale.pairs[run.mask_pair]
        both = gains_of(source, [run.run, start.tuned])
        inside = {(one.suite, one.decoding) for one in both if one.pairs[0].tuned == run.run}
        full_gains = (one for one in both if one.pairs[0].tuned == start.tuned)
        shared = [one for one in full_gains if (one.suite, one.decoding) in inside]
        if not shared:  # not both were evaluated for the tables
            continue
        pair = replace(start, pair=f"{start.tuned}+{run.run}", init=start.tuned)
        items = paired_answers(scale, results, replace(pair, tuned=run.run))
        for full in shared:
            decoding = items["samples"].map(suite_facts(scale.config, full.suite).decoded)
            asked = items[(items["suite"] == full.suite) & (decoding == full.decoding)]
            found.append((run.run, compare_items(asked), full))
    return found


def loss_differences(source: Source) -> Named:
    """Return (pair, share of steps with sub's loss lower, mean sub - full in per cent of full).

    Of DPO alone, as in Figure 4: an online run's two losses are those of different responses.
    """
    found = []
    for pair in pairs_of(source.scale, "fig4"):
        if pair.method in ("DPO", "DPO_NORM"):
            full, sub = logs_of(source.results, pair)
            change = sub["loss"] - full["loss"]
            mean = 100 * float(change.mean() / full["loss"].abs().mean())
            found.append((pair.pair, 100 * float((change < 0).mean()), mean))
    return found


def overlaps_of(source: Source, axis: str, null: str) -> list[tuple[str, Any]]:
    """Return (name, row of `OverlapRow`) of Table 4 on one axis, where the null was computed."""
    same = [one for one in _table4(source) if spelling(one.axis) == spelling(axis)]
    return _against(source, same, null)


def overlaps_with_sft(source: Source, null: str) -> list[tuple[str, Any]]:
    """Return the comparisons of Table 4 of RL with SFT, which none of the paper's is."""
    mixed = []
    for one in _table4(source):
        methods = {source.scale.pairs[pair].method for pair in (one.pair1, one.pair2)}
        if "SFT" in methods and methods & RL_METHODS:
            mixed.append(one)
    return _against(source, mixed, null)


def _table4(source: Source) -> list[Comparison]:
    return [one for one in source.scale.comparisons.values() if "table4" in one.items]


def _against(source: Source, found: list[Comparison], null: str) -> list[tuple[str, Any]]:
    return [
        (one.comparison, row)
        for one in found
        for row in source.results.get("overlap", one.comparison).itertuples()
        if row.null == null
    ]


class Course(NamedTuple):
    """A run's saved steps; shares per cent."""

    run: str
    steps: list[int]
    sparsity: list[float]
    step_sparsity: list[float]
    outside: list[float]
    parts: tuple[float, float, float]  # never, subnetwork, cancelled at the last step
    late_fall: tuple[float, float, bool]  # last quarter, all steps, whether the rate was constant


def courses_of(source: Source, item: str) -> Iterator[Course]:
    for pair in pairs_of(source.scale, item):
        steps = saved_steps(source.results, pair.tuned)
        never, subnetwork, cancelled = (
            float(steps[f"{part}_percent"].iloc[-1])
            for part in ("never", "subnetwork", "cancelled")
        )
        pace = pace_of(source.scale, pair)
        late, whole = late_fall(steps["step"], steps["sparsity"])
        yield Course(
            pair.tuned,
            steps["step"].tolist(),
            steps["sparsity_percent"].tolist(),
            steps["step_sparsity_percent"].tolist(),
            steps["outside_percent"].tolist(),
            (never, subnetwork, cancelled),
            (100 * late, 100 * whole, pace is None or pace.schedule == "constant"),
        )


Ablation = tuple[Update, Update, float, str]  # with it, without it, as in `_action`


def ablations(source: Source, key: str) -> list[Ablation]:
    """Return the pairs of section 6 whose runs differ in `kl_coef` or `clip` alone."""
    updates = [u for u in updates_of(source, "section6") if u.pair.tuned in source.scale.runs]
    settings = [(update, *_settings_but(source.scale, update, key)) for update in updates]
    return [
        (one, other, *_action(source, one, other, key, value))
        for one, rest, value in settings
        for other, same, missing in settings
        if rest == same and value and not missing
    ]


def seed_spread(source: Source, update: Update) -> float | None:
    """Return by how much sparsity differs between runs that differ in their seed alone, or None."""
    scale = source.scale
    others = [u for u in updates_of(source, "section6", "table1") if u.pair.tuned in scale.runs]
    setting = all_but_seed(scale, update.pair.tuned)
    same = [u.sparsity for u in others if all_but_seed(scale, u.pair.tuned) == setting]
    return max(same) - min(same) if len(same) > 1 else None


def _settings_but(scale: Scale, update: Update, but: str) -> tuple[dict[str, Any], Any]:
    """Return (all settings that a run's result follows from but one; that one's value)."""
    run = scale.runs[update.pair.tuned]
    recipe = scale.recipe(run.run)
    settings = {"run": (run.algorithm, run.init, run.data, run.seed, run.mask), **recipe.bits()}
    settings.pop(but, None)
    return settings, getattr(recipe, but, None)


def _action(
    source: Source, one: Update, other: Update, key: str, value: float
) -> tuple[float, str]:
    """Return how far a key acted in the first of two runs, per cent, and what it did, in words."""
    metrics, without = (source.results.get("metrics", u.pair.tuned) for u in (one, other))
    if key == "clip":
        share = 100 * clipped_share(metrics["grad_norm"], value)
        return share, f"clipping at {value:g} acted at {share:.0f} % of the steps"
    kl, free = metrics["kl"].mean(), without["kl"].mean()
    removed = 100 * float(1 - kl / free) if free > 0 else 0.0
    words = f"a weight of {value:g} took {removed:.1f} % off the mean divergence of {free:.1e} nats"
    return removed, f"{words} a token"
