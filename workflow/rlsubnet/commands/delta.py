"""Store a tuned checkpoint as what differs from its init: which weights changed, and by how many
steps of their type. Lossless: every file of the tuned folder comes back byte by byte. Checked by
digest: each block is decoded again while it is packed, and a delta opens with its own init alone.
At 77 % sparsity it is about a tenth of a bfloat16 checkpoint. Memory does not grow with the model.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlsubnet.checkpoints.delta_file import FORMAT, Delta, DeltaTensor
from rlsubnet.commands.shared import CHECKPOINT_HELP, Subcommands, add_command, add_pair
from rlsubnet.measure.parameters import natural_order, parse_parameter


def _add_out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("place", nargs="?", type=Path, metavar="OUT", help=what)
    parser.add_argument("--out", type=Path, metavar="OUT", help="the same")


def _out(options: argparse.Namespace) -> Path:
    given = [path for path in (options.place, options.out) if path is not None]
    if len(given) != 1:
        raise ValueError(f"expected one OUT, found {len(given)}: {', '.join(map(str, given))}")
    return Path(given[0])


Named = tuple[str, DeltaTensor]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _counted(delta: Delta) -> list[Named]:
    """Return the tensors that count as weights of their own, in natural order."""
    tensors = delta.manifest.tensors
    names = sorted(tensors, key=natural_order)
    return [(name, tensors[name]) for name in names if not tensors[name].same_as]


def _sizes(delta: Delta) -> tuple[int, int, int]:
    tensors = [tensor for _, tensor in _counted(delta)]
    changed, numel = sum(t.changed for t in tensors), sum(t.numel for t in tensors)
    return changed, numel, delta.path.stat().st_size


def size_line(delta: Delta) -> str:
    (changed, numel, size), full = _sizes(delta), delta.full_bytes
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


def _table(
    title: str, tensors: Sequence[Named], key: Callable[[str], Any] = lambda name: name
) -> list[str]:
    groups: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors:
        group = key(name)
        label = "(outside layers)" if group is None else str(group)
        changed, numel = groups.get(label, (0, 0))
        groups[label] = changed + tensor.changed, numel + tensor.numel
    lines = ["", f"{'changed':>15}{'of':>15}{'%':>9}  {title}"]
    for label, (changed, numel) in groups.items():
        lines.append(f"{changed:>15,}{numel:>15,}{100 * _share(changed, numel):>9.2f}  {label}")
    return lines


def summary(delta: Delta) -> str:
    tensors = _counted(delta)
    lines = [size_line(delta)]
    lines += _table("layer", tensors, lambda name: parse_parameter(name).layer)
    lines += _table("matrix kind", tensors, lambda name: parse_parameter(name).matrix)
    lines += _table("tensor", tensors)
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
    changed, numel, size = _sizes(delta)
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


def run_pack(options: argparse.Namespace) -> None:
    """Write the delta of a pair of checkpoints.

    Example:
      rlsubnet delta pack models/sft runs/dpo/final dpo.delta
    """
    from rlsubnet.checkpoints.checkpoint import open_source
    from rlsubnet.checkpoints.delta_pack import pack

    out = _out(options)
    pack(open_source(options.init), open_source(options.tuned), out)
    delta = Delta(out)
    print(size_line(delta))
    for line in notes(delta):
        print(f"note: {line}")


def run_unpack(options: argparse.Namespace) -> None:
    """Write init + delta as the Hugging Face folder that was packed: the same files with the same
    bytes, compared by digest. Init may be laid out in other shards than it was.

    Example:
      rlsubnet delta unpack models/sft dpo.delta dpo
    """
    from rlsubnet.checkpoints.checkpoint import open_source
    from rlsubnet.checkpoints.delta import unpack

    unpack(open_source(options.init), options.delta, _out(options))


def run_show(options: argparse.Namespace) -> None:
    """Print which share of each tensor changed, and the size beside a full copy.

    Example:
      rlsubnet delta show dpo.delta
    """
    delta = Delta(options.delta)
    delta.check_data()
    print(json.dumps(as_json(delta), indent=2) if options.json else summary(delta))


def add_commands(subcommands: Subcommands) -> None:
    parser = add_command(
        subcommands,
        "delta",
        run_show,
        "rlsubnet delta pack models/sft runs/dpo/final dpo.delta\n"
        "  rlsubnet delta show dpo.delta\n"
        "  rlsubnet delta unpack models/sft dpo.delta dpo",
        __doc__ or "",
    )
    actions = parser.add_subparsers(
        required=True, metavar="ACTION", help="pack, unpack or show; each has its own --help"
    )

    parser = add_command(
        actions, "pack", run_pack, summary="write the delta of a pair of checkpoints"
    )
    add_pair(parser, common_rows=False)
    _add_out(parser, "delta to write")

    parser = add_command(
        actions, "unpack", run_unpack, summary="write init + delta as a Hugging Face folder"
    )
    parser.add_argument("init", metavar="INIT", help=f"before finetuning: {CHECKPOINT_HELP}")
    parser.add_argument("delta", metavar="DELTA", help="what `rlsubnet delta pack` wrote")
    _add_out(parser, "folder to make")

    parser = add_command(
        actions,
        "show",
        run_show,
        summary="print which share of each tensor changed, and the size beside a full copy",
    )
    parser.add_argument("delta", metavar="DELTA", help="what `rlsubnet delta pack` wrote")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
