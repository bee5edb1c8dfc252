"""What a reader must know about a pair before quoting a number of it."""

from rlsubnet.checkpoints.compare import Pair


def pair_notes(pair: Pair) -> list[str]:
    """Return in words: resized tensors, differing types, fp8, tied heads, buffers."""
    notes = []
    for name, (before, after) in pair.resized.items():
        notes.append(f"{name} has {before} and {after} rows: the first {min(before, after)} count")
    if differing := pair.differing_dtypes:
        kinds = sorted({f"{a} against {b}" for a, b in differing.values()})
        notes.append(
            f"stored types differ in {len(differing)} tensors ({', '.join(kinds)}): official and "
            "bitwise round both to bfloat16, exact compares in float32, where a change of type "
            "alone moves weights"
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
