"""How a fault in a config or a sheet is said: where, what was found, what was expected."""

import difflib
from collections.abc import Iterable


class SheetError(ValueError):
    """A config or a sheet that no job may start from."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return what to say about a name that nothing has.

    >>> unknown_name("run", "dop", ["sft", "dpo"])
    "unknown run 'dop' (did you mean 'dpo'?); known: sft, dpo"
    >>> unknown_name("recipe", "rl", [])
    "unknown recipe 'rl'; known: none"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}"
