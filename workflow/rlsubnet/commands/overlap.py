"""Subcommands on masks: overlap, beside what chance would give, and union."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.commands._pair import CHECKPOINT_HELP, add_kernel
from rlsubnet.commands._parser import add_command

if TYPE_CHECKING:
    from rlsubnet.checkpoints.overlap import MaskPair
    from rlsubnet.measure.overlap import Overlap, TensorOverlap

OVERLAP_COLUMNS = ["null", "o1", "o2", "o1_null", "o2_null", "lift", "ci_low", "ci_high"]


def _number(value: float) -> str:
    """Return all digits of a number, nothing where it is not defined."""
    return "" if math.isnan(value) else repr(value)


def _row(overlap: "Overlap") -> dict[str, Any]:
    numbers = {name: value for name, value in vars(overlap).items() if name != "null"}
    return {"null": overlap.null, **{name: _number(value) for name, value in numbers.items()}}


def _summary(
    masks: "MaskPair", tensors: Sequence["TensorOverlap"], overlaps: Sequence["Overlap"]
) -> str:
    """Return what the command prints: sizes, overlaps, and the nulls line by line."""
    from rlsubnet.measure.overlap import NULLS, OverlapCounts

    total = sum((tensor.counts for tensor in tensors), OverlapCounts())
    o1, o2 = overlaps[0].o1, overlaps[0].o2
    lines = [f"{total.numel:,} weights in {len(tensors)} tensors"]
    for number, mask, size in ((1, masks.first, total.first), (2, masks.second, total.second)):
        share = size / total.numel
        lines.append(f"subnetwork {number}  {size:>15,} updated ({share:.2%})  {mask.path}")
    lines += [
        f"in both       {total.both:>15,}: o1 = {o1:.2%} of subnetwork 1, o2 = {o2:.2%} of "
        "subnetwork 2",
        "",
        f"{'what chance would give':<46}{'o1 %':>8}{'o2 %':>8}{'lift':>8}  95 % interval",
    ]
    for overlap in overlaps:
        lift = "-" if math.isnan(overlap.lift) else f"{overlap.lift:.3f}"
        defined = not math.isnan(overlap.ci_low)
        interval = f"{overlap.ci_low:.3f} to {overlap.ci_high:.3f}" if defined else "not defined"
        lines.append(
            f"{NULLS[overlap.null]:<46}{100 * overlap.o1_null:>8.2f}{100 * overlap.o2_null:>8.2f}"
            f"{lift:>8}  {interval}"
        )
    lines += [
        "",
        "lift: weights in both, over those that chance would put there; 1 is chance.",
        "interval: how much the lift differs between tensors, not between runs.",
    ]
    if masks.init is None:
        lines.append(
            "Small weights show a bfloat16 change in every run, which lifts these overlaps without "
            "any shared\nstructure: --init INIT adds the null that allows for it."
        )
    else:
        lines.append("The last null allows for small weights changing visibly in every run.")
    return "\n".join(lines + [f"note: {note}" for note in masks.notes])


def run_overlap(options: argparse.Namespace) -> None:
    """Print, and write when asked, the overlap of two masks beside that of chance."""
    import numpy as np

    from rlsubnet.checkpoints.checkpoint import Checkpoint, open_source
    from rlsubnet.checkpoints.masks import load_mask
    from rlsubnet.checkpoints.overlap import pair_masks, tensor_overlaps
    from rlsubnet.files import write_csv
    from rlsubnet.measure.overlap import overlap_beside_nulls

    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, found {options.seed}")
    if options.common_rows and not options.init:
        raise ValueError("--common-rows has no meaning without --init")
    init = Checkpoint(open_source(options.init)) if options.init else None
    masks = pair_masks(
        load_mask(options.mask1), load_mask(options.mask2), init, options.common_rows
    )
    tensors = [tensor for _, tensor in tensor_overlaps(masks, kernel=options.kernel)]
    try:
        overlaps = overlap_beside_nulls(tensors, np.random.default_rng(options.seed))
    except ValueError as error:
        raise ValueError(f"{masks.first.path} and {masks.second.path}: {error}") from error
    if options.out:
        write_csv(options.out, [_row(overlap) for overlap in overlaps], OVERLAP_COLUMNS)
    print(_summary(masks, tensors, overlaps))


def run_union(options: argparse.Namespace) -> None:
    """Write the union of masks, and print what share of it each of them is."""
    from rlsubnet.checkpoints.masks import load_mask
    from rlsubnet.checkpoints.overlap import unite_masks

    masks = [load_mask(path) for path in options.masks]
    ever, sizes = unite_masks(masks, options.out)
    numel = sum(math.prod(masks[0].shape(name)) for name in masks[0].names)
    if not numel:
        raise ValueError(f"{masks[0].path}: a mask of no weights")
    print(f"{ever:,} of {numel:,} weights ({ever / numel:.2%}) are in at least one mask; in each:")
    for mask, size in zip(masks, sizes, strict=True):
        share = f"{size / ever:.2%} of the union" if ever else "the union is empty"
        print(f"{size:>15,} ({share})  {mask.path}")


def _add_union(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        subcommands,
        "union",
        run_union,
        "the weights that are in at least one of several masks: ever updated",
        "rlsubnet union step50.safetensors step100.safetensors --out ever.safetensors",
        "Write the union of masks of one start, such as those of a run's saved steps: the weights\n"
        "that were ever updated (Figure 6). Reads a piece at a time.",
    )
    parser.add_argument("masks", nargs="+", metavar="MASK", help="masks (`rlsubnet mask`)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="mask to write")


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add overlap and union."""
    _add_union(subcommands)
    parser = add_command(
        subcommands,
        "overlap",
        run_overlap,
        "one-sided overlaps of two subnetworks (Table 4) beside what chance would give",
        "rlsubnet overlap seed42.safetensors seed123.safetensors --init models/sft --out o.csv",
        "How much two subnetworks share (section 5): o1 is the share of subnetwork 1 that lies in\n"
        "subnetwork 2, o2 the reverse. Beside them stands what two runs would share by chance:\n"
        "with their updates anywhere (uniform, Appendix E); with the same density in each tensor;\n"
        "and, with --init, with the same density in each tensor and bfloat16 exponent of the\n"
        "weights before finetuning. Small weights show a bfloat16 change in every run, so that\n"
        "only what exceeds the last one is shared structure. Reads a few MiB at a time.",
    )
    parser.add_argument("mask1", metavar="MASK1", help="mask of subnetwork 1 (`rlsubnet mask`)")
    parser.add_argument("mask2", metavar="MASK2", help="mask of subnetwork 2")
    parser.add_argument(
        "--init",
        metavar="INIT",
        help=f"what both runs started from, for the last null: {CHECKPOINT_HELP}",
    )
    parser.add_argument(
        "--common-rows",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="tensors of INIT with more rows than the masks cover (a resized vocabulary)",
    )
    add_kernel(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the bootstrap behind the intervals (default: 0)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="write one row per null")
