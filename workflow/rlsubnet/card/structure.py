"""Sections on the update as a whole: its rank, its size, what it takes to store, and the paper."""

from collections.abc import Sequence
from html import escape
from statistics import fmean

from rlsubnet.card.charts import DotRow, dot_rows, legend, line_chart, share_bar
from rlsubnet.card.facts import Facts, by_kind, total_norms
from rlsubnet.card.paper import MODELS, RANK_RANGE, SFT_RANGE
from rlsubnet.card.parts import (
    AT,
    figure,
    measured,
    numbers,
    paragraph,
    per_cent,
    power,
    section,
    size,
    table,
)
from rlsubnet.card.sparsity import kind_series, layer_labels
from rlsubnet.checkpoints.ranks import MatrixRank
from rlsubnet.measure.rank import mean_rank_share
from rlsubnet.measure.sparsity import TABLE_TOLERANCE, total_counts


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
