"""Subcommands that count updated weights: updates, mask, frozen."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.commands import overlap, structure
from rlsubnet.commands._pair import add_pair, add_pass_options, measure, open_pair
from rlsubnet.commands._parser import add_command

if TYPE_CHECKING:
    from rlsubnet.checkpoints.pair import Pair
    from rlsubnet.measure.sparsity import UpdateCounts

UPDATE_COLUMNS = [
    "tensor",
    "layer",
    "matrix",
    "numel",
    "atol",
    "rule",
    "unchanged",
    "bitwise_changed",
    "max_abs_diff",
    "dtype_init",
    "dtype_tuned",
]
FROZEN_COLUMNS = [
    "tensor",
    "numel",
    "frozen",
    "frozen_changed",
    "subnetwork",
    "subnetwork_changed",
]


def _save_random_mask(pair: "Pair", path: Path, seed: int) -> None:
    from rlsubnet.checkpoints.masks import write_mask
    from rlsubnet.checkpoints.pair import random_masks

    digests = {"init_sha256": pair.init.digest(), "tuned_sha256": pair.tuned.digest()}
    metadata = {"rule": "random", "atol": "0.0", "seed": str(seed), **digests}
    write_mask(path, pair.shapes, random_masks(pair, seed), metadata)


def _update_rows(pair: "Pair", counts: "dict[str, UpdateCounts]") -> list[dict[str, Any]]:
    from rlsubnet.measure.parameters import parse_parameter

    rows = []
    for name, count in counts.items():
        place = parse_parameter(name)
        for (rule, atol), unchanged in count.unchanged.items():
            rows.append(
                {
                    "tensor": name,
                    "layer": "" if place.layer is None else place.layer,
                    "matrix": place.matrix,
                    "numel": count.numel,
                    "atol": repr(atol),
                    "rule": rule,
                    "unchanged": unchanged,
                    "bitwise_changed": count.bitwise_changed,
                    "max_abs_diff": repr(count.max_abs_diff),
                    "dtype_init": pair.init.tensors[name].dtype,
                    "dtype_tuned": pair.tuned.tensors[name].dtype,
                }
            )
    return rows


def run_updates(options: argparse.Namespace) -> None:
    """Count what finetuning changed; print a summary, write the rows and the mask asked for."""
    from rlsubnet.commands._update_summary import update_summary
    from rlsubnet.files import write_csv
    from rlsubnet.measure.kernel import Request
    from rlsubnet.measure.sparsity import TOLERANCES

    if options.out and options.mask and options.out.resolve() == options.mask.resolve():
        raise ValueError(f"--out and --mask are one file, {options.out}: expected two")
    pair = open_pair(options)
    tolerances = sorted(set(options.tolerances or TOLERANCES))
    found = measure(pair, Request(tuple(tolerances)), options, options.out, options.mask)
    counts = {name: counts.update_counts(tolerances) for name, counts in found.items()}
    if options.out:
        write_csv(options.out, _update_rows(pair, counts), UPDATE_COLUMNS)
    print(update_summary(pair, counts))


def run_mask(options: argparse.Namespace) -> None:
    """Write which weights a pair's update changed."""
    from rlsubnet.measure.kernel import Request
    from rlsubnet.measure.sparsity import TABLE_TOLERANCE

    if options.rule in ("bitwise", "random") and options.atol is not None:
        raise ValueError(f"--atol has no meaning with --rule {options.rule}; use official or exact")
    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, found {options.seed}")
    atol = TABLE_TOLERANCE if options.atol is None else options.atol
    pair = open_pair(options)
    if options.rule == "random":
        _save_random_mask(pair, options.out, options.seed)
    else:
        atol = 0.0 if options.rule == "bitwise" else atol
        measure(pair, Request((), options.rule, atol), options, None, options.out)


def run_frozen(options: argparse.Namespace) -> None:
    """Compare the weights outside a mask bit by bit; fail after writing which ones changed."""
    from rlsubnet.checkpoints.masks import load_mask
    from rlsubnet.checkpoints.pair import check_frozen
    from rlsubnet.files import write_csv

    counts = dict(check_frozen(open_pair(options), load_mask(options.mask)))
    rows = [{"tensor": name, **vars(count)} for name, count in counts.items()]
    if options.out:
        write_csv(options.out, rows, FROZEN_COLUMNS)
    broken = {name: c.frozen_changed for name, c in counts.items() if c.frozen_changed}
    if broken:
        listed = ", ".join(f"{name} ({number})" for name, number in broken.items())
        raise ValueError(f"{options.tuned}: weights outside the mask changed: {listed}")
    frozen = sum(count.frozen for count in counts.values())
    print(f"{frozen:,} frozen weights in {len(counts)} tensors, 0 changed")


def _add_updates(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        subcommands,
        "updates",
        run_updates,
        "count which weights finetuning changed, at every tolerance",
        "rlsubnet updates models/sft runs/dpo/final --out updates.csv --mask mask.safetensors",
        "Count which weights finetuning changed (section 2.2): per tensor, at every tolerance,\n"
        "under the authors' rule (official: differences and tolerance rounded to bfloat16)\n"
        "and under the exact rule (float32 difference of the stored values). A summary by\n"
        "matrix kind and layer is always printed. Reads a few MiB at a time. An interrupted run\n"
        "goes on after the last shard that it finished, if nothing has changed since.",
    )
    add_pair(parser)
    parser.add_argument(
        "--tolerances",
        type=float,
        nargs="+",
        metavar="ATOL",
        help="absolute tolerances in weight units (default: 1e-8 1e-7 1e-6 1e-5 1e-4)",
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the counts of every tensor")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="write the bitwise mask as well, for training"
    )
    add_pass_options(parser)


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add updates, mask and frozen, and with them overlap, rank and trajectory."""
    _add_updates(subcommands)

    parser = add_command(
        subcommands,
        "mask",
        run_mask,
        "write the mask of a pair: one bit per weight that finetuning changed",
        "rlsubnet mask models/sft runs/dpo/final --rule official --atol 1e-5 --out m.safetensors",
    )
    add_pair(parser)
    parser.add_argument(
        "--rule",
        choices=("bitwise", "official", "exact", "random"),
        default="bitwise",
        help="bitwise: stored bits differ (for training, section 1); official, exact: changed by "
        "more than --atol, as in `rlsubnet updates`; random: a control with as many weights of "
        "each tensor as bitwise, at random positions (default: bitwise)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --rule random (default: 0)")
    parser.add_argument(
        "--atol", type=float, help="tolerance of official and exact, weight units (default: 1e-5)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="mask to write")
    add_pass_options(parser)

    parser = add_command(
        subcommands,
        "frozen",
        run_frozen,
        "check that masked training left every weight outside its mask bit-identical",
        "rlsubnet frozen models/sft runs/dpo_sub/final --mask mask.safetensors --out frozen.csv",
        "Compare the weights outside a mask bit by bit. Exit status 1, after writing --out,\n"
        "when one of them changed.",
    )
    add_pair(parser, common_rows=False)
    parser.add_argument("--mask", type=Path, required=True, metavar="FILE", help="training mask")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the counts of every tensor")

    overlap.add_commands(subcommands)
    structure.add_commands(subcommands)
