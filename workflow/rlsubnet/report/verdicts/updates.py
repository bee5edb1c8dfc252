"""Which updates a claim is about, and the plain numbers of them; shares are per cent."""

from dataclasses import dataclass
from typing import NamedTuple

from rlsubnet.config import Pair, Scale
from rlsubnet.report.measures import at_tolerance, layer_sparsity, mean_rank_share, sparsity
from rlsubnet.report.published import TABLE5_NAMES, Published, model_name, spelling
from rlsubnet.report.settings import (
    ONLINE,
    distribution_columns,
    is_sft_stage,
    recipe_of,
    runs_between,
)
from rlsubnet.report.style import RL_METHODS
from rlsubnet.report.tables.common import pairs_of
from rlsubnet.report.waist import Results

SPARSE_ITEMS = ("table1", "fig1")
OFFLINE_WITHOUT_KL = ("simpo", "orpo")


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
        """Return whether a reward or a preference made it."""
        return self.pair.method in RL_METHODS


def pace_of(scale: Scale, pair: Pair) -> Pace | None:
    """Return at what pace a pair was trained; the steps of runs in a row are summed.

    None where no run made it, where the runs between its two checkpoints differ in their rate, or
    where the sheet does not tell the steps.
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
    atol = float(scale.config["measure"]["table_tolerance"])
    pairs = {pair.pair: pair for item in items for pair in pairs_of(scale, item)}
    return [
        Update(
            pair,
            100 * sparsity(results.updates(pair.pair), atol),
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

    pair: Pair
    layers: list[float]
    matrices: list[float]
    whole: float
    norms: float


def layers_of(source: Source, pairs: list[Pair]) -> list[Layers]:
    """Return densities by layer and matrix and unchanged norms, of models that have both."""
    scale, results, _ = source
    atol = float(scale.config["measure"]["table_tolerance"])
    found = []
    for pair in pairs:
        updates = results.updates(pair.pair)
        table = layer_sparsity(updates, atol)
        table["density"] = 100 * (1 - table["sparsity"])
        average = table["matrix"] == "average"
        vector = table["matrix"].str.contains(r"norm|\.bias")
        rows = at_tolerance(updates, atol)
        inside, norms = rows[rows["layer"].notna()], rows[rows["matrix"].str.contains("norm")]
        if inside.empty or norms.empty:
            continue
        counts = {"inside": inside[["unchanged", "numel"]].sum()}
        counts["norms"] = norms[["unchanged", "numel"]].sum()
        shares = {name: 100 * count["unchanged"] / count["numel"] for name, count in counts.items()}
        found.append(
            Layers(
                pair,
                table["density"][average].tolist(),
                table["density"][~average & ~vector].tolist(),
                100 - float(shares["inside"]),
                float(shares["norms"]),
            )
        )
    return found


class Rank(NamedTuple):
    """Mean rank of a pair's update, and of the same changes at random positions."""

    pair: Pair
    update: float
    random: float


def ranks_of(source: Source) -> tuple[list[Rank], list[Rank]]:
    """Return the pairs of Table 2 (RL, SFT), without other controls."""
    found: tuple[list[Rank], list[Rank]] = ([], [])
    for pair in pairs_of(source.scale, "table2"):
        if not is_control(source.scale, pair):
            ranks = source.results.get("ranks", pair.pair)
            random = mean_rank_share(ranks, "rank_of_random_control")
            one = Rank(pair, 100 * mean_rank_share(ranks), 100 * random)
            found[0 if pair.method in RL_METHODS else 1].append(one)
    return found
