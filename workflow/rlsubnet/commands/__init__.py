"""Subcommands: what ``rlsubnet --help`` says of them, and the module that each one lives in.

A module offers ``add_commands(subcommands)`` and is imported when one of its commands is run. It
imports what is heavy (numpy, torch, pandas) when the command works, so that each ``--help`` and the
differ stay quick. ``commands.toml`` lists all but the paper's items, which ``rlsubnet.items`` does.
"""

import textwrap
import tomllib
from pathlib import Path

_TEXT = Path(__file__).with_name("commands.toml").read_text(encoding="utf-8")
# Group -> module -> command -> summary.
GROUPS: dict[str, dict[str, dict[str, str]]] = tomllib.loads(_TEXT)
MODULES: dict[str, str] = {}
SUMMARIES: dict[str, str] = {}
for _modules in GROUPS.values():
    for _module, _commands in _modules.items():
        MODULES |= dict.fromkeys(_commands, _module)
        SUMMARIES |= _commands


def modules_for(command: str | None) -> list[str]:
    """Return the modules to import for a command; all of them for one that is not known.

    >>> modules_for("updates"), modules_for(None)
    (['measure'], [])
    """
    if command is None:
        return []
    if command in MODULES:
        return [MODULES[command]]
    return [module for modules in GROUPS.values() for module in modules]


def grouped_help(width: int) -> str:
    """Return all commands and their summaries, group by group."""
    from rlsubnet.items import ITEMS

    lines = []
    for group, modules in GROUPS.items():
        listed = {name: text for commands in modules.values() for name, text in commands.items()}
        if "report" in modules:
            listed = {name: item.summary for name, item in ITEMS.items()} | listed
        lines.append(f"\n{group}:")
        for name, text in listed.items():
            lines += textwrap.wrap(
                text, width, initial_indent=f"  {name:<22}", subsequent_indent=" " * 24
            )
    return "\n".join(lines).strip()
