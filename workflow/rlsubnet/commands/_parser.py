"""What all subcommands share: how one is declared."""

import argparse
from collections.abc import Callable


def add_command(
    subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    example: str,
    description: str = "",
    needs: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """Add subcommand ``name`` that calls ``run(options)``; its help ends with ``example``.

    ``needs`` are the modules that it cannot do without and that a plain install leaves out.
    """
    parser = subcommands.add_parser(
        name,
        help=summary,
        description=description or summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, needs=needs)
    return parser
