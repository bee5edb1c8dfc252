"""What ``rlsubnet delta`` prints: a page of text, or the same numbers as JSON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlsubnet.checkpoints.delta_file import FORMAT, Delta, DeltaTensor
from rlsubnet.measure.parameters import natural_order, parse_parameter

Named = tuple[str, DeltaTensor]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _counted(delta: Delta) -> list[Named]:
    """Return the tensors that count as weights of their own, in natural order."""
    tensors = delta.manifest.tensors
    names = sorted(tensors, key=natural_order)
    return [(name, tensors[name]) for name in names if not tensors[name].same_as]


def size_line(delta: Delta) -> str:
    """Return the share of changed weights, and the size beside that of a full copy."""
    counted = [tensor for _, tensor in _counted(delta)]
    changed, numel = sum(t.changed for t in counted), sum(t.numel for t in counted)
    size, full = delta.path.stat().st_size, delta.full_bytes
    return (
        f"{changed:,} of {numel:,} weights changed ({_share(changed, numel):.2%}); "
        f"{size:,} bytes, {_share(size, full):.1%} of a full copy ({full:,})"
    )


def notes(delta: Delta) -> list[str]:
    """Return what does not follow from the numbers: new, resized and removed tensors, files."""
    manifest, lines = delta.manifest, []
    for name, tensor in manifest.tensors.items():
        base = manifest.init.get(tensor.init)
        if tensor.same_as:
            lines.append(f"{name} has the bytes of {tensor.same_as} and is not stored again")
        elif base is None:
            lines.append(f"{name} is stored whole: init has none of its type and row length")
        elif base.shape != tensor.shape:
            rows = f"{base.shape[0]:,} and {tensor.shape[0]:,}"
            lines.append(f"{name} has {rows} rows: further ones are stored whole")
        elif base.dtype != tensor.dtype:
            lines.append(f"{name} is {tensor.dtype}, in init {base.dtype}: rounded, then compared")
    lines += [f"{name} of init is gone" for name in manifest.removed]
    lines += [f"{name} was left out" for name in manifest.left_out]
    return lines


def _groups(tensors: Sequence[Named], key: Callable[[str], Any]) -> dict[str, tuple[int, int]]:
    groups: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors:
        label = key(name)
        label = "(outside layers)" if label is None else str(label)
        changed, numel = groups.get(label, (0, 0))
        groups[label] = changed + tensor.changed, numel + tensor.numel
    return groups


def _table(title: str, rows: Iterable[tuple[str, int, int]]) -> list[str]:
    lines = ["", f"{'changed':>15}{'of':>15}{'%':>9}  {title}"]
    for label, changed, numel in rows:
        lines.append(f"{changed:>15,}{numel:>15,}{100 * _share(changed, numel):>9.2f}  {label}")
    return lines


def summary(delta: Delta) -> str:
    """Return what ``rlsubnet delta show`` prints."""
    tensors = _counted(delta)
    layers = _groups(tensors, lambda name: parse_parameter(name).layer)
    kinds = _groups(tensors, lambda name: parse_parameter(name).matrix)
    lines = [size_line(delta)]
    lines += _table("layer", ((label, *counts) for label, counts in layers.items()))
    lines += _table("matrix kind", ((label, *counts) for label, counts in kinds.items()))
    lines += _table("tensor", ((name, t.changed, t.numel) for name, t in tensors))
    if delta.manifest.files:
        lines += ["", f"{'bytes':>15}  {'sha256':<64}  file"]
    for name, file in delta.manifest.files.items():
        origin = " (that of init)" if file.kind == "init" else ""
        lines.append(f"{file.size:>15,}  {file.sha256}  {name}{origin}")
    remarks = [f"note: {line}" for line in notes(delta)]
    return "\n".join(lines + ([""] + remarks if remarks else []))


def as_json(delta: Delta) -> dict[str, Any]:
    """Return the numbers of ``summary``, shares in [0, 1]."""
    tensors = []
    for name, tensor in delta.manifest.tensors.items():
        place = parse_parameter(name)
        tensors.append(
            {
                "tensor": name,
                "layer": place.layer,
                "matrix": place.matrix,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "numel": tensor.numel,
                "changed": tensor.changed,
                "stored_bytes": delta.stored_bytes(name),
                "sha256": tensor.sha256,
                "init": tensor.init or None,
                "same_as": tensor.same_as or None,
            }
        )
    counted = [tensor for _, tensor in _counted(delta)]
    changed, numel = sum(t.changed for t in counted), sum(t.numel for t in counted)
    size = delta.path.stat().st_size
    return {
        "format": FORMAT,
        "bytes": size,
        "full_bytes": delta.full_bytes,
        "share_of_full": _share(size, delta.full_bytes),
        "changed": changed,
        "numel": numel,
        "density": _share(changed, numel),
        "tensors": tensors,
        "removed": list(delta.manifest.removed),
        "init": {name: vars(tensor) for name, tensor in delta.manifest.init.items()},
        "files": {name: vars(file) for name, file in delta.manifest.files.items()},
        "left_out": list(delta.manifest.left_out),
    }
