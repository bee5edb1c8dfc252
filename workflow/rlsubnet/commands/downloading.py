"""Subcommand that brings checkpoints here: download."""

import argparse
import functools
from pathlib import Path

from rlsubnet.commands._parser import add_command


def run_download(options: argparse.Namespace) -> None:
    """Fetch or link one checkpoint folder, a line of progress per file."""
    from rlsubnet.checkpoints.download import download

    report = functools.partial(print, flush=True)
    download(options.source, options.revision, options.out, report=report)


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
    parser = add_command(
        subcommands,
        "download",
        run_download,
        "fetch a Hugging Face checkpoint: checked, resumable, complete or absent",
        "rlsubnet download hf:allenai/Llama-3.1-Tulu-3-8B-DPO --out work/models/tulu-dpo",
        description=(
            "Fetch the weights (safetensors, or .bin where there are none), configs and tokenizer\n"
            "of one commit, file by file; check every size and digest; record them in\n"
            "download.json. An interrupted download waits in OUT.partial and is continued by the\n"
            "same command. The environment variables HF_TOKEN and HF_ENDPOINT are respected."
        ),
    )
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
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the checkpoint folder to make"
    )
