"""Claims of sections 4 and 5: Conjecture 1 in its two halves, Figure 4 and Takeaway 3."""

import math
from collections.abc import Iterator

from rlsubnet.report.tables.common import p_text
from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.line import Line, joined, labeled, line, named
from rlsubnet.report.verdicts.runs import (
    Accuracy,
    Overlap,
    accuracies,
    gains_of,
    loss_differences,
    overlaps_of,
    overlaps_with_sft,
    random_accuracies,
    random_subnetworks,
    same_weights,
)
from rlsubnet.report.verdicts.updates import Source

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
    fine, coarse = (same_weights(source, tolerance) for tolerance in ("1e-5", "1e-4"))
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
            f"p {p_text(one.p)}), where {one.full.name} gained {one.full.gain:.1f} on its start"
            for one in controls
        ),
        rules.all_lower(
            [(one.delta, one.p) for one in controls],
            [(one.full.gain, one.full.se) for one in controls],
        ),
    )


def _accuracy(source: Source) -> Iterator[Line]:
    averages, tasks = accuracies(source)
    gains = gains_of(source, [run for one in averages for run in one.full.split(", ")])
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
            labeled("full - start", named([(one.name, one.gain) for one in gains], " points")),
        ),
        rules.as_accurate(
            [(one.delta, one.p) for one in averages], [(one.gain, one.se) for one in gains]
        ),
    )
    yield line(
        "section4/no_task_worse",
        "Sub matches or outperforms full on every task.",
        "Section 4, Table 3",
        "no difference below 0; by decoded counts none exceeds 2 standard errors",
        labeled(f"{len(tasks)} tasks and levels, sub - full, points", _ends(tasks)),
        rules.nowhere_worse([(one.delta, one.p) for one in tasks]),
    )


def _ends(rows: list[Accuracy]) -> str:
    """Return the lowest and the highest difference, with standard error and name."""
    ordered = sorted(rows, key=lambda one: one.delta)
    ends = ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]
    return " to ".join(f"{e.delta:+.1f} (SE {e.se:.1f}, {e.name}, {e.task})" for e in ends)


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
