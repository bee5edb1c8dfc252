"""The claims of sections 3 to 6, each with what the paper says and what is measured here."""

import math
import re
from collections.abc import Iterator, Sequence

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
from rlsubnet.report.tables import p_text, pairs_of
from rlsubnet.report.tables.accuracy import Accuracy, beside_the_papers
from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.numbers import (
    Ablation,
    Course,
    Layers,
    Overlap,
    Source,
    Update,
    ablations,
    courses_of,
    distributions,
    gains_of,
    is_papers,
    judged_accuracies,
    layers_of,
    loss_differences,
    overlaps_of,
    overlaps_with_sft,
    random_accuracies,
    random_subnetworks,
    ranks_of,
    reinforced,
    same_weights,
    seed_spread,
    seeds_name,
    summed_accuracies,
    supervised,
    without_kl,
    without_sft,
)
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


def sparsity_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 1, observation and explanation apart, then Takeaway 2."""
    rl = reinforced(source)
    stages, controls = supervised(source)
    yield from _rl_is_sparse(source, rl)
    yield from _sft_is_dense(source, rl, stages, controls)
    yield _without_regularization(source)
    yield _larger_models(source, rl)
    yield from _where(source, [*stages, *controls])
    yield from _rank(source)


def _rl_is_sparse(source: Source, rl: list[Update]) -> Iterator[Line]:
    headline = source.published["headline"]
    low, high = (headline["rl_sparsity_range"][end] for end in ("low", "high"))
    yield line(
        "takeaway1/sparse",
        "RL leaves most of the weights unchanged.",
        "Takeaway 1, Section 3",
        f"{low} to {high} % unchanged (Table 1)",
        named(_sparsities(rl)),
        rules.sparse([update.sparsity for update in rl]),
    )
    methods = headline["n_algorithms"]["names"]
    least: dict[str, float] = {}
    for update in rl:
        method = "DPO" if update.pair.method == "DPO_NORM" else update.pair.method
        least[method] = min(update.sparsity, least.get(method, 100.0))
    yield line(
        "takeaway1/seven_algorithms",
        f"RL's updates are sparse with each of seven algorithms: {', '.join(methods)}.",
        "Abstract, Section 1",
        "all seven",
        ", ".join(f"{method} {value:.1f} %" for method, value in least.items()),
        rules.sparse_with_all(least, methods),
    )
    # A level is a number of the paper's models; where they are measured, only they are asked.
    released = [update for update in rl if update.own]
    shown, printed = released or rl, source.published["table1"]["rows"]
    level = headline["rl_often_above"]["value"]
    yield line(
        "takeaway1/often_above_70",
        f"RL often leaves more than {level} % of the weights unchanged.",
        "Takeaway 1",
        f"{sum(row['sparsity'] > level for row in printed)} of the {len(printed)} models of "
        f"Table 1 above {level} %",
        named(_sparsities(shown)),
        on_same_model(bool(released), rules.often_above([u.sparsity for u in shown], level)),
    )
    least_updated, most_updated = (headline["updated_fraction_range"][e] for e in ("low", "high"))
    densities = [(update.pair.pair, 100 - update.sparsity) for update in shown]
    yield line(
        "abstract/5_to_30_percent",
        f"RL updates {least_updated} to {most_updated} % of the weights.",
        "Abstract, Section 8",
        f"{least_updated} to {most_updated} %, though Table 1 goes up to {100 - low:.1f} %",
        named(densities),
        on_same_model(
            bool(released),
            rules.within([value for _, value in densities], least_updated, most_updated),
        ),
    )


def _sft_is_dense(
    source: Source, rl: list[Update], stages: list[Update], controls: list[Update]
) -> Iterator[Line]:
    printed = source.published["headline"]["sft_sparsity_range"]
    text = f"{printed['low']} to {printed['high']} % unchanged"
    yield line(
        "takeaway1/sft_dense",
        "The SFT stage updates most of the weights.",
        "Takeaway 1, Section 3",
        text,
        named(_sparsities(stages)),
        rules.dense([update.sparsity for update in stages]),
    )
    yield line(
        "fig1",
        "RL's updates are sparser than those of the SFT stage.",
        "Figure 1, Takeaway 1",
        f"RL {source.published['headline']['rl_sparsity_range']['low']} % and more, SFT {text}",
        joined(labeled("RL", named(_sparsities(rl))), labeled("SFT", named(_sparsities(stages)))),
        rules.sparser([u.sparsity for u in rl], [u.sparsity for u in stages]),
    )
    paces = {control.pace for control in controls}
    matched = [update for update in rl if update.pace in paces]
    yield line(
        "takeaway1/because_rl",
        "The difference comes from RL, not from its learning rate and number of steps.",
        "Takeaway 1, Section 3",
        "no SFT at RL's learning rate",
        joined(
            labeled("SFT at RL's rate and steps", named(_sparsities(controls))),
            labeled("RL at that rate", named(_sparsities(matched))),
        ),
        rules.caused_by([u.sparsity for u in matched], [u.sparsity for u in controls]),
    )


def _without_regularization(source: Source) -> Line:
    free = without_kl(source)
    printed = [
        (row["algo"], row["sparsity"])
        for row in source.published["table1"]["rows"]
        if not row["kl"]
    ]
    return line(
        "takeaway1/no_regularization",
        "RL's updates are sparse without regularization or constraint: no KL term, decay or mask.",
        "Takeaway 1, Section 3",
        f"without KL (Table 1): {named(printed)}",
        named(_sparsities(free)),
        rules.sparse([update.sparsity for update in free]),
    )


def _larger_models(source: Source, rl: list[Update]) -> Line:
    sizes = {size: f"Llama-3.1-Tulu-3-{size}-DPO" for size in ("8B", "70B")}
    printed = rows_of(source.published, "table1", "rl")
    found = {
        size: [u for u in rl if u.own and u.pair.paper_model == name]
        for size, name in sizes.items()
    }
    return line(
        "section3/larger_models",
        "Within a family, larger models are updated more sparsely.",
        "Section 3",
        f"Tulu 3: {named([(size, printed[name]['sparsity']) for size, name in sizes.items()])}",
        named(_sparsities([*found["8B"], *found["70B"]])),
        rules.sparser(*([u.sparsity for u in found[size]] for size in ("70B", "8B"))),
    )


def _where(source: Source, supervised: list[Update]) -> Iterator[Line]:
    models = layers_of(source, pairs_of(source.scale, "fig3"))
    yield line(
        "takeaway2/layers",
        "All layers are updated about as sparsely as each other.",
        "Takeaway 2, Figure 3",
        "layers alike (no number)",
        labeled("densest / least dense layer", named([_ratio(m) for m in models], "", 2)),
        rules.even([model.layers for model in models]),
    )
    yield line(
        "takeaway2/matrices",
        "Nearly all weight matrices are updated about as sparsely as each other.",
        "Takeaway 2, Section 3",
        "matrices alike (no number)",
        labeled(
            "updated share of the matrices",
            ", ".join(
                f"{min(m.matrices):.1f} to {max(m.matrices):.1f} %, layers {m.whole:.1f} % "
                f"({m.pair.pair})"
                for m in models
            ),
        ),
        rules.nearly_all_alike([(model.whole, model.matrices) for model in models]),
    )
    norms = [(model.pair.pair, model.norms) for model in models]
    control = layers_of(source, [update.pair for update in supervised]) if models else []
    yield line(
        "takeaway2/norms",
        "Layer norms are almost never updated.",
        "Takeaway 2, Figure 3",
        "little to no updates (no number)",
        joined(
            labeled("unchanged weights of norms", named(norms)),
            labeled("SFT", named([(model.pair.pair, model.norms) for model in control])),
        ),
        rules.nearly_complete([share for _, share in norms]),
    )


def _rank(source: Source) -> Iterator[Line]:
    rl, sft = ranks_of(source)
    printed = [row["update_rank"] for row in source.published["table2"]["rows"]]
    ranks = [(one.pair.pair, one.update) for one in rl]
    random = [(one.pair.pair, one.random) for one in rl]
    supervised = [(one.pair.pair, one.update) for one in sft]
    yield line(
        "takeaway2/full_rank",
        "The updates are nearly of full rank.",
        "Takeaway 2, Table 2",
        f"{min(printed)} to {max(printed)} % of the full rank",
        named(ranks),
        rules.nearly_complete([rank for _, rank in ranks]),
    )
    yield line(
        "takeaway2/full_rank_of_rl",
        "The full rank says something of RL, beyond that its changes are scattered.",
        "Section 3",
        "no control printed",
        joined(
            labeled("update", named(ranks)),
            labeled("the same changes at random positions", named(random)),
            labeled("SFT", named(supervised)),
        ),
        rules.beyond_control(
            [rank for _, rank in ranks], [rank for _, rank in random + supervised]
        ),
    )


def _sparsities(updates: list[Update]) -> list[tuple[str, float]]:
    return [(update.pair.pair, update.sparsity) for update in updates]


def _ratio(model: Layers) -> tuple[str, float]:
    least = min(model.layers)
    return model.pair.pair, max(model.layers) / least if least else float("inf")


# Axis as the paper prints it -> (name in ids, what two runs differ in)
AXES = {
    "Seed": ("seed", "two seeds"),
    "Data": ("data", "two data sets"),
    "Seed + Data + Algo.": ("algorithm", "two seeds, data sets and algorithms"),
}


def subnetwork_claims(source: Source) -> Iterator[Line]:
    """Yield Conjecture 1: equal weights, equal accuracy, and the lower loss of section 4."""
    yield from _weights(source)
    yield from _accuracy(source)
    yield from _random(source)
    runs = loss_differences(source)
    yield line(
        "fig4",
        "Training the subnetwork alone has consistently lower loss (DPO).",
        "Figure 4, Section 4",
        "consistently lower (no number)",
        ", ".join(
            f"lower at {share:.0f} % of the steps, by {-change:.4f} % of the loss ({pair})"
            for pair, share, change in runs
        ),
        rules.lower_loss([(share, change) for _, share, change in runs]),
    )


def _weights(source: Source) -> Iterator[Line]:
    printed = source.published["conjecture1"]
    fine, coarse = (same_weights(source, tolerance) for tolerance in (1e-5, 1e-4))
    yield line(
        "conjecture1/weights_1e-5",
        "Finetuning the subnetwork alone gives nearly the same weights.",
        "Conjecture 1, Section 4",
        f"the same at 1e-5: {printed['dpo_same_weights_at_1e-5']} % (DPO), "
        f"{printed['prime_same_weights_at_1e-5']} % (PRIME)",
        joined(
            named([(one.sub, one.same) for one in fine], digits=3),
            labeled("null, start against full", named([(one.sub, one.null) for one in fine])),
        ),
        rules.closer([(100 - one.same, 100 - one.null) for one in fine], "start and full"),
    )
    yield line(
        "conjecture1/weights_1e-4",
        "At tolerance 1e-4 the two models are identical.",
        "Conjecture 1, Section 4",
        f"{printed['both_same_weights_at_1e-4']} %",
        joined(
            named([(one.sub, one.same) for one in coarse], digits=4),
            labeled("null, start against full", named([(one.sub, one.null) for one in coarse])),
        ),
        rules.identical([(one.same, one.null) for one in coarse]),
    )


def _random(source: Source) -> Iterator[Line]:
    weights, controls = random_subnetworks(source), random_accuracies(source)
    yield line(
        "conjecture1/this_subnetwork_weights",
        "It takes this subnetwork: a random one of its size does not give the same weights.",
        "Conjecture 1, Section 4",
        "no random subnetwork printed",
        "; ".join(
            f"the same at 1e-5: {other:.3f} % for full and {run}, {same:.3f} % for full and sub"
            for run, same, other in weights
        ),
        rules.closer(
            [(100 - same, 100 - other) for _, same, other in weights],
            "full and a random subnetwork",
        ),
    )
    yield line(
        "conjecture1/this_subnetwork_accuracy",
        "It takes this subnetwork: a random one of its size does not recover the accuracy.",
        "Conjecture 1, Section 4",
        "no random subnetwork printed",
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
    averages, tasks = judged_accuracies(source)
    gains = gains_of(source, [pair.init for one in averages for pair in one.pairs])
    part_a, part_b = (
        source.published[part]["rows"][-1]["delta"] for part in ("table3a", "table3b")
    )
    yield line(
        "conjecture1/accuracy",
        "Finetuning the subnetwork alone gives nearly the same test accuracy.",
        "Conjecture 1, Section 4",
        f"sub - full: {part_a:+} points (DPO, mean of five tasks), {part_b:+} (PRIME, MATH500)",
        joined(
            labeled("sub - full, points", _ends(averages)),
            labeled("full - start", named([(one.name, one.points) for one in gains], " points")),
        ),
        rules.as_accurate(
            [_delta_and_p(one) for one in averages], [(one.points, one.se) for one in gains]
        ),
    )
    yield line(
        "section4/no_task_worse",
        "Sub matches or outperforms full on every task.",
        "Section 4, Table 3",
        "no difference below 0; by decoded counts none exceeds 2 standard errors",
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
        f"{seeds_name(one)}, {' '.join(part for part in (one.task, one.level) if part)})"
        for one in ends
    )


def overlap_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 3 axis by axis: above uniform chance, then above what weight sizes explain."""
    printed = {row["axis"]: (row["i1"], row["i2"]) for row in source.published["table4"]["rows"]}
    for axis, (name, differ) in AXES.items():
        one, two = printed[axis]
        for null, suffix, claim, paper in (
            (
                "uniform",
                "",
                f"Subnetworks of {differ} overlap more than random ones of their size.",
                f"o1/o2 {one['o1']}/{two['o2']} %, random {one['random_o1']}/{two['random_o2']} %",
            ),
            (
                "per_magnitude",
                "_structure",
                f"Those of {differ} share structure: more overlap than weight sizes explain.",
                "no such null printed",
            ),
        ):
            found = overlaps_of(source, axis, null)
            control = overlaps_with_sft(source, null) if found and suffix else []
            yield line(
                f"takeaway3/{name}{suffix}",
                claim,
                "Takeaway 3, Table 4",
                paper,
                joined(
                    *map(_overlap, found),
                    labeled("control, RL and SFT", "; ".join(map(_overlap, control))),
                ),
                rules.above_null([(each.lift, each.low) for each in found]),
            )


def _overlap(one: Overlap) -> str:
    interval = "" if math.isnan(one.low) else f" ({one.low:.3f} to {one.high:.3f})"
    return (
        f"o1/o2 {one.o1:.1f}/{one.o2:.1f} %, null {one.o1_null:.1f}/{one.o2_null:.1f} %, "
        f"ratio {one.lift:.3f}{interval} ({one.comparison})"
    )


def reason_claims(source: Source) -> Iterator[Line]:
    """Yield Takeaway 4: the data's distribution, KL, clipping, SFT before RL."""
    yield from _data(source)
    printed = source.published["section6"]
    with_kl, without_kl = (printed[f"grpo_{kind}_kl"]["sparsity"] for kind in ("with", "without"))
    yield _ablation(
        source,
        "takeaway4/kl",
        "KL regularization has limited impact on sparsity.",
        f"GRPO: {with_kl} % with, {without_kl} % without",
        ablations(source, "kl_coef"),
    )
    yield _ablation(
        source,
        "takeaway4/clipping",
        "Gradient clipping has limited impact on sparsity.",
        "GRPO: comparable (no number)",
        ablations(source, "clip"),
    )
    simpo = [update for update in reinforced(source) if update.pair.method == "SimPO"]
    yield line(
        "section6/simpo",
        "SimPO, which has no KL term, gives sparse updates, too.",
        "Section 6",
        "86.5 % (Table 1)",
        named([(update.pair.pair, update.sparsity) for update in simpo]),
        rules.sparse([update.sparsity for update in simpo]),
    )
    zero = without_sft(source)
    yield line(
        "section6/without_sft",
        "RL without SFT before it gives sparse updates, too.",
        "Section 6",
        "DeepSeek-R1-Zero 86.0 %",
        named([(update.pair.pair, update.sparsity) for update in zero]),
        rules.sparse([update.sparsity for update in zero]),
    )


def _data(source: Source) -> Iterator[Line]:
    inside, outside = distributions(source)
    rows = source.published["table5"]["rows"]
    sampled = [update for update in inside if update.pair.method in ("RFT", "RAFT++")]
    rl = [update for update in outside if update.is_rl]
    yield line(
        "takeaway4/sft_in_distribution",
        "SFT on in-distribution data (rejection sampling) gives sparse updates.",
        "Takeaway 4, Table 5",
        named([(r["method"], r["sparsity"]) for r in rows if r["kind"] == "SFT" and _inside(r)]),
        _said(sampled),
        rules.sparse([update.sparsity for update in sampled]),
    )
    yield line(
        "takeaway4/rl_out_of_distribution",
        "DPO on out-of-distribution data gives dense updates.",
        "Takeaway 4, Table 5",
        named([(r["model"], r["sparsity"]) for r in rows if r["kind"] == "RL" and not _inside(r)]),
        _said(rl),
        rules.dense([update.sparsity for update in rl]),
    )
    paces = {u.pace for u in inside if u.pace} & {u.pace for u in outside if u.pace}
    one, other = ([u for u in part if u.pace in paces] for part in (inside, outside))
    yield line(
        "takeaway4/data_decides",
        "At equal learning rate and steps, in-distribution data gives sparser updates than other "
        "data, with SFT as with RL.",
        "Takeaway 4, Table 5",
        "no rates or steps printed",
        joined(
            labeled("in distribution", _said(one)), labeled("out of distribution", _said(other))
        ),
        rules.sparser([u.sparsity for u in one], [u.sparsity for u in other]),
    )


def _inside(row: dict[str, object]) -> bool:
    return bool(row["in_distribution"])


def _said(updates: list[Update]) -> str:
    return named([(update.pair.pair, update.sparsity) for update in updates])


def _ablation(source: Source, id: str, claim: str, paper: str, found: list[Ablation]) -> Line:
    here = [
        f"{a.with_it.sparsity:.1f} % with ({a.with_it.pair.pair}), "
        f"{a.without_it.sparsity:.1f} % without ({a.without_it.pair.pair}), {a.detail}"
        for a in found
    ]
    ruling = rules.limited_impact(
        [(a.with_it.sparsity - a.without_it.sparsity, a.acted) for a in found]
    )
    spreads = [spread for a in found if (spread := seed_spread(source, a.without_it)) is not None]
    seeds = [f"seeds alone differ by {max(spreads):.1f} points"] if spreads else []
    return line(id, claim, "Takeaway 4, Section 6", paper, "; ".join([*here, *seeds]), ruling)


def course_claims(source: Source) -> Iterator[Line]:
    """Yield what Figures 2, 5, 6 and 7 show of a run's saved steps."""
    figures = source.published["figures"]
    fig2, fig5, fig6, fig7 = (figures[name] for name in ("fig2", "fig5", "fig6", "fig7"))
    runs = list(courses_of(source, "fig2"))
    yield line(
        "fig2",
        "Most weights are never updated, fewer make up the subnetwork, fewer still cancel out.",
        "Figure 2, Section 1",
        f"never {fig2['never_updated']} %, subnetwork {fig2['subnetwork']} %, cancelled "
        f"{fig2['cancelled']} % (PRIME)",
        "; ".join(
            "never {:.1f} %, subnetwork {:.1f} %, cancelled {:.1f} %".format(*course.parts)
            + f" ({course.run})"
            for course in runs
        ),
        rules.ordered([course.parts for course in runs]),
    )
    runs = list(courses_of(source, "fig5"))
    yield line(
        "fig5/decay",
        "Sparsity slowly decays as training goes on.",
        "Figure 5, Section 6",
        fig5["trend"],
        _along(runs),
        every(rules.decays(course.sparsity) for course in runs),
    )
    yield line(
        "fig5/convergence",
        f"Sparsity converges during training, to about {fig5['converges_to']} %.",
        "Figure 5, Section 6",
        f"signs of convergence to around {fig5['converges_to']} %",
        _along(runs),
        rules.levels_off([course.late_fall for course in runs]),
    )
    yield from _figure6(list(courses_of(source, "fig6")), fig6)
    yield from _figure7(list(courses_of(source, "fig7")), fig7)


def _along(runs: list[Course]) -> str:
    return "; ".join(
        f"{c.sparsity[0]:.1f} % after step {c.steps[0]}, {c.sparsity[len(c.steps) // 2]:.1f} % "
        f"after {c.steps[len(c.steps) // 2]}, {c.sparsity[-1]:.1f} % after {c.steps[-1]} ({c.run})"
        for c in runs
    )


def _figure6(runs: list[Course], printed: dict[str, object]) -> Iterator[Line]:
    yield line(
        "fig6",
        "Updates outside the final subnetwork rise early, then steadily decline.",
        "Figure 6, Section 6",
        str(printed["trend"]),
        "; ".join(
            f"highest {max(c.outside):.2f} % after step {c.steps[c.outside.index(max(c.outside))]} "
            f"of {c.steps[-1]} ({c.run}); 0 at the end by definition"
            for c in runs
        ),
        every(rules.rises_then_declines(course.outside) for course in runs),
    )
    ever = [(c.run, 100 * c.parts[2] / (c.parts[1] + c.parts[2])) for c in runs if sum(c.parts[1:])]
    yield line(
        "fig6/ever_outside",
        "Few of the weights that are ever updated lie outside the final subnetwork.",
        "Figure 6, Section 6",
        f"about {printed['ever_updated_outside_final']} % of those ever updated (8 of 28 in "
        "Figure 2 would be 28.6 %)",
        named(ever),
        another_model(bool(ever)),
    )


def _figure7(runs: list[Course], printed: dict[str, object]) -> Iterator[Line]:
    lowest = [(course.run, min(course.sparsity)) for course in runs]
    yield line(
        "fig7/all_steps_sparse",
        "All intermediate checkpoints are sparse.",
        "Figure 7(a), Appendix D",
        f"{printed['n_checkpoints']} checkpoints (no number)",
        labeled("lowest", named(lowest)),
        rules.sparse([value for _, value in lowest]),
    )
    moved = [(c.run, 100 - sum(c.step_sparsity) / len(c.step_sparsity)) for c in runs]
    yield line(
        "fig7/step_to_step",
        "From one saved step to the next few weights change.",
        "Figure 7(b), Appendix D",
        f"{printed['mean_updated_per_consecutive_pair']} % on average",
        joined(
            named(moved),
            ", ".join(f"{len(c.steps)} steps saved, {c.steps[-1]} in all" for c in runs),
        ),
        another_model(bool(moved)),
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
            numbers = [100 * sparsity(updates, t) if t in ours else None for t in printed_at]
            found.append((pair, numbers))
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
    """Return the pairs of a table that a model of the paper stands beside."""
    pairs = pairs_of(source.scale, item)
    return [pair for pair in pairs if pair.paper_model and model_name(pair.paper_model) == model]


def _sparsity(source: Source, pair: Pair) -> float:
    atol = float(source.scale.config["measure"]["table_tolerance"])
    return 100 * sparsity(source.results.updates(pair.pair), atol)


def _numbers(
    source: Source,
    id: str,
    claim: str,
    where: str,
    printed: Sequence[float],
    measured: Sequence[tuple[Pair, Sequence[float | None]]],
    digits: int = 1,
) -> Line:
    """Return the line of a row of numbers; only the paper's own checkpoints can agree or differ.

    Args:
        source: for the paper's models.
        id: of the claim.
        claim: what the numbers are.
        where: the table.
        printed: the paper's numbers.
        measured: ours of each pair, None where this scale does not measure one.
        digits: decimals in print.
    """
    own = [(pair, numbers) for pair, numbers in measured if is_papers(source, pair)]
    shown = own or measured
    compared = [
        (ours, number)
        for _, numbers in shown
        for ours, number in zip(numbers, printed, strict=True)
        if ours is not None
    ]
    here = [
        f"{', '.join(f'{x:.{digits}f}' for x in numbers if x is not None)} % ({pair.tuned})"
        for pair, numbers in shown
    ]
    ruling = on_same_model(bool(own), rules.same_numbers(compared))
    paper = f"{', '.join(str(value) for value in printed)} %"
    return line(id, claim, where, paper, "; ".join(here), ruling)


def _table3(source: Source) -> Iterator[Line]:
    found = summed_accuracies(source)
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
                f"{seeds_name(one)}, {one.task})"
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
        for found in overlaps_of(source, row["axis"], "uniform"):
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
