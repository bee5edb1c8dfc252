"""The sections of a card: which weights changed, the update as a whole, and the paper beside it."""

from collections.abc import Callable, Sequence
from html import escape
from statistics import fmean

from rlsubnet.card.facts import (
    FRACTION_BITS,
    MODELS,
    RANK_RANGE,
    SFT_RANGE,
    TOLERANCE_RANGE,
    Facts,
    TensorFacts,
    by_kind,
    grouped,
    sparsity_of,
    total_norms,
)
from rlsubnet.card.html import (
    AT,
    Band,
    Bar,
    DotRow,
    Series,
    bar_panels,
    dot_rows,
    figure,
    legend,
    line_chart,
    measured,
    numbers,
    paragraph,
    per_cent,
    power,
    section,
    share_bar,
    size,
    table,
)
from rlsubnet.checkpoints.structure import MatrixRank
from rlsubnet.measure.kernel import EXPONENTS
from rlsubnet.measure.rank import mean_rank_share
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


def rank_shares(ranks: Sequence[MatrixRank]) -> tuple[float, float]:
    """Return the mean share of the largest rank, of the updates and of their controls."""
    return (
        mean_rank_share((rank.measured.rank, rank.max_rank) for rank in ranks),
        mean_rank_share((rank.control, rank.max_rank) for rank in ranks),
    )


def _rank_chart(of_kinds: dict[str, list[MatrixRank]]) -> str:
    rows, lowest = [], 100.0
    for kind, ranks in of_kinds.items():
        dots = []
        for rank in ranks:
            share = 100 * rank.measured.rank / rank.max_rank
            hint = f"{rank.tensor}: rank {rank.measured.rank} of {rank.max_rank}"
            dots.append((share, "dot", hint))
        control = 100 * rank_shares(ranks)[1]
        dots.append((control, "cross", f"random control, {kind}: {control:.2f} % on average"))
        lowest = min(lowest, *(value for value, _, _ in dots))
        rows.append(DotRow(kind, tuple(dots)))
    low = max(0.0, lowest - max(1.0, (100 - lowest) * 0.1))
    title = "Rank of the update of every matrix"
    return dot_rows(title, rows, "rank of the update, % of the largest possible", low, 100.0)


def _rank_figure(of_kinds: dict[str, list[MatrixRank]]) -> str:
    """Return the chart, or one sentence where all of its points would be one."""
    ranks = [rank for of_kind in of_kinds.values() for rank in of_kind]
    if all(rank.measured.rank == rank.control == rank.max_rank for rank in ranks):
        return paragraph(
            f"All {len(ranks)} update matrices have the largest possible rank, and all their "
            "random controls as well."
        )
    return figure(
        _rank_chart(of_kinds),
        "Dots: matrices, one per layer. Crosses: mean of the random control.",
    )


def rank(facts: Facts) -> str:
    """Return the section on ranks."""
    ranks = facts.ranks
    if not ranks:
        return section("rank", "Is the update low-rank?", paragraph("Ranks were not taken."))
    of_kinds = {
        kind: [rank for tensor in tensors for rank in tensor.ranks]
        for kind, tensors in by_kind(t for t in facts.tensors if t.ranks).items()
    }
    rows = []
    for kind, of_kind in of_kinds.items():
        mean, control = rank_shares(of_kind)
        lowest = min(of_kind, key=lambda one: one.measured.rank / one.max_rank)
        spreads = [
            fmean(getattr(one.measured, what) / one.max_rank for one in of_kind)
            for what in ("effective_rank", "stable_rank")
        ]
        rows.append(
            (
                kind,
                str(len(of_kind)),
                per_cent(mean),
                f"{lowest.measured.rank} of {lowest.max_rank}",
                per_cent(control),
                *map(per_cent, spreads),
            )
        )
    mean, control = rank_shares(ranks)
    low, high = RANK_RANGE
    return section(
        "rank",
        "Is the update low-rank?",
        paragraph(
            "Few changed weights need not mean a simple update. The <em>rank</em> of a matrix is "
            "the number of independent directions in it; methods such as LoRA allow a few. Here "
            f"the mean is <strong>{per_cent(mean)}</strong> of the largest possible rank; the "
            f"paper prints {low:g} to {high:g} % for four models (Table 2). The control, with as "
            f"many changes of the same sizes at random places, has {per_cent(control)}: a rank "
            "that the control has too is what sparsity alone brings."
        ),
        _rank_figure(of_kinds),
        numbers(
            "Numbers",
            table(
                "Rank of the updates; effective and stable rank tell how evenly they spread "
                "(100 %: all directions alike)",
                (
                    "matrix",
                    "number",
                    "mean rank",
                    "lowest",
                    "random control",
                    "effective rank",
                    "stable rank",
                ),
                rows,
            ),
        ),
    )


def norms(facts: Facts) -> str:
    """Return the section on how far the weights moved."""
    whole = facts.norms
    rows = []
    for kind, tensors in by_kind(facts.tensors).items():
        of_kind = total_norms(tensors)
        counts = total_counts(t.counts for t in tensors)
        rows.append(
            (
                kind,
                f"{of_kind.init:.4g}",
                measured(of_kind.update),
                per_cent(of_kind.relative, 3),
                measured(of_kind.update_rms),
                measured(counts.max_abs_diff),
            )
        )
    rows.append(
        (
            "all",
            f"{whole.init:.4g}",
            measured(whole.update),
            per_cent(whole.relative, 3),
            measured(whole.update_rms),
            measured(facts.counts.max_abs_diff),
        )
    )
    content = [
        paragraph(
            "The length of the update (its Frobenius norm: root of the sum of squares) beside that "
            f"of the weights: <strong>{per_cent(whole.relative, 3)}</strong> over the whole model."
        )
    ]
    if facts.layers:
        series = kind_series(facts, lambda t: 100 * total_norms(t).relative, "whole layer")
        chart = line_chart(
            "Relative size of the update by layer", series, layer_labels(facts), "layer"
        )
        content.append(
            figure(chart, "Length of the update in % of that of the weights.", legend(series))
        )
    content.append(
        numbers(
            "Numbers",
            table(
                "Length of weights and update",
                ("matrix", "weights", "update", "ratio", "mean change (rms)", "largest change"),
                rows,
                ours=len(rows) - 1,
            ),
        )
    )
    return section("norms", "How far did the weights move?", *content)


def delta(facts: Facts) -> str:
    """Return the section on what it takes to store the update."""
    small = sum(tensor.delta_bytes for tensor in facts.tensors)
    full = sum(tensor.full_bytes for tensor in facts.tensors)
    share = small / full
    if facts.quantized:
        words = "The weights are stored in fp8; what their delta takes is not told here."
        return section("delta", "What does it take to store?", paragraph(words))
    label = f"{size(small)}, {per_cent(share, 1)} of {size(full)}"
    return section(
        "delta",
        "What does it take to store?",
        paragraph(
            "Whoever has the first model needs only the difference to have the second as well: "
            "which weights changed, and by how many steps. Packed without loss, that is "
            f"<strong>{escape(label)}</strong> of weights."
        ),
        figure(
            share_bar("Size of a delta beside the file", share, label), "Delta beside the file."
        ),
        paragraph(
            "<code>rlsubnet delta pack INIT TUNED x.delta</code> writes it, "
            "<code>rlsubnet delta unpack INIT x.delta FOLDER</code> makes the files of it again, "
            "byte by byte."
        ),
    )


def beside_the_paper(facts: Facts) -> str:
    """Return the section with the models that the paper measured."""
    counts = facts.counts
    ours = 100 * counts.sparsity("official", TABLE_TOLERANCE)
    same = 100 - 100 * counts.bitwise_changed / counts.numel
    entries = [(f"{m.name} ({m.method})", m.sparsity, m.without, False) for m in MODELS]
    entries.append(("this pair", ours, same, True))
    entries.sort(key=lambda entry: -entry[1])
    rows = []
    for name, value, without, is_ours in entries:
        dots = [(value, "dot", f"{name}: {value:.2f} % at {AT}")]
        if without is not None:
            smallest = "same bits" if is_ours else f"at {power(1e-8)}"
            dots.insert(0, (without, "hollow", f"{name}: {without:.2f} %, {smallest}"))
        rows.append(DotRow(name, tuple(dots), is_ours))
    listed = [
        (name, "not printed" if without is None else f"{without:.2f} %", f"{value:.2f} %")
        for name, value, without, _ in entries
    ]
    low, high = SFT_RANGE
    chart = dot_rows(
        "Sparsity of this pair and of the paper's models",
        rows,
        "share of unchanged weights",
        0.0,
        100.0,
        (low, high, f"supervised finetuning in the paper: {low:g} to {high:g} %"),
    )
    return section(
        "paper",
        "Beside the models of the paper",
        paragraph(
            "What the paper prints for models that RL or preference learning made (Tables 1 and "
            f"6). For supervised finetuning it gives {low:g} to {high:g} % (shaded). The numbers "
            "are comparable only where the number type is the same, and they depend on learning "
            "rate and length of training, which differ between these models."
        ),
        figure(
            chart,
            f"Filled: official rule at {AT}. Hollow: (nearly) without a tolerance.",
        ),
        numbers(
            "Numbers",
            table(
                "Share of unchanged weights",
                ("model", "without tolerance", f"at {AT}"),
                listed,
                ours=next(n for n, entry in enumerate(entries) if entry[3]),
            ),
        ),
    )
