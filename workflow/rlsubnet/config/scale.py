"""A scale: its config and the rows of its three sheets, checked against each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from rlsubnet.config.backends import (
    BACKENDS,
    FETCHED_KINDS,
    MIXTURE,
    check_gpus,
    check_learns,
)
from rlsubnet.config.data_sets import check_contamination, check_data, check_suites
from rlsubnet.config.faults import SheetError, unknown_name
from rlsubnet.config.recipes import check_used, parse_set, resolved_recipe
from rlsubnet.config.tables import Row, read_sheet
from rlsubnet.config.verl import check_used_by_verl

ITEMS = (
    *(f"table{number}" for number in range(1, 7)),
    "section4",
    "section6",
    "gains",
    "verdicts",
    *(f"fig{number}" for number in range(1, 8)),
)
# Judges the numbers of all other items, so that no row names it.
VERDICTS = "verdicts"

# Online algorithms learn from what runs are also evaluated on, problems: only the split tells.
HELD_OUT = ("dev", "test")
COMPARING_RUNS = ("table3", "fig4")
RANDOM = "random"


def split_mask(cell: str) -> tuple[str, str]:
    """Return the pair of a cell of column ``mask``, and ``random`` or nothing.

    >>> split_mask("dpo"), split_mask("dpo:random"), split_mask("")
    (('dpo', ''), ('dpo', 'random'), ('', ''))
    """
    pair, _, kind = cell.partition(":")
    return pair, kind


OF_SAVED_STEPS = ("fig2", "fig5", "fig6", "fig7")


@dataclass(frozen=True)
class Run:
    """One training run, a row of runs.tsv."""

    run: str
    algorithm: str
    init: str
    data: str
    recipe: str
    seed: int
    mask: str
    set: str
    label: str

    @property
    def mask_pair(self) -> str:
        """The pair whose update the mask is made from, or empty."""
        return split_mask(self.mask)[0]

    @property
    def has_random_mask(self) -> bool:
        """Whether the mask only has the size of that pair's subnetwork: a control."""
        return split_mask(self.mask)[1] == RANDOM


@dataclass(frozen=True)
class Pair:
    """Two checkpoints whose difference is measured, a row of pairs.tsv."""

    pair: str
    init: str
    tuned: str
    method: str
    items: tuple[str, ...]
    paper_model: str
    common_rows: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Comparison:
    """Two pairs whose subnetworks are compared, a row of comparisons.tsv."""

    comparison: str
    pair1: str
    pair2: str
    axis: str
    items: tuple[str, ...]
    setting1: str
    setting2: str
    label: str


@dataclass(frozen=True)
class Scale:
    """A whole scale; the mappings keep the order of the sheets."""

    config: dict[str, Any]
    runs: dict[str, Run]
    pairs: dict[str, Pair]
    comparisons: dict[str, Comparison]

    def backend_of(self, run: str) -> str:
        """Return the trainer of a run: that of its recipe."""
        backend: str = self.config["recipes"][self.runs[run].recipe]["backend"]
        return backend

    def runs_of(self, backend: str) -> list[str]:
        """Return the names of the runs that a trainer makes, in the order of the sheet."""
        return [run for run in self.runs if self.backend_of(run) == backend]

    def data_of(self, fetched: bool) -> list[str]:
        """Return the names of the data sets that are fetched, or of those that are made up."""
        data, neither = self.config["data"], set(self.mixtures)
        names = [name for name in data if name not in neither]
        return [name for name in names if (data[name]["kind"] in FETCHED_KINDS) == fetched]

    @property
    def mixtures(self) -> list[str]:
        """Return the names of the data sets that are other ones, one after the other."""
        data = self.config["data"]
        return [name for name in data if data[name]["kind"] == MIXTURE]


def load_scale(config: Mapping[str, Any], root: Path = Path()) -> Scale:
    """Return the scale of a complete config, its sheets read from paths relative to ``root``.

    Raises:
        SheetError: a sheet is unreadable, names something that does not exist, or its runs wait
            for each other; the message names file, row and column.
    """
    config = dict(config)
    runs = read_sheet(root / config["runs"], "runs")
    pairs = read_sheet(root / config["pairs"], "pairs")
    comparisons = read_sheet(root / config["comparisons"], "comparisons")
    check_data(config, runs)
    check_suites(config)
    check_contamination(config)
    for row in runs.values():
        _check_run(row, config, pairs)
    for row in runs.values():
        _check_name(row, "init", "run or model", [*config["models"], *runs])
    for row in pairs.values():
        _check_pair(row, config, runs)
    for row in comparisons.values():
        _check_comparison(row, pairs)
    _check_order(config, runs, pairs)
    return Scale(
        config=config,
        runs={name: _run(row) for name, row in runs.items()},
        pairs={name: _pair(row) for name, row in pairs.items()},
        comparisons={name: _comparison(row) for name, row in comparisons.items()},
    )


def _run(row: Row) -> Run:
    return Run(**{**row.cells, "seed": int(row.cells["seed"])})  # type: ignore[arg-type]


def _pair(row: Row) -> Pair:
    lists = {column: row.listed(column) for column in ("items", "common_rows")}
    return Pair(**{**row.cells, **lists})  # type: ignore[arg-type]


def _comparison(row: Row) -> Comparison:
    return Comparison(**{**row.cells, "items": row.listed("items")})  # type: ignore[arg-type]


def _check_name(row: Row, column: str, kind: str, known: Iterable[str]) -> None:
    names = list(known)
    if row.cells[column] not in names:
        raise row.fault(column, unknown_name(kind, row.cells[column], names))


def _check_items(row: Row) -> None:
    items = row.listed("items")
    for item in items:
        if item not in ITEMS:
            raise row.fault("items", unknown_name("item", item, ITEMS))
        if item == VERDICTS:
            raise row.fault("items", f"{item} reads the rows of all other items; name those")
        if items.count(item) > 1:
            raise row.fault("items", f"{item} stands twice")


def _check_run(row: Row, config: Mapping[str, Any], pairs: Mapping[str, Row]) -> None:
    cells = row.cells
    if row.name in config["models"]:
        raise row.fault("run", f"{row.name!r} is already the name of a model in the config")
    _check_name(row, "recipe", "recipe", config["recipes"])
    _check_name(row, "data", "data set", config["data"])
    backend = config["recipes"][cells["recipe"]]["backend"]
    check_learns(row, config, backend)
    split = config["data"][cells["data"]].get("split")
    if split in HELD_OUT:
        raise row.fault(
            "data",
            f"{cells['data']!r} is of split {split}, which is held out; no run learns from it",
        )
    if cells["mask"]:
        pair, kind = split_mask(cells["mask"])
        if pair not in pairs:
            raise row.fault("mask", unknown_name("pair", pair, pairs))
        if kind not in ("", RANDOM) or cells["mask"].endswith(":"):
            raise row.fault("mask", f"expected a pair, or {pair}:{RANDOM}, found {cells['mask']!r}")
        if pairs[pair].cells["tuned"] == row.name:
            raise row.fault("mask", f"pair {pair!r} is measured on the run {row.name!r} itself")
    try:
        overrides = parse_set(cells["set"], backend)
        recipe = resolved_recipe(config["recipes"][cells["recipe"]], cells["set"])
        if backend == "native":
            check_used(overrides, cells["algorithm"], recipe["optimizer"])
        if backend == "verl":
            check_used_by_verl(overrides, cells["algorithm"])
    except ValueError as error:
        raise row.fault("set", str(error)) from error
    try:
        BACKENDS[backend].check(recipe, bool(cells["mask"]), cells["algorithm"])
        check_gpus(recipe, backend, config)
    except ValueError as error:
        raise row.fault("set" if overrides else "recipe", str(error)) from error
    scratch = "architecture" in config["models"].get(cells["init"], {})
    if scratch and cells["algorithm"] != "pretrain":
        raise row.fault(
            "init",
            f"model {cells['init']!r} is an architecture without weights; "
            f"{cells['algorithm']} needs a run or a model with a source",
        )
    if cells["algorithm"] == "pretrain" and cells["init"] in config["models"] and not scratch:
        raise row.fault(
            "init", f"pretrain needs a model with architecture, {cells['init']!r} has a source"
        )


def _check_pair(row: Row, config: Mapping[str, Any], runs: Mapping[str, Row]) -> None:
    for column in ("init", "tuned"):
        name = row.cells[column]
        _check_name(row, column, "run or model", [*config["models"], *runs])
        if "architecture" in config["models"].get(name, {}):
            raise row.fault(column, f"model {name!r} is an architecture without weights")
    if row.cells["init"] == row.cells["tuned"]:
        raise row.fault("tuned", "the same checkpoint as init")
    _check_items(row)
    for item in set(row.listed("items")) & set(COMPARING_RUNS):
        for column in ("init", "tuned"):
            if row.cells[column] not in runs:
                raise row.fault(
                    "items", f"{item} compares two runs, {row.cells[column]!r} is a model"
                )
    for item in row.listed("items"):
        if item in OF_SAVED_STEPS:
            _check_saved_steps(row, item, config, runs)


def _check_saved_steps(
    row: Row, item: str, config: Mapping[str, Any], runs: Mapping[str, Row]
) -> None:
    tuned, init = row.cells["tuned"], row.cells["init"]
    if tuned not in runs:
        raise row.fault("items", f"{item} shows the saved steps of a run, {tuned!r} is a model")
    run = runs[tuned].cells
    if not resolved_recipe(config["recipes"][run["recipe"]], run["set"]).get("checkpoint_every"):
        raise row.fault(
            "items",
            f"{item} shows the saved steps of a run, {tuned!r} saves none: give its recipe "
            f"(or its column set) checkpoint_every",
        )
    if run["init"] != init:
        raise row.fault(
            "init",
            f"{item} shows saved steps against what the run {tuned!r} starts from: expected "
            f"{run['init']!r}, found {init!r}",
        )


def _check_comparison(row: Row, pairs: Mapping[str, Row]) -> None:
    for column in ("pair1", "pair2"):
        _check_name(row, column, "pair", pairs)
    first, second = (pairs[row.cells[column]].cells["init"] for column in ("pair1", "pair2"))
    if first != second:
        raise row.fault(
            "pair2",
            f"{row.cells['pair2']!r} starts from {second!r} and {row.cells['pair1']!r} from "
            f"{first!r}; subnetworks are compared from one start",
        )
    _check_items(row)


def _check_order(
    config: Mapping[str, Any], runs: Mapping[str, Row], pairs: Mapping[str, Row]
) -> None:
    """Raise when runs wait for each other through init, mask or the policy of their data."""
    waits: dict[str, set[str]] = {}
    for name, row in runs.items():
        waits[name] = {row.cells["init"]}
        if row.cells["mask"]:
            mask = pairs[split_mask(row.cells["mask"])[0]].cells
            waits[name] |= {mask["init"], mask["tuned"]}
        policy = config["data"][row.cells["data"]].get("policy")
        waits[name] |= {policy} if policy else set()
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        # graphlib lists each node before the one that waits for it.
        cycle = list(reversed(error.args[1]))
        raise _cycle_fault(cycle, runs, pairs) from error


def _cycle_fault(cycle: list[str], runs: Mapping[str, Row], pairs: Mapping[str, Row]) -> SheetError:
    row, needed = runs[cycle[0]], cycle[1]
    column = "data"
    if row.cells["init"] == needed:
        column = "init"
    elif row.cells["mask"]:
        mask = pairs[split_mask(row.cells["mask"])[0]].cells
        column = "mask" if needed in (mask["init"], mask["tuned"]) else "data"
    return row.fault(column, f"runs wait for each other in a circle: {' -> '.join(cycle)}")
