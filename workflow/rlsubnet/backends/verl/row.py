"""One row of the sheet of runs for verl, checked: the last gate before GPUs are used."""

from typing import Any

from rlsubnet.backends.rows import read_row

BACKEND = "verl"


def parse_row(run: str, text: str) -> dict[str, Any]:
    """Return the row that ``text`` describes: JSON, or ``@`` and the path of a JSON file.

    Its recipe follows ``verl_recipe`` of the config's schema, defaults filled.

    Raises:
        ValueError: as :func:`rlsubnet.backends.rows.read_row` says.
    """
    return {**read_row(run, text, BACKEND), "backend": BACKEND}
