"""Subcommands that bring data sets and checkpoints here."""

import argparse
import functools
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.commands.shared import Subcommands, add_command, add_config, add_path, read_data
from rlsubnet.files import iterate_jsonl, read_jsonl, sha256, write_csv, write_jsonl

if TYPE_CHECKING:
    from rlsubnet.tasks.published import Overlaps

COLUMNS = ("items", "n", "short", "exact", "near", "matched", "share", "examples")
EXAMPLES = 5
# At once, to a log too.
report = functools.partial(print, flush=True)


def run_data(options: argparse.Namespace) -> None:
    """Make one data set of the config, one JSON object a line. Everything follows from the seed in
    the specification; prompts of different splits never coincide.

    Example:
      rlsubnet data arith500 --config config/demo/config.yaml \\
          --out work/demo/data/arith500.jsonl
    """
    from rlsubnet.evaluation.policy_data import build

    records, summary = build(options.name, read_data(options), options.policy)
    write_jsonl(options.out, records)
    print(f"{summary}, sha256 {sha256(options.out)[:12]}")


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch or link the files that `source`, `revision` and `files` of an entry name, and
    record commit, sizes and digests in download.json. HF_TOKEN and HF_ENDPOINT are
    respected; an interrupted call is continued by the same one.

    Example:
      rlsubnet fetch tulu --config config/paper/config.yaml --out work/paper/sources/tulu
    """
    from rlsubnet.tasks.rows import fetch

    fetch(read_data(options), options.out, report=report)


def run_adapt(options: argparse.Namespace) -> None:
    """Read the fetched files of a data set (JSON lines, JSON, Parquet, CSV) and write this
    project's JSON lines. Says first what the rows look like; ends at the first one that the
    entry's columns do not fit.

    Example:
      rlsubnet adapt rollouts --config config/paper/config.yaml \\
          --source work/paper/sources/rollouts --out work/paper/data/rollouts.jsonl
    """
    from rlsubnet.tasks.published import adapt

    spec = read_data(options)
    count = write_jsonl(options.out, adapt(options.name, spec, options.source, report))
    if not count:
        options.out.unlink()
        raise ValueError(f"data set {options.name}: no record came out of {options.source}")
    kind, digest = spec["kind"], sha256(options.out)[:12]
    print(f"{options.name}: {count} records of kind {kind}, sha256 {digest}")


def run_mix(options: argparse.Namespace) -> None:
    """Make one data set out of others, one after the other.

    Example:
      rlsubnet mix work/paper/data/gsm8k.jsonl work/paper/data/math.jsonl \\
          --out work/paper/data/gsm8k_math.jsonl
    """
    count = write_jsonl(options.out, chain.from_iterable(map(iterate_jsonl, options.parts)))
    print(f"{count} records of {len(options.parts)} files, sha256 {sha256(options.out)[:12]}")


def _read_items(argument: str) -> tuple[str, list[tuple[str, str]]]:
    name, equals, file = argument.partition("=")
    if not (name and equals and file):
        raise ValueError(f"--items: expected NAME=FILE, found {argument!r}")
    records = read_jsonl(file)
    if faulty := [r for r in records if not {"id", "prompt"} <= set(r)]:
        raise ValueError(f"{file}: expected items with id and prompt, found {sorted(faulty[0])}")
    return name, [(str(record["id"]), record["prompt"]) for record in records]


def _contamination_row(name: str, overlaps: "Overlaps") -> dict[str, Any]:
    lines = {item: line for item, (_, line) in overlaps.near.items()} | overlaps.exact
    return {
        "items": name,
        "n": overlaps.items,
        "short": overlaps.short,
        "exact": len(overlaps.exact),
        "near": len(overlaps.near),
        "matched": len(overlaps.matched),
        "share": repr(overlaps.share),
        "examples": " ".join(f"{item}@{lines[item]}" for item in overlaps.matched[:EXAMPLES]),
    }


def contamination_rows(
    train: Path, items: Sequence[str], ngram: int, enough: float
) -> list[dict[str, Any]]:
    from rlsubnet.tasks.published import find_overlaps, training_prompts

    rows = []
    for argument in items:
        name, pairs = _read_items(argument)
        prompts = training_prompts(iterate_jsonl(train))
        rows.append(_contamination_row(name, find_overlaps(prompts, pairs, ngram, enough)))
    return rows


def run_contamination(options: argparse.Namespace) -> None:
    """Compare the prompts of training data with evaluation items, without case, punctuation
    and spacing: the same words, or one prompt that holds more than --enough of an item's
    words in shared runs of --ngram words. Examples name an item and a line of the training
    file, never their text.

    Example:
      rlsubnet contamination work/paper/data/tulu.jsonl \\
          --items math500=work/paper/data/math500.jsonl --out contamination.csv
    """
    from rlsubnet.config.errors import checked
    from rlsubnet.config.schema import Contamination

    given = {name: getattr(options, name) for name in ("ngram", "enough", "threshold", "action")}
    given = {name: value for name, value in given.items() if value is not None}
    asked = checked(Contamination, given, lambda path: f"--{path[0]}")
    rows = contamination_rows(options.train, options.items, asked.ngram, asked.enough)
    for row in rows:
        found = f"{row['matched']} of {row['n']} items ({float(row['share']):.2%})"
        examples = f", such as {row['examples']}" if row["examples"] else ""
        print(f"{row['items']}: {found} stand in {options.train}{examples}")
    above = [row["items"] for row in rows if float(row["share"]) > asked.threshold]
    if above:
        text = f"{options.train}: holds more than {asked.threshold:.2%} of {', '.join(above)}"
        if asked.action == "refuse":
            raise ValueError(text)
        print(f"warning: {text}: a score on it says little about a model trained here")
    write_csv(options.out, rows, COLUMNS)


def run_download(options: argparse.Namespace) -> None:
    """Fetch the weights (safetensors, or .bin where there are none), configs and tokenizer
    of one commit, file by file; check every size and digest; record them in
    download.json. An interrupted download waits in OUT.partial and is continued by the
    same command. The environment variables HF_TOKEN and HF_ENDPOINT are respected.

    Example:
      rlsubnet download hf:allenai/Llama-3.1-Tulu-3-8B-DPO --out work/models/tulu-dpo
    """
    from rlsubnet.checkpoints.hub import download

    download(options.source, options.revision, options.out, report=report)


def _add_data_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the data set")
    add_config(parser)


def _add_jsonl(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "--out", "FILE", "JSON-lines file")


def add_commands(subcommands: Subcommands) -> None:
    parser = add_command(subcommands, "download", run_download)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="hf:organization/name, or a checkpoint folder, whose files are linked",
    )
    parser.add_argument(
        "--revision",
        default="main",
        help="branch, tag or commit hash; not used for a folder (default: main)",
    )
    add_path(parser, "--out", "DIR", "the checkpoint folder to make")

    parser = add_command(subcommands, "data", run_data)
    _add_data_set(parser)
    policy = "model folder whose samples are needed (kinds preferences, rejection_samples)"
    add_path(parser, "--policy", "DIR", policy, required=False)
    _add_jsonl(parser)

    parser = add_command(subcommands, "fetch", run_fetch)
    _add_data_set(parser)
    add_path(parser, "--out", "DIR", "folder to make")

    parser = add_command(subcommands, "adapt", run_adapt)
    _add_data_set(parser)
    add_path(parser, "--source", "DIR", "fetched folder, or one file")
    _add_jsonl(parser)

    parser = add_command(subcommands, "mix", run_mix)
    parser.add_argument(
        "parts", nargs="+", type=Path, metavar="FILE", help="JSON-lines files, in this order"
    )
    _add_jsonl(parser)

    parser = add_command(subcommands, "contamination", run_contamination)
    parser.add_argument("train", type=Path, metavar="TRAIN", help="JSON-lines file of pairs")
    parser.add_argument(
        "--items",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=FILE",
        help="evaluation items, JSON lines with id and prompt",
    )
    parser.add_argument("--ngram", type=int, help="words of a run (default: 8)")
    parser.add_argument("--enough", type=float, help="share of an item's words (default: 0.5)")
    most = "largest share of items that may match (default: 0.02)"
    parser.add_argument("--threshold", type=float, help=most)
    above = "what to do above the threshold: say so, or fail (default: warn)"
    parser.add_argument("--action", choices=("warn", "refuse"), help=above)
    add_path(parser, "--out", "CSV", "one row for each set of items")
