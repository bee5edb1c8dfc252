"""The command ``rlsubnet``: one subcommand per rule of the workflow, with the same name."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

from rlsubnet import __version__
from rlsubnet.commands import grouped_help, modules_for


class _Parser(argparse.ArgumentParser):
    """Ends its help with all commands in groups, whatever modules are imported."""

    def format_help(self) -> str:
        import shutil

        return f"{super().format_help()}\n{grouped_help(shutil.get_terminal_size().columns - 2)}\n"


def build_parser(modules: Iterable[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser with the commands of some modules, by default all; imports no torch."""
    parser = _Parser(
        prog="rlsubnet",
        description="Measure and reproduce the sparse updates of RL finetuning (arXiv 2505.11711).",
    )
    parser.add_argument("--version", action="version", version=f"rlsubnet {__version__}")
    subcommands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=argparse.ArgumentParser,
        help="one of those below; each has its own --help",
    )
    for module in modules_for("") if modules is None else modules:
        import_module(f"rlsubnet.commands.{module}").add_commands(subcommands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input ends with one clear line on stderr and exit status 1.

    So does a GPU whose memory is full.
    """
    words = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in words if not word.startswith("-")), None)
    options = build_parser(modules_for(command)).parse_args(words)
    # What Slurm sends first: left alone it ends Python at once, half-written files stay behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if options.needs:
            from rlsubnet.extras import require

            require(options.needs)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads our output, such as `head`, has seen enough; Python would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        from rlsubnet.extras import EXTRAS, how_to_install

        # Needed by some of a command's input alone, such as `.bin` files.
        module = (error.name or "").split(".")[0]
        if module not in EXTRAS:
            raise
        hint = how_to_install(module)
        print(f"rlsubnet {options.command}: error: needs {module}; {hint}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"rlsubnet {options.command}: error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        # torch's message goes on about its allocator.
        wanted = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        print(
            f"rlsubnet {options.command}: error: {wanted}. In a recipe, a higher accumulate splits "
            "a batch, and recompute: true keeps fewer activations; other jobs on the GPU "
            "(gpu_slots) take memory, too.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _is_out_of_memory(error: RuntimeError) -> bool:
    # Whoever raises it has imported torch, which most commands do without.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    sys.exit(main())
