"""What is measured of each claim of sections 3 to 6 and of each row that Tables 1 to 6 print."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlsubnet.config import Pair
from rlsubnet.data import Published
from rlsubnet.report import load_yaml
from rlsubnet.report.export import tolerance_name
from rlsubnet.report.results import (
    TABLE2_MODELS,
    TABLE5_NAMES,
    mean_rank_share,
    model_name,
    rows_of,
    sparsity,
)
from rlsubnet.report.settings import distribution_columns
from rlsubnet.report.tables import p_text, pairs_of, sparsity_percent
from rlsubnet.report.tables.accuracy import Accuracy, beside_the_papers
from rlsubnet.report.verdicts import numbers, rules
from rlsubnet.report.verdicts.numbers import Course, Source, Update
from rlsubnet.report.verdicts.rules import (
    Line,
    Ruling,
    another_model,
    every,
    joined,
    labeled,
    named,
    on_same_model,
)

# Heading of a part -> id of a claim -> its texts.
_CLAIMS = load_yaml("verdicts/claims.yaml")
# Axis as the paper prints it -> its name in ids
_AXES = {"Seed": "seed", "Data": "data", "Seed + Data + Algo.": "algorithm"}
_TULU = {size: f"Llama-3.1-Tulu-3-{size}-DPO" for size in ("8B", "70B")}

Finding = tuple[str, str, Ruling]  # id of a claim, what this scale shows, the verdict


def lines(source: Source) -> Iterator[Line]:
    """Yield each claim of claims.yaml, then each row that the paper prints in Tables 1 to 6."""
    printed = _printed(source.published)
    kinds = (sparsity_claims, subnetwork_claims, overlap_claims, reason_claims, course_claims)
    found = {id: (here, ruling) for claims in kinds for id, here, ruling in claims(source)}
    for part, claims in _CLAIMS.items():
        for id, texts in claims.items():
            said = {name: text.format(**printed) for name, text in texts.items()}
            here, ruling = found.pop(id)
            yield Line(part, id, here=here, verdict=ruling.verdict, decided_by=ruling.rule, **said)
    assert not found, f"claims without a text in claims.yaml: {', '.join(found)}"
    for rows in (_table1, _table2, _table3, _table4, _table5, _table6):
        yield from rows(source)


def _printed(published: Published) -> dict[str, Any]:
    """Return what texts of claims.yaml may name: published numbers, and what follows from them."""
    headline, table4 = published["headline"], published["table4"]["rows"]
    level = headline["rl_often_above"]["value"]
    table1 = rows_of(published, "table1", "rl")
    ranks = [row["update_rank"] for row in published["table2"]["rows"]]
    table5 = [
        (row["kind"], bool(row["in_distribution"]), row) for row in published["table5"]["rows"]
    ]
    inside = [(r["method"], r["sparsity"]) for kind, near, r in table5 if kind == "SFT" and near]
    outside = [(r["model"], r["sparsity"]) for kind, near, r in table5 if kind == "RL" and not near]
    return {
        **published,
        "methods": ", ".join(headline["n_algorithms"]["names"]),
        "above": sum(row["sparsity"] > level for row in table1.values()),
        "models": len(table1),
        "densest": 100 - headline["rl_sparsity_range"]["low"],
        "without_kl": named([(r["algo"], r["sparsity"]) for r in table1.values() if not r["kl"]]),
        "sizes": named([(size, table1[name]["sparsity"]) for size, name in _TULU.items()]),
        "ranks": (min(ranks), max(ranks)),
        "choices": published["table3a"]["rows"][-1]["delta"],
        "problems": published["table3b"]["rows"][-1]["delta"],
        "overlap": {_AXES[row["axis"]]: row for row in table4},
        "inside": named(inside),
        "outside": named(outside),
    }


def _each(id: str, rule: Callable[[list[float]], Ruling], updates: list[Update]) -> Finding:
    return id, _said(updates), rule(_shares(updates))


def _shares(updates: list[Update]) -> list[float]:
    return [update.sparsity for update in updates]


def _said(updates: list[Update]) -> str:
    return named([(update.pair.pair, update.sparsity) for update in updates])


def sparsity_claims(source: Source) -> Iterator[Finding]:
    """Yield Takeaway 1, observation and explanation apart, then Takeaway 2."""
    rl = numbers.reinforced(source)
    stages, controls = numbers.supervised(source)
    yield _each("takeaway1/sparse", rules.sparse, rl)
    yield from _levels(source, rl)
    yield from _against_sft(rl, stages, controls)
    yield _each("takeaway1/no_regularization", rules.sparse, numbers.without_kl(source))
    small, large = (
        [update for update in rl if update.own and update.pair.paper_model == name]
        for name in _TULU.values()
    )
    ruling = rules.sparser(_shares(large), _shares(small))
    yield "section3/larger_models", _said([*small, *large]), ruling
    yield from _where(source, [*stages, *controls])
    yield from _rank(source)


def _levels(source: Source, rl: list[Update]) -> Iterator[Finding]:
    headline = source.published["headline"]
    least: dict[str, float] = {}
    for update in rl:
        method = update.pair.method.removesuffix("_NORM")
        least[method] = min(update.sparsity, least.get(method, 100.0))
    here = ", ".join(f"{method} {value:.1f} %" for method, value in least.items())
    ruling = rules.sparse_with_all(least, headline["n_algorithms"]["names"])
    yield "takeaway1/seven_algorithms", here, ruling
    # A level is a number of the paper's models; where they are measured, only they are asked.
    released = [update for update in rl if update.own]
    shown, own = released or rl, bool(released)
    ruling = rules.often_above(_shares(shown), headline["rl_often_above"]["value"])
    yield "takeaway1/often_above_70", _said(shown), on_same_model(own, ruling)
    updated = headline["updated_fraction_range"]
    densities = [(update.pair.pair, 100 - update.sparsity) for update in shown]
    ruling = rules.within([value for _, value in densities], updated["low"], updated["high"])
    yield "abstract/5_to_30_percent", named(densities), on_same_model(own, ruling)


def _against_sft(
    rl: list[Update], stages: list[Update], controls: list[Update]
) -> Iterator[Finding]:
    yield _each("takeaway1/sft_dense", rules.dense, stages)
    here = joined(labeled("RL", _said(rl)), labeled("SFT", _said(stages)))
    yield "fig1", here, rules.sparser(_shares(rl), _shares(stages))
    paces = {control.pace for control in controls}
    matched = [update for update in rl if update.pace in paces]
    here = joined(
        labeled("SFT at RL's rate and steps", _said(controls)),
        labeled("RL at that rate", _said(matched)),
    )
    yield "takeaway1/because_rl", here, rules.caused_by(_shares(matched), _shares(controls))


def _where(source: Source, supervised: list[Update]) -> Iterator[Finding]:
    models = numbers.layers_of(source, pairs_of(source.scale, "fig3"))
    ratios = [(m.pair, _ratio(max(m.layers), min(m.layers))) for m in models]
    here = labeled("densest / least dense layer", named(ratios, "", 2))
    yield "takeaway2/layers", here, rules.even([model.layers for model in models])
    matrices = ", ".join(
        f"{min(m.matrices):.1f} to {max(m.matrices):.1f} %, layers {m.whole:.1f} % ({m.pair})"
        for m in models
    )
    here = labeled("updated share of the matrices", matrices)
    ruling = rules.nearly_all_alike([(model.whole, model.matrices) for model in models])
    yield "takeaway2/matrices", here, ruling
    control = numbers.layers_of(source, [update.pair for update in supervised]) if models else []
    norms, of_sft = ([(model.pair, model.norms) for model in part] for part in (models, control))
    here = joined(
        labeled("unchanged weights of norms", named(norms)), labeled("SFT", named(of_sft))
    )
    yield "takeaway2/norms", here, rules.nearly_complete([model.norms for model in models])


def _ratio(most: float, least: float) -> float:
    return most / least if least else float("inf")


def _rank(source: Source) -> Iterator[Finding]:
    rl, sft = numbers.ranks_of(source)
    ranks = [(pair, update) for pair, update, _ in rl]
    random = [(pair, control) for pair, _, control in rl]
    supervised = [(pair, update) for pair, update, _ in sft]
    shares = [rank for _, rank in ranks]
    yield "takeaway2/full_rank", named(ranks), rules.nearly_complete(shares)
    here = joined(
        labeled("update", named(ranks)),
        labeled("the same changes at random positions", named(random)),
        labeled("SFT", named(supervised)),
    )
    ruling = rules.beyond_control(shares, [rank for _, rank in random + supervised])
    yield "takeaway2/full_rank_of_rl", here, ruling


def subnetwork_claims(source: Source) -> Iterator[Finding]:
    """Yield Conjecture 1: equal weights, equal accuracy, and the lower loss of section 4."""
    fine = numbers.same_weights(source, 1e-5)
    ruling = rules.closer([(100 - same, 100 - null) for _, same, null in fine], "start and full")
    yield "conjecture1/weights_1e-5", _same(fine, digits=3), ruling
    coarse = numbers.same_weights(source, 1e-4)
    ruling = rules.identical([(same, null) for _, same, null in coarse])
    yield "conjecture1/weights_1e-4", _same(coarse, digits=4), ruling
    yield from _accuracy(source)
    yield from _random(source)
    runs = numbers.loss_differences(source)
    here = ", ".join(
        f"lower at {share:.0f} % of the steps, by {-change:.4f} % of the loss ({pair})"
        for pair, share, change in runs
    )
    yield "fig4", here, rules.lower_loss([(share, change) for _, share, change in runs])


def _same(found: numbers.Named, digits: int) -> str:
    null = named([(sub, null) for sub, _, null in found])
    return joined(
        named([(sub, same) for sub, same, _ in found], digits=digits),
        labeled("null, start against full", null),
    )


def _random(source: Source) -> Iterator[Finding]:
    weights = numbers.random_subnetworks(source)
    here = "; ".join(
        f"the same at 1e-5: {other:.3f} % for full and {run}, {same:.3f} % for full and sub"
        for run, same, other in weights
    )
    differing = [(100 - same, 100 - other) for _, same, other in weights]
    ruling = rules.closer(differing, "full and a random subnetwork")
    yield "conjecture1/this_subnetwork_weights", here, ruling
    controls = numbers.random_accuracies(source)
    here = "; ".join(
        f"{run} - {full.name}: {100 * one.delta:+.1f} points (SE {100 * one.se:.1f}, "
        f"p {p_text(one.p_value)}), where {full.name} gained {full.points:.1f} on its start"
        for run, one, full in controls
    )
    deltas = [(100 * one.delta, one.p_value) for _, one, _ in controls]
    ruling = rules.all_lower(deltas, [(full.points, full.se) for *_, full in controls])
    yield "conjecture1/this_subnetwork_accuracy", here, ruling


def _accuracy(source: Source) -> Iterator[Finding]:
    averages, tasks = numbers.judged_accuracies(source)
    gains = numbers.gains_of(source, [pair.init for one in averages for pair in one.pairs])
    here = joined(
        labeled("sub - full, points", _ends(averages)),
        labeled("full - start", named([(one.name, one.points) for one in gains], " points")),
    )
    gained = [(one.points, one.se) for one in gains]
    yield "conjecture1/accuracy", here, rules.as_accurate(_deltas(averages), gained)
    here = labeled(f"{len(tasks)} tasks and levels, sub - full, points", _ends(tasks))
    yield "section4/no_task_worse", here, rules.nowhere_worse(_deltas(tasks))


def _deltas(found: list[Accuracy]) -> list[tuple[float, float]]:
    return [(100 * one.compared.delta, one.compared.p_value) for one in found]


def _ends(rows: list[Accuracy]) -> str:
    """Return the lowest and the highest difference, with standard error and name."""
    ordered = sorted(rows, key=lambda one: one.compared.delta)
    ends = ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]
    return " to ".join(
        f"{100 * one.compared.delta:+.1f} (SE {100 * one.compared.total_se:.1f}, "
        f"{numbers.seeds_name(one)}, {' '.join(part for part in (one.task, one.level) if part)})"
        for one in ends
    )


def overlap_claims(source: Source) -> Iterator[Finding]:
    """Yield Takeaway 3 axis by axis: above uniform chance, then above what weight sizes explain."""
    for axis, name in _AXES.items():
        for null, suffix in (("uniform", ""), ("per_magnitude", "_structure")):
            found = numbers.overlaps_of(source, axis, null)
            control = numbers.overlaps_with_sft(source, null) if found and suffix else []
            control_text = "; ".join(map(_overlap, control))
            here = joined(*map(_overlap, found), labeled("control, RL and SFT", control_text))
            ruling = rules.above_null([(row.lift, row.ci_low) for _, row in found])
            yield f"takeaway3/{name}{suffix}", here, ruling


def _overlap(found: tuple[str, Any]) -> str:
    name, row = found
    interval = "" if math.isnan(row.ci_low) else f" ({row.ci_low:.3f} to {row.ci_high:.3f})"
    return f"{_both_ways(row, 'null')}, ratio {row.lift:.3f}{interval} ({name})"


def _both_ways(row: Any, null: str) -> str:
    return (
        f"o1/o2 {100 * row.o1:.1f}/{100 * row.o2:.1f} %, "
        f"{null} {100 * row.o1_null:.1f}/{100 * row.o2_null:.1f} %"
    )


def reason_claims(source: Source) -> Iterator[Finding]:
    """Yield Takeaway 4: the data's distribution, KL, clipping, SFT before RL."""
    inside, outside = numbers.distributions(source)
    sampled = [update for update in inside if update.pair.method in ("RFT", "RAFT++")]
    yield _each("takeaway4/sft_in_distribution", rules.sparse, sampled)
    foreign = [update for update in outside if update.is_rl]
    yield _each("takeaway4/rl_out_of_distribution", rules.dense, foreign)
    paces = {u.pace for u in inside if u.pace} & {u.pace for u in outside if u.pace}
    one, other = ([u for u in part if u.pace in paces] for part in (inside, outside))
    here = joined(
        labeled("in distribution", _said(one)), labeled("out of distribution", _said(other))
    )
    yield "takeaway4/data_decides", here, rules.sparser(_shares(one), _shares(other))
    yield _ablation(source, "takeaway4/kl", "kl_coef")
    yield _ablation(source, "takeaway4/clipping", "clip")
    simpo = [update for update in numbers.reinforced(source) if update.pair.method == "SimPO"]
    yield _each("section6/simpo", rules.sparse, simpo)
    yield _each("section6/without_sft", rules.sparse, numbers.without_sft(source))


def _ablation(source: Source, id: str, key: str) -> Finding:
    found = numbers.ablations(source, key)
    here = [
        f"{one.sparsity:.1f} % with ({one.pair.pair}), "
        f"{other.sparsity:.1f} % without ({other.pair.pair}), {words}"
        for one, other, _, words in found
    ]
    spreads = [numbers.seed_spread(source, other) for _, other, *_ in found]
    seeds = max((spread for spread in spreads if spread is not None), default=None)
    if seeds is not None:
        here.append(f"seeds alone differ by {seeds:.1f} points")
    effects = [(one.sparsity - other.sparsity, acted) for one, other, acted, _ in found]
    return id, "; ".join(here), rules.limited_impact(effects)


def course_claims(source: Source) -> Iterator[Finding]:
    """Yield what Figures 2, 5, 6 and 7 show of a run's saved steps."""
    fig2, fig5, fig6, fig7 = (
        list(numbers.courses_of(source, f"fig{number}")) for number in (2, 5, 6, 7)
    )
    parts = "never {:.1f} %, subnetwork {:.1f} %, cancelled {:.1f} % ({})"
    here = "; ".join(parts.format(*course.parts, course.run) for course in fig2)
    yield "fig2", here, rules.ordered([course.parts for course in fig2])
    here = "; ".join(map(_sparsity_along, fig5))
    yield "fig5/decay", here, every(rules.decays(course.sparsity) for course in fig5)
    yield "fig5/convergence", here, rules.levels_off([course.late_fall for course in fig5])
    here = "; ".join(
        f"highest {max(c.outside):.2f} % after step {c.steps[c.outside.index(max(c.outside))]} "
        f"of {c.steps[-1]} ({c.run}); 0 at the end by definition"
        for c in fig6
    )
    yield "fig6", here, every(rules.rises_then_declines(course.outside) for course in fig6)
    ever = [(c.run, 100 * c.parts[2] / (c.parts[1] + c.parts[2])) for c in fig6 if sum(c.parts[1:])]
    yield "fig6/ever_outside", named(ever), another_model(bool(ever))
    lowest = [(course.run, min(course.sparsity)) for course in fig7]
    ruling = rules.sparse([value for _, value in lowest])
    yield "fig7/all_steps_sparse", labeled("lowest", named(lowest)), ruling
    moved = [(c.run, 100 - sum(c.step_sparsity) / len(c.step_sparsity)) for c in fig7]
    saved = ", ".join(f"{len(c.steps)} steps saved, {c.steps[-1]} in all" for c in fig7)
    yield "fig7/step_to_step", joined(named(moved), saved), another_model(bool(moved))


def _sparsity_along(course: Course) -> str:
    shares, steps, middle = course.sparsity, course.steps, len(course.steps) // 2
    return (
        f"{shares[0]:.1f} % after step {steps[0]}, {shares[middle]:.1f} % after {steps[middle]}, "
        f"{shares[-1]:.1f} % after {steps[-1]} ({course.run})"
    )


def _table1(source: Source) -> Iterator[Line]:
    again = rows_of(source.published, "table6", "rl")
    for model, row in rows_of(source.published, "table1", "rl").items():
        claim = f"{row['algo']}: share of weights unchanged from {row['init']} to {model}"
        found = _sparsities(source, _pairs_beside(source, "table1", model))
        line = _numbers(source, "Table 1", model, claim, [row["sparsity"]], found)
        other = again[model]["sparsity"][-1] if model in again else row["sparsity"]
        if abs(other - row["sparsity"]) > rules.POINTS:
            line = line._replace(paper=f"{line.paper} (Table 6: {other} %)")
        yield line


def _table2(source: Source) -> Iterator[Line]:
    for row in source.published["table2"]["rows"]:
        model = TABLE2_MODELS[row["model"]]
        ranks = [
            (pair, [100 * mean_rank_share(source.results.get("ranks", pair.pair))])
            for pair in _pairs_beside(source, "table2", model)
        ]
        claim = f"{row['algo']}: mean update rank of {row['model']}, of the full rank"
        yield _numbers(source, "Table 2", model, claim, [row["update_rank"]], ranks)


def _table5(source: Source) -> Iterator[Line]:
    def place(pair: Pair) -> int:
        mark = distribution_columns(source.scale, pair).get("in_distribution", "")
        return ["yes", "no", ""].index(mark)

    pairs = sorted(pairs_of(source.scale, "table5"), key=place)
    for row in source.published["table5"]["rows"]:
        model, method = row["model"], row["method"]
        kind = "in" if row["in_distribution"] else "out of"
        claim = f"{method} ({kind} distribution): share of weights unchanged, {model}"
        beside = [
            pair
            for pair in pairs
            if TABLE5_NAMES.get(name := model_name(pair.paper_model), name) == model
            and pair.method.removesuffix("_NORM") == method
        ]
        found = _sparsities(source, beside)
        yield _numbers(source, "Table 5", f"{model}/{method}", claim, [row["sparsity"]], found)


def _table6(source: Source) -> Iterator[Line]:
    scale, results, published = source
    printed_at = [float(atol) for atol in published["table6"]["tolerances"]]
    tolerances = ", ".join(map(tolerance_name, printed_at))
    ours = {float(atol) for atol in scale.config["measure"]["tolerances"]}

    def measured(pair: Pair) -> list[float | None]:
        updates = results.updates(pair.pair)
        return [100 * sparsity(updates, atol) if atol in ours else None for atol in printed_at]

    for model, row in rows_of(published, "table6", "rl").items():
        claim = f"{row['algo']}: share of weights unchanged at {tolerances}, {model}"
        found = [(pair, measured(pair)) for pair in _pairs_beside(source, "table6", model)]
        yield _numbers(source, "Table 6", model, claim, row["sparsity"], found, digits=2)


def _pairs_beside(source: Source, item: str, model: str) -> list[Pair]:
    pairs = pairs_of(source.scale, item)
    return [pair for pair in pairs if pair.paper_model and model_name(pair.paper_model) == model]


def _sparsities(source: Source, pairs: list[Pair]) -> list[tuple[Pair, list[float]]]:
    return [(pair, [_sparsity(source, pair.pair)]) for pair in pairs]


def _sparsity(source: Source, pair: str) -> float:
    return sparsity_percent(source.scale, source.results, pair)


def _numbers(
    source: Source,
    table: str,
    name: str,
    claim: str,
    printed: Sequence[float],
    measured: Sequence[tuple[Pair, Sequence[float | None]]],
    digits: int = 1,
) -> Line:
    """Return the line of a row of numbers; only the paper's own checkpoints can agree or differ."""
    own = [(pair, values) for pair, values in measured if numbers.is_papers(source, pair)]
    here, compared = [], []
    for pair, values in own or measured:
        both = [(x, y) for x, y in zip(values, printed, strict=True) if x is not None]
        compared += both
        here.append(f"{', '.join(f'{ours:.{digits}f}' for ours, _ in both)} % ({pair.tuned})")
    ruling = on_same_model(bool(own), rules.same_numbers(compared))
    paper = f"{', '.join(str(value) for value in printed)} %"
    return _line(table, name, claim, paper, here, ruling)


def _line(
    table: str, name: str, claim: str, paper: str, here: Sequence[str], ruling: Ruling
) -> Line:
    """Return the line of a printed row; its id is made of table and row.

    >>> _line("Table 3(a)", "LSAT", "", "", [], Ruling("not run", ""))[:2]
    ('Table 3: every row', 'table3a/LSAT')
    """
    part = f"{table.split('(')[0]}: every row"
    id = f"{re.sub('[ ()]', '', table).lower()}/{name}"
    return Line(part, id, claim, table, paper, "; ".join(here), *ruling)


def slug(text: object) -> str:
    """Return a printed name as part of an id.

    >>> slug("Seed + Data + Algo."), slug("AGIEval LSAT-AR")
    ('Seed+Data+Algo', 'AGIEval-LSAT-AR')
    """
    return re.sub(r"\s+", "-", re.sub(r"\s*\+\s+", "+", str(text)).strip(" ."))


def _table3(source: Source) -> Iterator[Line]:
    found = numbers.summed_accuracies(source)
    beside, printed = beside_the_papers(found, source.published)
    for row in printed:
        task, algorithm = row["paper_task"], row["paper_algorithm"]
        paper = (
            f"{row['paper_full_percent']} and {row['paper_sub_percent']} %, difference "
            f"{row['paper_delta_points']:+} (SE {row['paper_delta_se_points']:.1f}: "
            f"{row['paper_verdict']})"
        )
        here = [
            f"{100 * one.compared.full:.1f} and {100 * one.compared.sub:.1f} %, difference "
            f"{100 * one.compared.delta:+.1f} (SE {100 * one.compared.se:.1f}; "
            f"{numbers.seeds_name(one)}, {one.task})"
            for one, row_beside in zip(found, beside, strict=True)
            if row_beside.get("paper_task") == task
        ]
        name = slug(task.removeprefix("MATH500 ").removeprefix("level "))
        claim = f"{algorithm}: accuracy of full and of sub, {task}"
        yield _line(row["source"], name, claim, paper, here, another_model(bool(here)))


def _table4(source: Source) -> Iterator[Line]:
    for row in source.published["table4"]["rows"]:
        one, two = row["i1"], row["i2"]
        here = []
        # The paper's row stands beside the uniform null alone, the only one it has.
        for name, found in numbers.overlaps_of(source, row["axis"], "uniform"):
            ours = source.scale.comparisons[name]
            first, second = (_sparsity(source, pair) for pair in (ours.pair1, ours.pair2))
            here.append(
                f"{_both_ways(found, 'random')}, sparsity {first:.1f}/{second:.1f} % "
                f"({ours.label or ours.setting1 + ' and ' + ours.setting2})"
            )
        paper = (
            f"o1/o2 {one['o1']}/{two['o2']} %, random {one['random_o1']}/{two['random_o2']} %, "
            f"sparsity {one['sparsity']}/{two['sparsity']} %"
        )
        claim = f"Overlap of {one['setting']} and {two['setting']}"
        yield _line("Table 4", slug(row["axis"]), claim, paper, here, another_model(bool(here)))
