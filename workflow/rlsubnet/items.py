"""The paper's items: what each is called, what it reads, and which function makes it.

Rules, commands, plans, status and the report read this registry. A new table is a function in
`rlsubnet.report`, a caption in `report/captions/` and an entry in `items.toml`. Nothing heavy is
imported, so that `rlsubnet --help` stays quick.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Judges the numbers of all other items, so that no row of the sheets names it.
VERDICTS = "verdicts"


@dataclass(frozen=True)
class Item:
    """A table, a figure, or the verdicts.

    Attributes:
        name: of its command, rule, files and caption.
        summary: what it shows, in one line of the help.
        label: what the HTML report lists it under.
        function: in `rlsubnet.report`; it takes a scale, its results and the published numbers
            and returns a DataFrame or a Figure.
        title: heading of the printed table; empty for figures.
        in_print: function that leaves out what is not printed of a long table.
        pair: kinds of results files that it reads of each pair that names it.
        runs: kinds that it reads of both runs of such a pair: full and sub, or start and run.
        tuned: kinds that it reads of the pair's tuned run alone.
        steps: kinds that it reads of the tuned run's saved steps, where there are any.
    """

    name: str
    summary: str
    label: str
    function: str
    title: str = ""
    in_print: str = ""
    pair: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def is_figure(self) -> bool:
        return self.name.startswith("fig")

    @property
    def files(self) -> dict[str, str]:
        """Return kind -> file below the results folder.

        >>> ITEMS["fig1"].files
        {'png': 'figures/fig1.png', 'pdf': 'figures/fig1.pdf'}
        """
        folder, kinds = (
            ("figures", ("png", "pdf")) if self.is_figure else ("tables", ("csv", "md", "tex"))
        )
        files = {kind: f"{folder}/{self.name}.{kind}" for kind in kinds}
        if self.name == VERDICTS:
            files |= {"html": "tables/verdicts.html", "top": "verdicts.csv"}
        return files


def _item(name: str, entry: dict[str, Any]) -> Item:
    lists = {key: tuple(kinds) for key, kinds in entry.items() if isinstance(kinds, list)}
    return Item(name, **{**entry, **lists})


_TEXT = Path(__file__).with_name("items.toml").read_text(encoding="utf-8")
ITEMS = {name: _item(name, entry) for name, entry in tomllib.loads(_TEXT).items()}
