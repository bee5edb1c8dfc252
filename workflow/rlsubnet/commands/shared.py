"""What subcommands share: how one is declared, a pair and its options, the device, progress."""

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rlsubnet.commands import SUMMARIES
from rlsubnet.threads import MOST_THREADS

if TYPE_CHECKING:
    from rlsubnet.checkpoints.differ import ProgressCallback
    from rlsubnet.checkpoints.pair import Pair
    from rlsubnet.config import Scale

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
LOCAL_HELP = "Hugging Face folder (sharded or not) or one .safetensors or .bin file"
CHECKPOINT_HELP = f"{LOCAL_HELP}, or hf:organization/name@revision, read shard by shard"
# There as soon as a driver is; importing torch to look for a GPU takes longer than a small model.
DRIVER = Path("/dev/nvidiactl")


def add_command(
    subcommands: Subcommands,
    name: str,
    run: Callable[[argparse.Namespace], None],
    example: str = "",
    description: str = "",
    needs: tuple[str, ...] = (),
    summary: str = "",
) -> argparse.ArgumentParser:
    """Add subcommand ``name`` that calls ``run(options)``.

    Its help is the docstring of ``run``, what follows ``Example:`` last, where no other texts are
    given. ``needs`` are the modules that it cannot do without and that a plain install leaves out.
    ``summary`` is for the actions of a command; those of commands stand in ``commands.GROUPS``.
    """
    text, _, last = (run.__doc__ or "").replace("\n    ", "\n").partition("\nExample:\n  ")
    listed: dict[str, Any] = {"help": summary} if summary else {}
    parser = subcommands.add_parser(
        name,
        description=(description or text).strip() or SUMMARIES[name],
        epilog=f"example:\n  {example or last.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **listed,
    )
    parser.set_defaults(run=run, needs=needs)
    return parser


def add_config_files(
    parser: argparse.ArgumentParser,
    required: bool = True,
    help: str = "config of the scale; later files are laid over earlier ones",
) -> None:
    parser.add_argument(
        "--config", nargs="+", required=required, type=Path, metavar="FILE", help=help
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a command reads the sheets: ``--config`` and ``--set``."""
    add_config_files(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys of its top level laid over the files, as by snakemake's --config",
    )


def read_config(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config that the options of :func:`add_config` name."""
    import yaml

    from rlsubnet.config import load_config

    changes = {}
    for entry in options.set:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise ValueError(f"--set {entry}: expected KEY=VALUE")
        changes[key] = yaml.safe_load(value)
    return load_config(options.config, changes)


def read_scale(options: argparse.Namespace) -> "Scale":
    """Return the scale that the options of :func:`add_config` name, its sheets checked."""
    from rlsubnet.config import load_scale

    return load_scale(read_config(options))


def read_data(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config's entry of the data set ``options.name``."""
    from rlsubnet.config.errors import unknown_name

    data = read_config(options)["data"]
    if options.name not in data:
        raise ValueError(unknown_name("data set", options.name, data))
    return dict(data[options.name])


def open_pair(options: argparse.Namespace) -> "Pair":
    """Return the pair INIT, TUNED; a mismatch raises ValueError."""
    from rlsubnet.checkpoints.checkpoint import Checkpoint, open_source
    from rlsubnet.checkpoints.pair import pair_checkpoints

    init, tuned = (Checkpoint(open_source(one)) for one in (options.init, options.tuned))
    return pair_checkpoints(init, tuned, getattr(options, "common_rows", ()))


def add_pair(parser: argparse.ArgumentParser, common_rows: bool = True) -> None:
    """Add INIT and TUNED, and ``--common-rows`` unless the command forbids resized tensors."""
    parser.add_argument("init", metavar="INIT", help=f"before finetuning: {CHECKPOINT_HELP}")
    parser.add_argument("tuned", metavar="TUNED", help="after finetuning: the same kinds")
    if common_rows:
        add_common_rows(
            parser,
            "tensors whose number of rows may differ (a resized vocabulary): their common "
            "first rows are compared, and the summary says so",
        )


def add_device(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help=f"{what}; auto takes a GPU that is there (default: auto)",
    )


def add_common_rows(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument(
        "--common-rows", nargs="+", action="extend", default=[], metavar="NAME", help=help
    )


def add_path(
    parser: argparse.ArgumentParser, name: str, metavar: str, help: str, required: bool = True
) -> None:
    """Add an option that names a file or a folder."""
    parser.add_argument(name, type=Path, required=required, metavar=metavar, help=help)


def add_csv(parser: argparse.ArgumentParser, help: str) -> None:
    add_path(parser, "--out", "CSV", help, required=False)


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("--seed", type=int, default=0, help=f"of {of} (default: 0)")


def check_seed(options: argparse.Namespace) -> None:
    """Raise ValueError for a seed that numpy would not take."""
    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, found {options.seed}")


def add_threads(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=f"threads {what} (default: OMP_NUM_THREADS, else all processors, at most "
        f"{MOST_THREADS})",
    )


def add_kernel(parser: argparse.ArgumentParser) -> None:
    """Add ``--kernel``, which changes no number."""
    parser.add_argument(
        "--kernel",
        choices=("auto", "numpy", "numba"),
        default="auto",
        help="numba: compiled loops (extra fast); auto takes them where they are installed and "
        "worth their import; all give the same integers (default: auto)",
    )


def add_pass_options(parser: argparse.ArgumentParser) -> None:
    """Add how a pass over a pair is done; none of it changes a number."""
    add_kernel(parser)
    add_threads(parser, "that read and count")
    parser.add_argument(
        "--progress",
        action="store_true",
        help="show throughput and time left on stderr (always on in a terminal)",
    )


def progress_bar(pair: "Pair", asked: bool) -> "ProgressCallback":
    """Return what shows how far a pass over a pair is: in a terminal, or where it is asked for."""
    from rlsubnet.checkpoints.differ import ProgressCallback

    if not (asked or sys.stderr.isatty()):
        return ProgressCallback()
    from tqdm import tqdm

    class Bar(ProgressCallback):
        def __init__(self) -> None:
            terminal = sys.stderr.isatty()
            self._lock = threading.Lock()
            self._bar = tqdm(
                total=sum(map(pair.nbytes, pair.shapes)),
                unit="B",
                unit_scale=True,
                leave=not terminal,
                mininterval=0.2 if terminal else 10,
            )

        def add(self, nbytes: int) -> None:
            with self._lock:
                self._bar.update(nbytes)

        def skip(self, nbytes: int) -> None:
            self._bar.total -= nbytes

        def note(self, text: str) -> None:
            tqdm.write(text, file=sys.stderr)

        def close(self) -> None:
            self._bar.close()

    return Bar()


def chosen_device(wish: str) -> str:
    if wish == "cpu" or (wish == "auto" and not DRIVER.exists()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wish == "cuda":
        raise ValueError("--device cuda: torch finds no GPU here")
    return "cpu"
