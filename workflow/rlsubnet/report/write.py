"""From the name of a paper item to its files: read, compute, present, write."""

from importlib import import_module
from pathlib import Path
from typing import Any

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.items import ITEMS, VERDICTS
from rlsubnet.report.export import notes_of, write_figure, write_table
from rlsubnet.report.results import Results, check_paper_models
from rlsubnet.report.verdicts import write_verdicts


def make_item(item: str, scale: Scale, results: Results, published: Published) -> Any:
    """Return one item of the paper: a table as a DataFrame, a figure as matplotlib's Figure."""
    return _function(ITEMS[item].function)(scale, results, published)


def write_item(name: str, scale: Scale, results: Results, published: Published) -> list[Path]:
    check_paper_models(((p.pair, p.paper_model) for p in scale.pairs.values()), published)
    item = ITEMS[name]
    made = make_item(name, scale, results, published)
    paths = {kind: results.folder / file for kind, file in item.files.items()}
    if item.is_figure:
        return write_figure(made, paths["png"].with_suffix(""))
    stem = paths["csv"].with_suffix("")
    if name == VERDICTS:
        return write_verdicts(made, paths)
    printed = _function(item.in_print)(made) if item.in_print else made
    return write_table(made, stem, item.title, notes_of(name), printed)


def _function(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(import_module(f"rlsubnet.report.{module}"), function)
