"""Subcommands on pairs and masks: updates, mask, frozen, union, overlap, rank, trajectory, card."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.commands.shared import (
    CHECKPOINT_HELP,
    LOCAL_HELP,
    Subcommands,
    add_command,
    add_common_rows,
    add_csv,
    add_device,
    add_kernel,
    add_pair,
    add_pass_options,
    add_path,
    add_seed,
    add_threads,
    check_seed,
    chosen_device,
    open_pair,
    progress_bar,
)
from rlsubnet.files import replacing, write_csv
from rlsubnet.measure.parameters import parse_parameter
from rlsubnet.threads import bound_linear_algebra, checked_threads

if TYPE_CHECKING:
    from rlsubnet.checkpoints.pair import Pair
    from rlsubnet.checkpoints.structure import MaskPair, MatrixRank
    from rlsubnet.measure.kernel import Counts, Request
    from rlsubnet.measure.overlap import Overlap, TensorOverlap
    from rlsubnet.measure.sparsity import UpdateCounts


def _measure(
    pair: "Pair",
    request: "Request",
    options: argparse.Namespace,
    result: Path | None,
    mask: Path | None,
) -> "dict[str, Counts]":
    from rlsubnet.checkpoints.differ import measure_update

    kernel, threads = options.kernel, checked_threads(options.threads)
    with closing(progress_bar(pair, options.progress)) as progress:
        return measure_update(
            pair, request, result, mask, kernel=kernel, threads=threads, progress=progress
        )


def run_updates(options: argparse.Namespace) -> None:
    """Count which weights finetuning changed (section 2.2): per tensor, at every tolerance,
    under the authors' rule (official: differences and tolerance rounded to bfloat16)
    and under the exact rule (float32 difference of the stored values). A summary by
    matrix kind and layer is always printed. Reads a few MiB at a time. An interrupted run
    goes on after the last shard that it finished, if nothing has changed since.

    Example:
      rlsubnet updates models/sft runs/dpo/final --out updates.csv --mask mask.safetensors
    """
    from rlsubnet.measure.kernel import Request
    from rlsubnet.measure.sparsity import TOLERANCES

    if options.out and options.mask and options.out.resolve() == options.mask.resolve():
        raise ValueError(f"--out and --mask are one file, {options.out}: expected two")
    pair = open_pair(options)
    tolerances = sorted(set(options.tolerances or TOLERANCES))
    found = _measure(pair, Request(tuple(tolerances)), options, options.out, options.mask)
    counts = {name: found[name].update_counts(tolerances) for name in found}
    if options.out:
        from rlsubnet.columns import UpdateRow, names

        write_csv(options.out, _update_rows(pair, counts), names(UpdateRow))
    print(_update_summary(pair, counts))


def _update_rows(pair: "Pair", counts: "Mapping[str, UpdateCounts]") -> list[dict[str, Any]]:
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


def _update_summary(pair: "Pair", counts: "Mapping[str, UpdateCounts]") -> str:
    from rlsubnet.checkpoints.pair import pair_notes
    from rlsubnet.measure.sparsity import RULES, TABLE_TOLERANCE, group_counts, total_counts

    def percents(counts: "UpdateCounts", atol: float) -> str:
        return "".join(f"{100 * counts.sparsity(rule, atol):>10.2f}" for rule in RULES)

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
        *(f"{atol:<43g}{percents(total, atol)}" for atol in tolerances),
    ]
    keys: dict[str, Callable[[str], Any]] = {
        "matrix kind": lambda name: parse_parameter(name).matrix,
        "layer": lambda name: parse_parameter(name).layer,
    }
    for title, key in keys.items():
        header = f"by {title}, at {shown:g}"
        lines += ["", f"{header:<28}{'weights':>15}{'official':>10}{'exact':>10}{'bits':>10}"]
        for group, part in group_counts(counts, key).items():
            label = "(outside layers)" if group is None else str(group)
            changed = 100 * part.bitwise_changed / part.numel if part.numel else 0.0
            lines.append(f"{label:<28}{part.numel:>15,}{percents(part, shown)}{changed:>10.2f}")
    return "\n".join([*lines, *(f"warning: {note}" for note in pair_notes(pair))])


def run_mask(options: argparse.Namespace) -> None:
    """Write the mask of a pair: one bit per weight that finetuning changed.

    Example:
      rlsubnet mask models/sft runs/dpo/final --rule official --atol 1e-5 --out m.safetensors
    """
    from rlsubnet.checkpoints.masks import write_mask
    from rlsubnet.checkpoints.pair import random_masks
    from rlsubnet.measure.kernel import Request
    from rlsubnet.measure.sparsity import TABLE_TOLERANCE

    if options.rule in ("bitwise", "random") and options.atol is not None:
        raise ValueError(f"--atol has no meaning with --rule {options.rule}; use official or exact")
    check_seed(options)
    pair = open_pair(options)
    if options.rule == "random":
        digests = {"init_sha256": pair.init.digest(), "tuned_sha256": pair.tuned.digest()}
        metadata = {"rule": "random", "atol": "0.0", "seed": str(options.seed), **digests}
        write_mask(options.out, pair.shapes, random_masks(pair, options.seed), metadata)
        return
    atol = TABLE_TOLERANCE if options.atol is None else options.atol
    request = Request((), options.rule, 0.0 if options.rule == "bitwise" else atol)
    _measure(pair, request, options, None, options.out)


def run_frozen(options: argparse.Namespace) -> None:
    """Compare the weights outside a mask bit by bit. Exit status 1, after writing --out,
    when one of them changed.

    Example:
      rlsubnet frozen models/sft runs/dpo_sub/final --mask mask.safetensors --out frozen.csv
    """
    from rlsubnet.checkpoints.masks import Mask
    from rlsubnet.checkpoints.pair import check_frozen
    from rlsubnet.columns import FrozenRow, names

    counts = dict(check_frozen(open_pair(options), Mask(options.mask)))
    if options.out:
        rows = [{"tensor": name, **vars(count)} for name, count in counts.items()]
        write_csv(options.out, rows, names(FrozenRow))
    broken = {name: c.frozen_changed for name, c in counts.items() if c.frozen_changed}
    if broken:
        listed = ", ".join(f"{name} ({number})" for name, number in broken.items())
        raise ValueError(f"{options.tuned}: weights outside the mask changed: {listed}")
    frozen = sum(count.frozen for count in counts.values())
    print(f"{frozen:,} frozen weights in {len(counts)} tensors, 0 changed")


def run_union(options: argparse.Namespace) -> None:
    """Write the union of masks of one start, such as those of a run's saved steps: the weights
    that were ever updated (Figure 6). Reads a piece at a time.

    Example:
      rlsubnet union step50.safetensors step100.safetensors --out ever.safetensors
    """
    from rlsubnet.checkpoints.masks import Mask
    from rlsubnet.checkpoints.structure import unite_masks

    masks = [Mask(path) for path in options.masks]
    ever, sizes = unite_masks(masks, options.out)
    numel = sum(map(math.prod, masks[0].shapes.values()))
    if not numel:
        raise ValueError(f"{masks[0].path}: a mask of no weights")
    print(f"{ever:,} of {numel:,} weights ({ever / numel:.2%}) are in at least one mask; in each:")
    for mask, size in zip(masks, sizes, strict=True):
        share = f"{size / ever:.2%} of the union" if ever else "the union is empty"
        print(f"{size:>15,} ({share})  {mask.path}")


def run_overlap(options: argparse.Namespace) -> None:
    """How much two subnetworks share (section 5): o1 is the share of subnetwork 1 that lies in
    subnetwork 2, o2 the reverse. Beside them stands what two runs would share by chance:
    with their updates anywhere (uniform, Appendix E); with the same density in each tensor;
    and, with --init, with the same density in each tensor and bfloat16 exponent of the
    weights before finetuning. Small weights show a bfloat16 change in every run, so that
    only what exceeds the last one is shared structure. Reads a few MiB at a time.

    Example:
      rlsubnet overlap seed42.safetensors seed123.safetensors --init models/sft --out o.csv
    """
    import numpy as np

    from rlsubnet.checkpoints.checkpoint import Checkpoint, open_source
    from rlsubnet.checkpoints.masks import Mask
    from rlsubnet.checkpoints.structure import pair_masks, tensor_overlaps
    from rlsubnet.columns import OverlapRow, names
    from rlsubnet.measure.overlap import overlap_beside_nulls

    check_seed(options)
    if options.common_rows and not options.init:
        raise ValueError("--common-rows has no meaning without --init")
    init = Checkpoint(open_source(options.init)) if options.init else None
    masks = pair_masks(Mask(options.mask1), Mask(options.mask2), init, options.common_rows)
    tensors = [tensor for _, tensor in tensor_overlaps(masks, kernel=options.kernel)]
    try:
        overlaps = overlap_beside_nulls(tensors, np.random.default_rng(options.seed))
    except ValueError as error:
        raise ValueError(f"{masks.first.path} and {masks.second.path}: {error}") from error
    if options.out:
        rows = [
            # All digits of a number, nothing where it is not defined.
            {key: "" if value != value else str(value) for key, value in vars(overlap).items()}
            for overlap in overlaps
        ]
        write_csv(options.out, rows, names(OverlapRow))
    print(_overlap_summary(masks, tensors, overlaps))


def _overlap_summary(
    masks: "MaskPair", tensors: Sequence["TensorOverlap"], overlaps: Sequence["Overlap"]
) -> str:
    from rlsubnet.measure.overlap import NULLS, OverlapCounts

    total = sum((tensor.counts for tensor in tensors), OverlapCounts())
    lines = [f"{total.numel:,} weights in {len(tensors)} tensors"]
    for number, mask, size in ((1, masks.first, total.first), (2, masks.second, total.second)):
        share = size / total.numel
        lines.append(f"subnetwork {number}  {size:>15,} updated ({share:.2%})  {mask.path}")
    lines += [
        f"in both       {total.both:>15,}: o1 = {overlaps[0].o1:.2%} of subnetwork 1, "
        f"o2 = {overlaps[0].o2:.2%} of subnetwork 2",
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
        "Small weights show a bfloat16 change in every run, which lifts these overlaps without any "
        "shared\nstructure: --init INIT adds the null that allows for it."
        if masks.init is None
        else "The last null allows for small weights changing visibly in every run.",
    ]
    return "\n".join(lines + [f"note: {note}" for note in masks.notes])


def run_rank(options: argparse.Namespace) -> None:
    """Rank of every update matrix as the authors take it: bfloat16 difference, float32
    singular values, tolerance max(rows, columns) * eps. The integers are those of torch's
    matrix_rank, which is asked for matrices at the edge of the tolerance alone. Layer norms
    and vectors do not count. The control moves as many weights by the same amounts at
    random positions: a rank just below a square matrix's maximum is an artefact of the
    tolerance when the control has it too.

    Example:
      rlsubnet rank models/sft runs/dpo/final --out ranks.csv
    """
    check_seed(options)
    # Before numpy is imported: its linear algebra asks for the number of threads once.
    bound_linear_algebra(checked_threads(options.threads))
    from rlsubnet.checkpoints.differ import tensors_by_part
    from rlsubnet.checkpoints.structure import matrix_ranks
    from rlsubnet.columns import RankRow, names
    from rlsubnet.measure.rank import mean_rank_share

    pair, device = open_pair(options), chosen_device(options.device)
    found = {
        name: list(matrix_ranks(pair, name, options.seed, device))
        for names in tensors_by_part(pair)
        for name in names
    }
    ranks = [rank for name in pair.shapes for rank in found[name]]
    if not ranks:
        raise ValueError(f"{pair.init.path}: no matrix to take a rank of")
    if options.out:
        write_csv(options.out, [_rank_row(rank) for rank in ranks], names(RankRow))
    mean = mean_rank_share((rank.measured.rank, rank.max_rank) for rank in ranks)
    control = mean_rank_share((rank.control, rank.max_rank) for rank in ranks)
    print(f"mean update rank {mean:.2%} of the maximum over {len(ranks)} matrices")
    print(f"random control   {control:.2%} (same number and sizes of changes, random positions)")


def _rank_row(rank: "MatrixRank") -> dict[str, Any]:
    return {
        "tensor": rank.tensor,
        "layer": "" if rank.place.layer is None else rank.place.layer,
        "matrix": rank.place.matrix,
        "rows": rank.shape[0],
        "cols": rank.shape[1],
        "rank": rank.measured.rank,
        "max_rank": rank.max_rank,
        "stable_rank": repr(rank.measured.stable_rank),
        "effective_rank": repr(rank.measured.effective_rank),
        "rank_of_random_control": rank.control,
    }


def run_trajectory(options: argparse.Namespace) -> None:
    """Classify weights over the saved steps of a run by their bits (Figures 2, 5 and 6).
    Shares are fractions of all weights; never, cancelled and subnetwork are counts up
    to that step, so that the last row is the run's.

    Example:
      rlsubnet trajectory models/sft runs/grpo/steps --out trajectory.csv
    """
    from rlsubnet.checkpoints.checkpoint import Checkpoint
    from rlsubnet.checkpoints.delta import find_steps, open_steps
    from rlsubnet.checkpoints.structure import measure_trajectory
    from rlsubnet.columns import TrajectoryRow, names

    init = Checkpoint(options.init)
    steps = open_steps(init, find_steps(options.saved, options.steps))
    counts = measure_trajectory(init, list(steps.values()))
    rows = [
        {
            "step": step,
            "sparsity": repr(1 - count.subnetwork / count.numel),
            "step_sparsity": repr(1 - count.moved / count.numel),
            "updated_outside_final": repr(count.updated_outside_final / count.numel),
            "never": count.never,
            "cancelled": count.cancelled,
            "subnetwork": count.subnetwork,
        }
        for step, count in zip(steps, counts, strict=True)
    ]
    write_csv(options.out, rows, names(TrajectoryRow))
    last = counts[-1]
    print(f"never updated  {last.never / last.numel:.2%}")
    print(f"cancelled      {last.cancelled / last.numel:.2%}")
    print(f"subnetwork     {last.subnetwork / last.numel:.2%}")


def run_card(options: argparse.Namespace) -> None:
    """Write one HTML page about any two checkpoints: sparsity by tolerance, layer and matrix, ranks
    beside a random control, norms, magnitudes, what the difference takes to store, the paper's
    models beside it, and what to know before quoting a number. The page is one file and loads
    nothing.

    Example:
      rlsubnet card models/sft runs/dpo/final --out card.html
    """
    check_seed(options)
    threads = checked_threads(options.threads)
    # Before numpy is imported: its linear algebra asks for the number of threads once.
    bound_linear_algebra(threads)
    from rlsubnet.card.facts import measure_facts
    from rlsubnet.card.page import card_page

    pair = open_pair(options)
    with closing(progress_bar(pair, options.progress)) as progress:
        facts = measure_facts(
            pair,
            ranks=not options.no_rank,
            seed=options.seed,
            kernel=options.kernel,
            threads=threads,
            device="cpu" if options.no_rank else chosen_device(options.device),
            take_progress=progress.add,
        )
    with replacing(options.out) as temporary:
        temporary.write_text(card_page(facts), encoding="utf-8")
    print(f"{options.out}: {options.out.stat().st_size / 1000:,.0f} kB, open it in a browser")


def add_saved_steps(parser: argparse.ArgumentParser) -> None:
    """Add SAVED, what :func:`rlsubnet.checkpoints.delta.find_steps` takes."""
    parser.add_argument(
        "saved",
        nargs="+",
        metavar="SAVED",
        help="saved steps: the folder of step files that `rlsubnet train --steps` wrote, delta "
        "files, or full checkpoints; the last number in a name is the step",
    )


def add_commands(subcommands: Subcommands) -> None:
    parser = add_command(subcommands, "updates", run_updates)
    add_pair(parser)
    parser.add_argument(
        "--tolerances",
        type=float,
        nargs="+",
        metavar="ATOL",
        help="absolute tolerances in weight units (default: 1e-8 1e-7 1e-6 1e-5 1e-4)",
    )
    add_csv(parser, "write the counts of every tensor")
    also = "write the bitwise mask as well, for training"
    add_path(parser, "--mask", "FILE", also, required=False)
    add_pass_options(parser)

    parser = add_command(subcommands, "mask", run_mask)
    add_pair(parser)
    parser.add_argument(
        "--rule",
        choices=("bitwise", "official", "exact", "random"),
        default="bitwise",
        help="bitwise: stored bits differ (for training, section 1); official, exact: changed by "
        "more than --atol, as in `rlsubnet updates`; random: a control with as many weights of "
        "each tensor as bitwise, at random positions (default: bitwise)",
    )
    add_seed(parser, "--rule random")
    parser.add_argument(
        "--atol", type=float, help="tolerance of official and exact, weight units (default: 1e-5)"
    )
    add_path(parser, "--out", "FILE", "mask to write")
    add_pass_options(parser)

    parser = add_command(subcommands, "frozen", run_frozen)
    add_pair(parser, common_rows=False)
    add_path(parser, "--mask", "FILE", "training mask")
    add_csv(parser, "write the counts of every tensor")

    parser = add_command(subcommands, "union", run_union)
    parser.add_argument("masks", nargs="+", metavar="MASK", help="masks (`rlsubnet mask`)")
    add_path(parser, "--out", "FILE", "mask to write")

    parser = add_command(subcommands, "overlap", run_overlap)
    parser.add_argument("mask1", metavar="MASK1", help="mask of subnetwork 1 (`rlsubnet mask`)")
    parser.add_argument("mask2", metavar="MASK2", help="mask of subnetwork 2")
    parser.add_argument(
        "--init",
        metavar="INIT",
        help=f"what both runs started from, for the last null: {CHECKPOINT_HELP}",
    )
    add_common_rows(
        parser, "tensors of INIT with more rows than the masks cover (a resized vocabulary)"
    )
    add_kernel(parser)
    add_seed(parser, "the bootstrap behind the intervals")
    add_csv(parser, "write one row per null")

    parser = add_command(subcommands, "rank", run_rank)
    add_pair(parser)
    add_seed(parser, "the random control")
    add_threads(parser, "of the linear algebra")
    add_device(parser, "where large matrices are worked on")
    add_csv(parser, "write one row per matrix")

    parser = add_command(subcommands, "trajectory", run_trajectory)
    parser.add_argument("init", metavar="INIT", help=f"the start: {LOCAL_HELP}")
    add_saved_steps(parser)
    parser.add_argument("--steps", type=int, nargs="+", help="step numbers, one per saved step")
    add_path(parser, "--out", "CSV", "one row per step")

    parser = add_command(subcommands, "card", run_card)
    add_pair(parser)
    add_path(parser, "--out", "HTML", "page to write")
    longest = "leave ranks out, by far the longest part of large models"
    parser.add_argument("--no-rank", action="store_true", help=longest)
    add_seed(parser, "the random control")
    add_device(parser, "where large matrices are worked on")
    add_pass_options(parser)
