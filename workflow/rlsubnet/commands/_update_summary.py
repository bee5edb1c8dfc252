"""What ``rlsubnet updates`` prints: a page of text from the counts of a pair."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlsubnet.measure.parameters import parse_parameter
from rlsubnet.measure.sparsity import (
    RULES,
    TABLE_TOLERANCE,
    UpdateCounts,
    group_counts,
    total_counts,
)

if TYPE_CHECKING:
    from rlsubnet.checkpoints.compare import Pair


def _line(label: str, counts: UpdateCounts, atol: float) -> str:
    shares = "".join(f"{100 * counts.sparsity(rule, atol):>10.2f}" for rule in RULES)
    changed = 100 * counts.bitwise_changed / counts.numel if counts.numel else 0.0
    return f"{label:<28}{counts.numel:>15,}{shares}{changed:>10.2f}"


def _warnings(pair: "Pair") -> list[str]:
    """Return what a reader must know before quoting a number."""
    notes = []
    for name, (before, after) in pair.resized.items():
        notes.append(f"{name} has {before} and {after} rows: the first {min(before, after)} count")
    if differing := pair.differing_dtypes:
        kinds = sorted({f"{a} against {b}" for a, b in differing.values()})
        notes.append(
            f"stored types differ in {len(differing)} tensors ({', '.join(kinds)}): official and "
            "bitwise round both to bfloat16, exact compares in float32"
        )
    for side, checkpoint in (("init", pair.init), ("tuned", pair.tuned)):
        if quantized := [name for name in pair.shapes if name in checkpoint.scales]:
            notes.append(
                f"{side}: {len(quantized)} tensors are fp8 codes with block scales: the bfloat16 "
                "weights that they stand for are compared"
            )
        for name in checkpoint.tied:
            notes.append(f"{side}: {name} equals the embedding it is tied to and counts once")
        if checkpoint.buffers:
            notes.append(f"{side}: {len(checkpoint.buffers)} rotary buffers are no weights")
    return notes


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
    lines += [f"warning: {note}" for note in _warnings(pair)]
    return "\n".join(lines)
