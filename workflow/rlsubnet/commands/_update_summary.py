"""What ``rlsubnet updates`` prints: a page of text from the counts of a pair."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlsubnet.checkpoints.pair import pair_notes
from rlsubnet.measure.parameters import parse_parameter
from rlsubnet.measure.sparsity import (
    RULES,
    TABLE_TOLERANCE,
    UpdateCounts,
    group_counts,
    total_counts,
)

if TYPE_CHECKING:
    from rlsubnet.checkpoints.pair import Pair


def _line(label: str, counts: UpdateCounts, atol: float) -> str:
    shares = "".join(f"{100 * counts.sparsity(rule, atol):>10.2f}" for rule in RULES)
    changed = 100 * counts.bitwise_changed / counts.numel if counts.numel else 0.0
    return f"{label:<28}{counts.numel:>15,}{shares}{changed:>10.2f}"


def update_summary(pair: "Pair", counts: Mapping[str, UpdateCounts]) -> str:
    """Return the summary of a pair: sparsity in per cent, by tolerance, matrix kind and layer."""
    total = total_counts(counts.values())
    tolerances = sorted({atol for _, atol in total.unchanged})
    shown = TABLE_TOLERANCE if TABLE_TOLERANCE in tolerances else tolerances[-1]
    share = total.bitwise_changed / total.numel if total.numel else 0.0
    lines = [
        f"init   {pair.init.path}",
        f"tuned  {pair.tuned.path}",
        f"{total.numel:,} weights in {len(counts)} tensors; {total.bitwise_changed:,} "
        f"({share:.2%}) differ in their bits, by at most {total.max_abs_diff:g}",
        "",
        f"{'sparsity in %, by tolerance':<43}{'official':>10}{'exact':>10}",
    ]
    for atol in tolerances:
        shares = "".join(f"{100 * total.sparsity(rule, atol):>10.2f}" for rule in RULES)
        lines.append(f"{atol:<43g}{shares}")
    kinds = group_counts(counts, lambda name: parse_parameter(name).matrix)
    layers = group_counts(counts, lambda name: parse_parameter(name).layer)
    for title, groups in (("matrix kind", kinds), ("layer", layers)):
        header = f"by {title}, at {shown:g}"
        lines += [
            "",
            f"{header:<28}{'weights':>15}{'official':>10}{'exact':>10}{'bits':>10}",
        ]
        for key, part in groups.items():
            lines.append(_line("(outside layers)" if key is None else str(key), part, shown))
    lines += [f"warning: {note}" for note in pair_notes(pair)]
    return "\n".join(lines)
