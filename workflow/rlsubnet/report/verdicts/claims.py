"""What is measured of each claim of sections 3 to 6 and of each row that Tables 1 to 6 print."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from rlsubnet.config import Pair
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
from rlsubnet.report.verdicts.numbers import Source, Update
from rlsubnet.report.verdicts.rules import (
    Line,
    another_model,
    every,
    joined,
    labeled,
    line,
    named,
    on_same_model,
)

_CLAIMS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
# Axis as the paper prints it -> its name in ids
_AXES = {"Seed": "seed", "Data": "data", "Seed + Data + Algo.": "algorithm"}


def sparsity_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 1, observation and explanation apart, then Takeaway 2."""
    rl = numbers.reinforced(source)
    stages, controls = numbers.supervised(source)
    yield from _rl_is_sparse(source, rl)
    yield from _sft_is_dense(source, rl, stages, controls)
    printed = source.published["table1"]["rows"]
    free = named([(row["algo"], row["sparsity"]) for row in printed if not row["kl"]])
    yield _each(
        source,
        "takeaway1/no_regularization",
        rules.sparse,
        numbers.without_kl(source),
        without_kl=free,
    )
    yield _larger_models(source, rl)
    yield from _where(source, [*stages, *controls])
    yield from _rank(source)


def _line(source: Source, id: str, here: str, ruling: rules.Ruling, **more: object) -> Line:
    """Return a claim of claims.yaml; its texts may name published numbers and what `more` holds."""
    texts = {name: text.format(**source.published, **more) for name, text in _CLAIMS[id].items()}
    return line(id, **texts, here=here, ruling=ruling)


def _each(
    source: Source,
    id: str,
    rule: Callable[[list[float]], rules.Ruling],
    updates: list[Update],
    **more: object,
) -> Line:
    return _line(source, id, _said(updates), rule(_shares(updates)), **more)


def _shares(updates: list[Update]) -> list[float]:
    return [update.sparsity for update in updates]


def _said(updates: list[Update]) -> str:
    return named([(update.pair.pair, update.sparsity) for update in updates])


def _rl_is_sparse(source: Source, rl: list[Update]) -> Iterator[Line]:
    headline, printed = source.published["headline"], source.published["table1"]["rows"]
    yield _each(source, "takeaway1/sparse", rules.sparse, rl)
    methods = headline["n_algorithms"]["names"]
    least: dict[str, float] = {}
    for update in rl:
        method = "DPO" if update.pair.method == "DPO_NORM" else update.pair.method
        least[method] = min(update.sparsity, least.get(method, 100.0))
    yield _line(
        source,
        "takeaway1/seven_algorithms",
        ", ".join(f"{method} {value:.1f} %" for method, value in least.items()),
        rules.sparse_with_all(least, methods),
        methods=", ".join(methods),
    )
    # A level is a number of the paper's models; where they are measured, only they are asked.
    released = [update for update in rl if update.own]
    shown, level = released or rl, headline["rl_often_above"]["value"]
    yield _line(
        source,
        "takeaway1/often_above_70",
        _said(shown),
        on_same_model(bool(released), rules.often_above(_shares(shown), level)),
        above=sum(row["sparsity"] > level for row in printed),
        models=len(printed),
    )
    updated = headline["updated_fraction_range"]
    densities = [(update.pair.pair, 100 - update.sparsity) for update in shown]
    ruling = rules.within([value for _, value in densities], updated["low"], updated["high"])
    yield _line(
        source,
        "abstract/5_to_30_percent",
        named(densities),
        on_same_model(bool(released), ruling),
        most=100 - headline["rl_sparsity_range"]["low"],
    )


def _sft_is_dense(
    source: Source, rl: list[Update], stages: list[Update], controls: list[Update]
) -> Iterator[Line]:
    yield _each(source, "takeaway1/sft_dense", rules.dense, stages)
    yield _line(
        source,
        "fig1",
        joined(labeled("RL", _said(rl)), labeled("SFT", _said(stages))),
        rules.sparser(_shares(rl), _shares(stages)),
    )
    paces = {control.pace for control in controls}
    matched = [update for update in rl if update.pace in paces]
    yield _line(
        source,
        "takeaway1/because_rl",
        joined(
            labeled("SFT at RL's rate and steps", _said(controls)),
            labeled("RL at that rate", _said(matched)),
        ),
        rules.caused_by(_shares(matched), _shares(controls)),
    )


def _larger_models(source: Source, rl: list[Update]) -> Line:
    names = {size: f"Llama-3.1-Tulu-3-{size}-DPO" for size in ("8B", "70B")}
    printed = rows_of(source.published, "table1", "rl")
    small, large = (
        [update for update in rl if update.own and update.pair.paper_model == name]
        for name in names.values()
    )
    return _line(
        source,
        "section3/larger_models",
        _said([*small, *large]),
        rules.sparser(_shares(large), _shares(small)),
        sizes=named([(size, printed[name]["sparsity"]) for size, name in names.items()]),
    )


def _where(source: Source, supervised: list[Update]) -> Iterator[Line]:
    models = numbers.layers_of(source, pairs_of(source.scale, "fig3"))
    yield _line(
        source,
        "takeaway2/layers",
        labeled("densest / least dense layer", named([_ratio(m) for m in models], "", 2)),
        rules.even([model.layers for model in models]),
    )
    matrices = ", ".join(
        f"{min(m.matrices):.1f} to {max(m.matrices):.1f} %, layers {m.whole:.1f} % ({m.pair.pair})"
        for m in models
    )
    yield _line(
        source,
        "takeaway2/matrices",
        labeled("updated share of the matrices", matrices),
        rules.nearly_all_alike([(model.whole, model.matrices) for model in models]),
    )
    control = numbers.layers_of(source, [update.pair for update in supervised]) if models else []
    norms, of_sft = (
        named([(model.pair.pair, model.norms) for model in found]) for found in (models, control)
    )
    yield _line(
        source,
        "takeaway2/norms",
        joined(labeled("unchanged weights of norms", norms), labeled("SFT", of_sft)),
        rules.nearly_complete([model.norms for model in models]),
    )


def _ratio(model: numbers.Layers) -> tuple[str, float]:
    least = min(model.layers)
    return model.pair.pair, max(model.layers) / least if least else float("inf")


def _rank(source: Source) -> Iterator[Line]:
    rl, sft = numbers.ranks_of(source)
    printed = [row["update_rank"] for row in source.published["table2"]["rows"]]
    ranks = [(one.pair.pair, one.update) for one in rl]
    random = [(one.pair.pair, one.random) for one in rl]
    supervised = [(one.pair.pair, one.update) for one in sft]
    shares = [rank for _, rank in ranks]
    yield _line(
        source,
        "takeaway2/full_rank",
        named(ranks),
        rules.nearly_complete(shares),
        least=min(printed),
        most=max(printed),
    )
    yield _line(
        source,
        "takeaway2/full_rank_of_rl",
        joined(
            labeled("update", named(ranks)),
            labeled("the same changes at random positions", named(random)),
            labeled("SFT", named(supervised)),
        ),
        rules.beyond_control(shares, [rank for _, rank in random + supervised]),
    )


def subnetwork_claims(source: Source) -> Iterator[Line]:
    """Yield Conjecture 1: equal weights, equal accuracy, and the lower loss of section 4."""
    yield from _weights(source)
    yield from _accuracy(source)
    yield from _random(source)
    runs = numbers.loss_differences(source)
    yield _line(
        source,
        "fig4",
        ", ".join(
            f"lower at {share:.0f} % of the steps, by {-change:.4f} % of the loss ({pair})"
            for pair, share, change in runs
        ),
        rules.lower_loss([(share, change) for _, share, change in runs]),
    )


def _weights(source: Source) -> Iterator[Line]:
    fine, coarse = (numbers.same_weights(source, tolerance) for tolerance in (1e-5, 1e-4))
    fine_here, coarse_here = (
        joined(
            named([(one.sub, one.same) for one in found], digits=digits),
            labeled("null, start against full", named([(one.sub, one.null) for one in found])),
        )
        for found, digits in ((fine, 3), (coarse, 4))
    )
    ruling = rules.closer([(100 - one.same, 100 - one.null) for one in fine], "start and full")
    yield _line(source, "conjecture1/weights_1e-5", fine_here, ruling)
    ruling = rules.identical([(one.same, one.null) for one in coarse])
    yield _line(source, "conjecture1/weights_1e-4", coarse_here, ruling)


def _random(source: Source) -> Iterator[Line]:
    weights, controls = numbers.random_subnetworks(source), numbers.random_accuracies(source)
    yield _line(
        source,
        "conjecture1/this_subnetwork_weights",
        "; ".join(
            f"the same at 1e-5: {other:.3f} % for full and {run}, {same:.3f} % for full and sub"
            for run, same, other in weights
        ),
        rules.closer(
            [(100 - same, 100 - other) for _, same, other in weights],
            "full and a random subnetwork",
        ),
    )
    yield _line(
        source,
        "conjecture1/this_subnetwork_accuracy",
        "; ".join(
            f"{one.run} - {one.full.name}: {one.delta:+.1f} points (SE {one.se:.1f}, "
            f"p {p_text(one.p)}), where {one.full.name} gained {one.full.points:.1f} on its start"
            for one in controls
        ),
        rules.all_lower(
            [(one.delta, one.p) for one in controls],
            [(one.full.points, one.full.se) for one in controls],
        ),
    )


def _accuracy(source: Source) -> Iterator[Line]:
    averages, tasks = numbers.judged_accuracies(source)
    gains = numbers.gains_of(source, [pair.init for one in averages for pair in one.pairs])
    yield _line(
        source,
        "conjecture1/accuracy",
        joined(
            labeled("sub - full, points", _ends(averages)),
            labeled("full - start", named([(one.name, one.points) for one in gains], " points")),
        ),
        rules.as_accurate(
            [_delta_and_p(one) for one in averages], [(one.points, one.se) for one in gains]
        ),
        choices=source.published["table3a"]["rows"][-1]["delta"],
        problems=source.published["table3b"]["rows"][-1]["delta"],
    )
    yield _line(
        source,
        "section4/no_task_worse",
        labeled(f"{len(tasks)} tasks and levels, sub - full, points", _ends(tasks)),
        rules.nowhere_worse([_delta_and_p(one) for one in tasks]),
    )


def _delta_and_p(one: Accuracy) -> tuple[float, float]:
    return 100 * one.compared.delta, one.compared.p_value


def _ends(rows: list[Accuracy]) -> str:
    """Return the lowest and the highest difference, with standard error and name."""
    ordered = sorted(rows, key=lambda one: one.compared.delta)
    ends = ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]
    return " to ".join(
        f"{100 * one.compared.delta:+.1f} (SE {100 * one.compared.total_se:.1f}, "
        f"{numbers.seeds_name(one)}, {' '.join(part for part in (one.task, one.level) if part)})"
        for one in ends
    )


def overlap_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 3 axis by axis: above uniform chance, then above what weight sizes explain."""
    printed = {row["axis"]: row for row in source.published["table4"]["rows"]}
    for axis, name in _AXES.items():
        for null, suffix in (("uniform", ""), ("per_magnitude", "_structure")):
            found = numbers.overlaps_of(source, axis, null)
            control = numbers.overlaps_with_sft(source, null) if found and suffix else []
            yield _line(
                source,
                f"takeaway3/{name}{suffix}",
                joined(
                    *map(_overlap, found),
                    labeled("control, RL and SFT", "; ".join(map(_overlap, control))),
                ),
                rules.above_null([(each.lift, each.low) for each in found]),
                one=printed[axis]["i1"],
                two=printed[axis]["i2"],
            )


def _overlap(one: numbers.Overlap) -> str:
    interval = "" if math.isnan(one.low) else f" ({one.low:.3f} to {one.high:.3f})"
    return (
        f"o1/o2 {one.o1:.1f}/{one.o2:.1f} %, null {one.o1_null:.1f}/{one.o2_null:.1f} %, "
        f"ratio {one.lift:.3f}{interval} ({one.comparison})"
    )


def reason_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 4: the data's distribution, KL, clipping, SFT before RL."""
    yield from _data(source)
    yield _ablation(source, "takeaway4/kl", numbers.ablations(source, "kl_coef"))
    yield _ablation(source, "takeaway4/clipping", numbers.ablations(source, "clip"))
    simpo = [update for update in numbers.reinforced(source) if update.pair.method == "SimPO"]
    yield _each(source, "section6/simpo", rules.sparse, simpo)
    yield _each(source, "section6/without_sft", rules.sparse, numbers.without_sft(source))


def _data(source: Source) -> Iterator[Line]:
    inside, outside = numbers.distributions(source)
    rows = source.published["table5"]["rows"]
    sampled = [update for update in inside if update.pair.method in ("RFT", "RAFT++")]
    yield _each(
        source,
        "takeaway4/sft_in_distribution",
        rules.sparse,
        sampled,
        inside=named(
            [(r["method"], r["sparsity"]) for r in rows if r["kind"] == "SFT" and _inside(r)]
        ),
    )
    yield _each(
        source,
        "takeaway4/rl_out_of_distribution",
        rules.dense,
        [update for update in outside if update.is_rl],
        outside=named(
            [(r["model"], r["sparsity"]) for r in rows if r["kind"] == "RL" and not _inside(r)]
        ),
    )
    paces = {u.pace for u in inside if u.pace} & {u.pace for u in outside if u.pace}
    one, other = ([u for u in part if u.pace in paces] for part in (inside, outside))
    yield _line(
        source,
        "takeaway4/data_decides",
        joined(
            labeled("in distribution", _said(one)), labeled("out of distribution", _said(other))
        ),
        rules.sparser(_shares(one), _shares(other)),
    )


def _inside(row: Mapping[str, object]) -> bool:
    return bool(row["in_distribution"])


def _ablation(source: Source, id: str, found: list[numbers.Ablation]) -> Line:
    here = [
        f"{a.with_it.sparsity:.1f} % with ({a.with_it.pair.pair}), "
        f"{a.without_it.sparsity:.1f} % without ({a.without_it.pair.pair}), {a.detail}"
        for a in found
    ]
    ruling = rules.limited_impact(
        [(a.with_it.sparsity - a.without_it.sparsity, a.acted) for a in found]
    )
    spreads = [
        spread for a in found if (spread := numbers.seed_spread(source, a.without_it)) is not None
    ]
    seeds = [f"seeds alone differ by {max(spreads):.1f} points"] if spreads else []
    return _line(source, id, "; ".join([*here, *seeds]), ruling)


def course_claims(source: Source) -> Iterator[Line]:
    """Yield what Figures 2, 5, 6 and 7 show of a run's saved steps."""
    runs = list(numbers.courses_of(source, "fig2"))
    here = "; ".join(
        "never {:.1f} %, subnetwork {:.1f} %, cancelled {:.1f} %".format(*course.parts)
        + f" ({course.run})"
        for course in runs
    )
    yield _line(source, "fig2", here, rules.ordered([course.parts for course in runs]))
    runs = list(numbers.courses_of(source, "fig5"))
    here = "; ".join(
        f"{c.sparsity[0]:.1f} % after step {c.steps[0]}, {c.sparsity[len(c.steps) // 2]:.1f} % "
        f"after {c.steps[len(c.steps) // 2]}, {c.sparsity[-1]:.1f} % after {c.steps[-1]} ({c.run})"
        for c in runs
    )
    decays = every(rules.decays(course.sparsity) for course in runs)
    yield _line(source, "fig5/decay", here, decays)
    levels_off = rules.levels_off([course.late_fall for course in runs])
    yield _line(source, "fig5/convergence", here, levels_off)
    yield from _figure6(source)
    yield from _figure7(source)


def _figure6(source: Source) -> Iterator[Line]:
    runs = list(numbers.courses_of(source, "fig6"))
    yield _line(
        source,
        "fig6",
        "; ".join(
            f"highest {max(c.outside):.2f} % after step {c.steps[c.outside.index(max(c.outside))]} "
            f"of {c.steps[-1]} ({c.run}); 0 at the end by definition"
            for c in runs
        ),
        every(rules.rises_then_declines(course.outside) for course in runs),
    )
    ever = [(c.run, 100 * c.parts[2] / (c.parts[1] + c.parts[2])) for c in runs if sum(c.parts[1:])]
    yield _line(source, "fig6/ever_outside", named(ever), another_model(bool(ever)))


def _figure7(source: Source) -> Iterator[Line]:
    runs = list(numbers.courses_of(source, "fig7"))
    lowest = [(course.run, min(course.sparsity)) for course in runs]
    ruling = rules.sparse([value for _, value in lowest])
    yield _line(source, "fig7/all_steps_sparse", labeled("lowest", named(lowest)), ruling)
    moved = [(c.run, 100 - sum(c.step_sparsity) / len(c.step_sparsity)) for c in runs]
    saved = ", ".join(f"{len(c.steps)} steps saved, {c.steps[-1]} in all" for c in runs)
    yield _line(
        source, "fig7/step_to_step", joined(named(moved), saved), another_model(bool(moved))
    )


def table_claims(source: Source) -> Iterator[Line]:
    """Yield one line for each row that the paper prints in Tables 1 to 6."""
    yield from _table1(source)
    yield from _table2(source)
    yield from _table3(source)
    yield from _table4(source)
    yield from _table5(source)
    yield from _table6(source)


def slug(text: object) -> str:
    """Return a printed name as part of an id.

    >>> slug("Seed + Data + Algo."), slug("AGIEval LSAT-AR")
    ('Seed+Data+Algo', 'AGIEval-LSAT-AR')
    """
    return re.sub(r"\s+", "-", re.sub(r"\s*\+\s+", "+", str(text)).strip(" ."))


def _table1(source: Source) -> Iterator[Line]:
    again = rows_of(source.published, "table6", "rl")
    for row in source.published["table1"]["rows"]:
        model = model_name(row["rl"])
        found = _numbers(
            source,
            f"table1/{model}",
            f"{row['algo']}: share of weights unchanged from {row['init']} to {model}",
            "Table 1",
            [row["sparsity"]],
            [(pair, [_sparsity(source, pair)]) for pair in _pairs_beside(source, "table1", model)],
        )
        other = again[model]["sparsity"][-1] if model in again else row["sparsity"]
        if abs(other - row["sparsity"]) > rules.POINTS:
            found = found._replace(paper=f"{found.paper} (Table 6: {other} %)")
        yield found


def _table2(source: Source) -> Iterator[Line]:
    for row in source.published["table2"]["rows"]:
        model = TABLE2_MODELS[row["model"]]
        ranks = [
            (pair, [100 * mean_rank_share(source.results.get("ranks", pair.pair))])
            for pair in _pairs_beside(source, "table2", model)
        ]
        claim = f"{row['algo']}: mean update rank of {row['model']}, of the full rank"
        yield _numbers(source, f"table2/{model}", claim, "Table 2", [row["update_rank"]], ranks)


def _table5(source: Source) -> Iterator[Line]:
    def place(pair: Pair) -> int:
        mark = distribution_columns(source.scale, pair).get("in_distribution", "")
        return ["yes", "no", ""].index(mark)

    for row in source.published["table5"]["rows"]:
        kind = "in" if row["in_distribution"] else "out of"
        found = [
            pair
            for pair in sorted(pairs_of(source.scale, "table5"), key=place)
            if TABLE5_NAMES.get(name := model_name(pair.paper_model), name) == row["model"]
            and pair.method.removesuffix("_NORM") == row["method"]
        ]
        yield _numbers(
            source,
            f"table5/{row['model']}/{row['method']}",
            f"{row['method']} ({kind} distribution): share of weights unchanged, {row['model']}",
            "Table 5",
            [row["sparsity"]],
            [(pair, [_sparsity(source, pair)]) for pair in found],
        )


def _table6(source: Source) -> Iterator[Line]:
    scale, results, published = source
    printed_at = [float(atol) for atol in published["table6"]["tolerances"]]
    ours = {float(atol) for atol in scale.config["measure"]["tolerances"]}
    for row in published["table6"]["rows"]:
        model = model_name(row["rl"])
        found = []
        for pair in _pairs_beside(source, "table6", model):
            updates = results.updates(pair.pair)
            values = [100 * sparsity(updates, t) if t in ours else None for t in printed_at]
            found.append((pair, values))
        tolerances = ", ".join(map(tolerance_name, printed_at))
        yield _numbers(
            source,
            f"table6/{model}",
            f"{row['algo']}: share of weights unchanged at {tolerances}, {model}",
            "Table 6",
            row["sparsity"],
            found,
            digits=2,
        )


def _pairs_beside(source: Source, item: str, model: str) -> list[Pair]:
    pairs = pairs_of(source.scale, item)
    return [pair for pair in pairs if pair.paper_model and model_name(pair.paper_model) == model]


def _sparsity(source: Source, pair: Pair) -> float:
    return sparsity_percent(source.scale, source.results, pair.pair)


def _numbers(
    source: Source,
    id: str,
    claim: str,
    where: str,
    printed: Sequence[float],
    measured: Sequence[tuple[Pair, Sequence[float | None]]],
    digits: int = 1,
) -> Line:
    """Return the line of a row of numbers; only the paper's own checkpoints can agree or differ."""
    own = [(pair, values) for pair, values in measured if numbers.is_papers(source, pair)]
    shown = own or measured
    compared = [
        (ours, number)
        for _, values in shown
        for ours, number in zip(values, printed, strict=True)
        if ours is not None
    ]
    here = [
        f"{', '.join(f'{x:.{digits}f}' for x in values if x is not None)} % ({pair.tuned})"
        for pair, values in shown
    ]
    ruling = on_same_model(bool(own), rules.same_numbers(compared))
    paper = f"{', '.join(str(value) for value in printed)} %"
    return line(id, claim, where, paper, "; ".join(here), ruling)


def _table3(source: Source) -> Iterator[Line]:
    found = numbers.summed_accuracies(source)
    beside, printed = beside_the_papers(found, source.published)
    for row in printed:
        task, part = row["paper_task"], row["source"].replace("Table 3", "table3").strip()
        ours = [
            one for one, paper in zip(found, beside, strict=True) if paper.get("paper_task") == task
        ]
        yield line(
            f"{part.replace('(', '').replace(')', '')}/"
            f"{slug(task.removeprefix('MATH500 ').removeprefix('level '))}",
            f"{row['paper_algorithm']}: accuracy of full and of sub, {task}",
            row["source"],
            f"{row['paper_full_percent']} and {row['paper_sub_percent']} %, difference "
            f"{row['paper_delta_points']:+} (SE {row['paper_delta_se_points']:.1f}: "
            f"{row['paper_verdict']})",
            "; ".join(
                f"{100 * one.compared.full:.1f} and {100 * one.compared.sub:.1f} %, difference "
                f"{100 * one.compared.delta:+.1f} (SE {100 * one.compared.se:.1f}; "
                f"{numbers.seeds_name(one)}, {one.task})"
                for one in ours
            ),
            another_model(bool(ours)),
        )


def _table4(source: Source) -> Iterator[Line]:
    comparisons, pairs = source.scale.comparisons, source.scale.pairs
    for row in source.published["table4"]["rows"]:
        one, two = row["i1"], row["i2"]
        here = []
        # The paper's row stands beside the uniform null alone, the only one it has.
        for found in numbers.overlaps_of(source, row["axis"], "uniform"):
            ours = comparisons[found.comparison]
            first, second = (_sparsity(source, pairs[p]) for p in (ours.pair1, ours.pair2))
            here.append(
                f"o1/o2 {found.o1:.1f}/{found.o2:.1f} %, random "
                f"{found.o1_null:.1f}/{found.o2_null:.1f} %, sparsity {first:.1f}/{second:.1f} % "
                f"({ours.label or ours.setting1 + ' and ' + ours.setting2})"
            )
        yield line(
            f"table4/{slug(row['axis'])}",
            f"Overlap of {one['setting']} and {two['setting']}",
            "Table 4",
            f"o1/o2 {one['o1']}/{two['o2']} %, random {one['random_o1']}/{two['random_o2']} %, "
            f"sparsity {one['sparsity']}/{two['sparsity']} %",
            "; ".join(here),
            another_model(bool(here)),
        )
