"""Sections on which weights changed: by tolerance, layer, matrix and magnitude."""

from collections.abc import Callable, Sequence
from html import escape

from rlsubnet.card.cautions import FRACTION_BITS
from rlsubnet.card.charts import Band, Bar, Series, bar_panels, legend, line_chart
from rlsubnet.card.facts import Facts, TensorFacts, by_kind, grouped, sparsity_of
from rlsubnet.card.paper import TOLERANCE_RANGE
from rlsubnet.card.parts import (
    AT,
    figure,
    measured,
    numbers,
    paragraph,
    per_cent,
    power,
    section,
    table,
)
from rlsubnet.measure.fused import EXPONENTS
from rlsubnet.measure.sparsity import RULES, TABLE_TOLERANCE, TOLERANCES, total_counts

_SHARE_COLUMNS = ("weights", "official", "exact", "same bits")
_BIAS = 127
# Bins with a smaller share of the weights than this are left out at both ends.
_SMALL_BIN = 1e-5


def shares(tensors: Sequence[TensorFacts]) -> tuple[str, ...]:
    """Return weights and three readings of their sparsity, as the tables print them."""
    counts = total_counts(tensor.counts for tensor in tensors)
    same = 1 - counts.bitwise_changed / counts.numel if counts.numel else 1.0
    found = (*(counts.sparsity(rule, TABLE_TOLERANCE) for rule in RULES), same)
    return (f"{counts.numel:,}", *map(per_cent, found))


def by_tolerance(facts: Facts) -> str:
    """Return the section on what counts as unchanged."""
    counts = facts.counts
    same = 1 - counts.bitwise_changed / counts.numel
    labels = {0.0: "same bits", **{i + 1.0: power(atol) for i, atol in enumerate(TOLERANCES)}}
    series = [
        Series(
            f"this pair, {rule} rule",
            (
                (0.0, 100 * same),
                *(
                    (i + 1.0, 100 * counts.sparsity(rule, atol))
                    for i, atol in enumerate(TOLERANCES)
                ),
            ),
            look,
            "main" if rule == "official" else "over",
        )
        for look, rule in enumerate(RULES)
    ]
    band = Band(
        "the paper's 12 models, lowest to highest (Table 6)",
        tuple((TOLERANCES.index(atol) + 1.0, *ends) for atol, ends in TOLERANCE_RANGE.items()),
    )
    chart = line_chart(
        "Sparsity against tolerance", series, labels, "tolerance", band=band, ceiling=100.0
    )
    rows = [["same bits", per_cent(same), per_cent(same)]]
    for atol in TOLERANCES:
        rows.append([power(atol), *(per_cent(counts.sparsity(rule, atol)) for rule in RULES)])
    return section(
        "tolerance",
        "When does a weight count as unchanged?",
        paragraph(
            "When it moved by no more than a <em>tolerance</em>. The paper takes "
            f"{AT}. The <strong>official</strong> rule is that of the authors' code: "
            "difference and tolerance are rounded to bfloat16, the number type of their models. "
            "The <strong>exact</strong> rule takes the plain difference. <strong>Same "
            "bits</strong> asks for no change at all. Where the curve rises, the answer "
            "depends on it."
        ),
        figure(
            chart,
            "Share of unchanged weights at each tolerance. Shaded: what the paper prints for its "
            "models.",
            legend(series, band),
        ),
        numbers(
            "Numbers",
            table("Share of unchanged weights", ("tolerance", "official", "exact"), rows),
        ),
    )


def kind_series(
    facts: Facts, value: Callable[[Sequence[TensorFacts]], float], all_label: str
) -> list[Series]:
    """Return a line over the layers per matrix kind, vectors in grey, and one of all together."""
    inside = [t for t in facts.tensors if t.place.layer is not None]
    series: list[Series] = []
    for look, (kind, tensors) in enumerate(by_kind(inside).items()):
        per_layer = grouped(tensors, lambda t: t.place.layer)
        points = tuple((float(n), value(per_layer[n])) for n in facts.layers if n in per_layer)
        faint = all(len(t.shape) == 1 for t in tensors)
        series.append(Series(kind, points, look, "faint" if faint else ""))
    every = grouped(inside, lambda t: t.place.layer)
    points = tuple((float(n), value(every[n])) for n in facts.layers)
    return [Series(all_label, points, len(series), "main"), *series]


def layer_labels(facts: Facts) -> dict[float, str]:
    """Return the places and labels of an axis of layers."""
    return {float(layer): str(layer) for layer in facts.layers}


def _layer_table(facts: Facts) -> str:
    inside = [t for t in facts.tensors if t.place.layer is not None]
    kinds = list(by_kind(inside))
    rows = []
    for layer, tensors in sorted(grouped(inside, lambda t: t.place.layer or 0).items()):
        of_kind = by_kind(tensors)
        cells = [
            per_cent(sparsity_of(of_kind[kind], "official", TABLE_TOLERANCE))
            if kind in of_kind
            else "none"
            for kind in kinds
        ]
        whole = per_cent(sparsity_of(tensors, "official", TABLE_TOLERANCE))
        rows.append((str(layer), whole, *cells))
    return table(
        f"Unchanged weights by layer and matrix, official rule at {AT}",
        ("layer", "all", *kinds),
        rows,
    )


def by_layer(facts: Facts) -> str:
    """Return the section that corresponds to Figure 3 of the paper."""
    kinds = by_kind(facts.tensors)
    content = [
        paragraph(
            "A language model is a stack of layers, each with the same kinds of weight matrices. "
            "The paper finds that RL changes all layers and matrices about equally (its Figure 3), "
            "with the layer norms as the exception. Lines close to each other say the same here."
        )
    ]
    if facts.layers:
        series = kind_series(
            facts,
            lambda tensors: 100 * sparsity_of(tensors, "official", TABLE_TOLERANCE),
            "whole layer",
        )
        chart = line_chart(
            "Sparsity by layer and matrix",
            series,
            layer_labels(facts),
            "layer",
            ceiling=100.0,
            height=380,
        )
        caption = (
            f"Share of unchanged weights, official rule at {AT}. Grey: vectors, such "
            "as layer norms. The axis begins where the values do."
        )
        content.append(figure(chart, caption, legend(series)))
    rows = [(kind, *shares(tensors)) for kind, tensors in kinds.items()]
    content.append(
        table(
            f"Unchanged weights by matrix, at {AT}",
            ("matrix", *_SHARE_COLUMNS),
            [*rows, ("all", *shares(facts.tensors))],
            ours=len(rows),
        )
    )
    if facts.layers:
        content.append(numbers("Numbers by layer", _layer_table(facts)))
    return section("layers", "Where are the changes?", *content)


def _bins(facts: Facts) -> range:
    weights = facts.by_exponent[:, 0]
    kept = [e for e in range(1, EXPONENTS) if weights[e] >= max(1, _SMALL_BIN * weights.sum())]
    return range(kept[0], kept[-1] + 1) if kept else range(0)


def by_magnitude(facts: Facts) -> str:
    """Return the section on how visible a change is in small and large weights."""
    counts, bins = facts.by_exponent, _bins(facts)
    total = int(counts[:, 0].sum())
    if not bins:
        return section("magnitude", "Small weights and large ones", paragraph("All are zero."))
    # Where float32 is stored, all steps are finer than the tolerance.
    bits = FRACTION_BITS["BF16"] if facts.dtypes == {"BF16"} else 0
    bars, rows = [], []
    for exponent in bins:
        weights, changed = counts[exponent].tolist()
        low = 2.0 ** (exponent - _BIAS)
        share, density = weights / total, changed / weights if weights else 0.0
        label = measured(low)
        hint = (
            f"{label} to {measured(2 * low)}: {per_cent(share)} of the weights, of which "
            f"{per_cent(density)} changed"
        )
        shaded = bool(bits) and low * 2.0**-bits <= TABLE_TOLERANCE
        bars.append(Bar(label, 100 * share, 100 * density, hint, shaded))
        rows.append(
            (f"{label} to {measured(2 * low)}", f"{weights:,}", f"{changed:,}", per_cent(density))
        )
    chart = bar_panels(
        "Weights and changed weights by magnitude",
        bars,
        ("share of all weights", "changed, of the weights of this size (any bit)"),
        "size of the weight before finetuning: each bar from its label to twice that",
    )
    zeros = int(counts[0, 0])
    left_out = total - zeros - int(counts[bins.start : bins.stop, 0].sum())
    notes = [
        f"{count:,} {what} are not shown."
        for count, what in ((zeros, "weights that are zero"), (left_out, "in smaller bins"))
        if count
    ]
    shade = (
        f" Shaded: one step of the number type is smaller than the tolerance {AT} "
        "here, so that a change can go unnoticed."
        if any(bar.shaded for bar in bars)
        else ""
    )
    return section(
        "magnitude",
        "Small weights and large ones",
        paragraph(
            "A number type has steps: bfloat16 can tell apart about 128 values between one power "
            "of two and the next. The larger a weight, the coarser its steps, and a small update "
            "of a large weight is rounded away. If the lower bars fall from left to right, that "
            "rounding is part of the sparsity above."
        ),
        figure(chart, escape(" ".join([*notes, shade]).strip()) or "By power of two."),
        numbers(
            "Numbers",
            table(
                "Weights by size before finetuning", ("size", "weights", "changed", "share"), rows
            ),
        ),
    )
