"""A scale: its config and the rows of its three sheets, checked against each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from rlsubnet.config.errors import SheetError, checked, unknown_name
from rlsubnet.config.model import PAIR_KINDS, PROBLEM_KINDS, RECIPES, AnyRecipe, Row, unfit
from rlsubnet.config.read import SheetRow, read_sheet
from rlsubnet.config.schema import ITEM_KIND, MIXTURE, RANDOM, Comparison, Pair, Run
from rlsubnet.items import ITEMS, VERDICTS
from rlsubnet.suites import OLMES_SUITES

COMPARING_RUNS = ("table3", "fig4")
OF_SAVED_STEPS = [name for name, item in ITEMS.items() if item.is_figure and item.steps]
# Online algorithms learn from what runs are also evaluated on, problems: only the split tells.
HELD_OUT = ("dev", "test")
SUITE_KINDS = (*PROBLEM_KINDS, "choices", *PAIR_KINDS)

Runs = Mapping[str, SheetRow[Run]]
Pairs = Mapping[str, SheetRow[Pair]]


@dataclass(frozen=True)
class Scale:
    """A whole scale; the mappings keep the order of the sheets."""

    config: dict[str, Any]
    runs: dict[str, Run]
    pairs: dict[str, Pair]
    comparisons: dict[str, Comparison]

    def recipe(self, run: str) -> AnyRecipe:
        """Return the recipe of a run, its own settings included."""
        row = self.runs[run]
        return resolved_recipe(self.config["recipes"][row.recipe], row.set)

    def row(self, run: str) -> Row[Any]:
        """Return everything that the training command is told about one run."""
        cells = self.runs[run]
        kind: Any = Row
        return kind[RECIPES[self.backend_of(run)]](
            **{name: getattr(cells, name) for name in ("run", "algorithm", "init", "data")},
            **{"recipe": self.recipe(run), "seed": cells.seed, "mask": cells.mask},
            architecture=self.config["models"].get(cells.init, {}).get("architecture"),
            wandb=dict(self.config["wandb"]),
        )

    def backend_of(self, run: str) -> str:
        """Return the trainer of a run: that of its recipe."""
        return str(self.config["recipes"][self.runs[run].recipe]["backend"])

    def runs_of(self, backend: str) -> list[str]:
        return [run for run in self.runs if self.backend_of(run) == backend]

    def saves_steps(self, run: str) -> bool:
        return bool(getattr(self.recipe(run), "checkpoint_every", 0))


def parse_value(text: str) -> int | float | bool | str | None:
    """Return the value a cell or a command line means.

    >>> [parse_value(text) for text in ("400", "1e-6", "null", "true", "linear")]
    [400, 1e-06, None, True, 'linear']
    """
    words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def overrides_of(recipe: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return what column ``set`` says for a recipe: keys of its trainer but ``backend``.

    >>> overrides_of({"backend": "native"}, "lr=1e-6 steps=400")
    {'lr': 1e-06, 'steps': 400}
    """
    known = [name for name in RECIPES[recipe["backend"]].model_fields if name != "backend"]
    result: dict[str, Any] = {}
    for entry in text.split():
        name, equals, value = entry.partition("=")
        if not (name and equals and value):
            raise ValueError(f"found {entry!r}, expected entries key=value separated by spaces")
        if name not in known:
            raise ValueError(unknown_name("key", name, known))
        if name in result:
            raise ValueError(f"key {name!r} stands twice")
        result[name] = parse_value(value)
    return result


def resolved_recipe(recipe: Mapping[str, Any], overrides: str) -> AnyRecipe:
    """Return a recipe of the config with the column ``set`` laid over it."""
    values = {**recipe, **overrides_of(recipe, overrides)}
    return checked(RECIPES[recipe["backend"]], values, lambda path: ".".join(path) or "recipe")


def data_kind(config: Mapping[str, Any], name: str) -> str:
    """Return the kind of a data set; that of a mixture is the kind of its parts."""
    spec = config["data"][name]
    parts = spec["parts"] if spec["kind"] == MIXTURE else [name]
    return str(config["data"][parts[0]]["kind"])


def suite_kind(config: Mapping[str, Any], suite: str) -> str:
    """Return the kind of a suite that ``evaluation.suites`` names: problems, choices and so on.

    >>> suite_kind({"evaluation": {"backend": "olmes"}}, "table3a")
    'choices'
    """
    if config["evaluation"]["backend"] == "olmes":
        return OLMES_SUITES[suite].kind
    return str(config["data"][suite]["kind"])


def load_scale(config: Mapping[str, Any], root: Path = Path()) -> Scale:
    """Return the scale of a complete config, its sheets read from paths relative to ``root``."""
    config = dict(config)
    runs = read_sheet(root / config["runs"], Run)
    pairs = read_sheet(root / config["pairs"], Pair)
    comparisons = read_sheet(root / config["comparisons"], Comparison)
    _check_data(config, runs)
    _check_suites(config)
    _check_contamination(config)
    for run in runs.values():
        _check_run(run, config, pairs)
    for run in runs.values():
        _check_name(run, "init", "run or model", [*config["models"], *runs])
    for pair in pairs.values():
        _check_pair(pair, config, runs)
    for comparison in comparisons.values():
        _check_comparison(comparison, pairs)
    _check_order(config, runs, pairs)
    return Scale(
        config,
        {name: run.cells for name, run in runs.items()},
        {name: pair.cells for name, pair in pairs.items()},
        {name: comparison.cells for name, comparison in comparisons.items()},
    )


def _check_data(config: Mapping[str, Any], runs: Runs) -> None:
    sources = [name for name, model in config["models"].items() if "source" in model]
    for name, spec in config["data"].items():
        place = f"scale {config['scale']}, key data.{name}"
        policy = spec.get("policy")
        if policy is not None and policy not in {*runs, *sources}:
            problem = unknown_name("run or model", policy, [*sources, *runs])
            raise SheetError(f"{place}.policy: {problem}")
        place += ".parts"
        kinds = [_named(config["data"], part, place)["kind"] for part in spec.get("parts", [])]
        if MIXTURE in kinds or len(set(kinds)) > 1:
            found = ", ".join(kinds)
            raise SheetError(f"{place}: expected data sets of one kind, found {found}")


def _named(data: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in data:
        raise SheetError(f"{place}: {unknown_name('data set', name, data)}")
    return data[name]


def _check_suites(config: Mapping[str, Any]) -> None:
    suites, olmes = config["evaluation"], config["evaluation"]["backend"] == "olmes"
    for key, kinds in (("suites", SUITE_KINDS), ("step_suites", PROBLEM_KINDS)):
        place = f"scale {config['scale']}, key evaluation.{key}"
        for name in suites[key]:
            if not olmes:
                _named(config["data"], name, place)
            elif name not in OLMES_SUITES:
                raise SheetError(f"{place}: {unknown_name('suite of olmes', name, OLMES_SUITES)}")
            kind = suite_kind(config, name)
            if kind not in kinds:
                expected = " or ".join(kinds)
                raise SheetError(f"{place}: {name!r} is of kind {kind}, expected {expected}")


def _check_contamination(config: Mapping[str, Any]) -> None:
    for name in config["contamination"]["items"]:
        place = f"scale {config['scale']}, key contamination.items"
        kind = _named(config["data"], name, place)["kind"]
        if kind != ITEM_KIND:
            raise SheetError(f"{place}: {name!r} is of kind {kind}, expected {ITEM_KIND}")


def _check_name(row: SheetRow[Any], column: str, kind: str, known: Iterable[str]) -> None:
    names, name = list(known), getattr(row.cells, column)
    if name not in names:
        raise row.fault(column, unknown_name(kind, name, names))


def _check_items(row: SheetRow[Any]) -> None:
    items = row.cells.items
    for item in items:
        if item not in ITEMS:
            raise row.fault("items", unknown_name("item", item, ITEMS))
        if item == VERDICTS:
            raise row.fault("items", f"{item} reads the rows of all other items; name those")
        if items.count(item) > 1:
            raise row.fault("items", f"{item} stands twice")


def _check_run(row: SheetRow[Run], config: Mapping[str, Any], pairs: Pairs) -> None:
    run, models = row.cells, config["models"]
    if run.run in models:
        raise row.fault("run", f"{run.run!r} is already the name of a model in the config")
    _check_name(row, "recipe", "recipe", config["recipes"])
    _check_name(row, "data", "data set", config["data"])
    recipe = config["recipes"][run.recipe]
    _check_learns(row, config, recipe["backend"])
    _check_mask(row, pairs)
    column = "set"
    try:
        overrides = overrides_of(recipe, run.set)
        resolved = resolved_recipe(recipe, run.set)
        resolved.check_used(overrides, run.algorithm)
        column = "set" if overrides else "recipe"
        resolved.check_for(run.algorithm, bool(run.mask))
        _check_gpus(resolved, config)
    except ValueError as error:
        raise row.fault(column, str(error)) from error
    scratch = "architecture" in models.get(run.init, {})
    if scratch and run.algorithm != "pretrain":
        needed = f"{run.algorithm} needs a run or a model with a source"
        message = f"model {run.init!r} is an architecture without weights; {needed}"
        raise row.fault("init", message)
    if run.algorithm == "pretrain" and run.init in models and not scratch:
        message = f"pretrain needs a model with architecture, {run.init!r} has a source"
        raise row.fault("init", message)


def _check_learns(row: SheetRow[Run], config: Mapping[str, Any], backend: str) -> None:
    run, kinds = row.cells, RECIPES[backend].learns_from
    if run.algorithm not in kinds:
        trains = f"which trains {', '.join(kinds)}; the row's algorithm is {run.algorithm}"
        raise row.fault("recipe", f"{run.recipe!r} is for {backend}, {trains}")
    kind, expected = data_kind(config, run.data), kinds[run.algorithm]
    if kind not in expected:
        by = "" if backend == "native" else f" of {backend}"
        learns = f"{run.algorithm}{by} learns from {' or '.join(expected)}"
        raise row.fault("data", f"{run.data!r} is of kind {kind}; {learns}")
    split = config["data"][run.data].get("split")
    if split in HELD_OUT:
        message = f"{run.data!r} is of split {split}, which is held out; no run learns from it"
        raise row.fault("data", message)


def _check_mask(row: SheetRow[Run], pairs: Pairs) -> None:
    cell, pair = row.cells.mask, row.cells.mask_pair
    if not cell:
        return
    if pair not in pairs:
        raise row.fault("mask", unknown_name("pair", pair, pairs))
    if cell not in (pair, f"{pair}:{RANDOM}"):
        raise row.fault("mask", f"expected a pair, or {pair}:{RANDOM}, found {cell!r}")
    if pairs[pair].cells.tuned == row.cells.run:
        raise row.fault("mask", f"pair {pair!r} is measured on the run {row.cells.run!r} itself")


def _check_gpus(recipe: AnyRecipe, config: Mapping[str, Any]) -> None:
    """Raise ValueError where a job's nodes or GPUs do not go into its processes."""
    if (processes := getattr(recipe, "processes", None)) is None:
        return
    kind = f"train_{recipe.backend}"
    wanted = config["resources"][kind]
    if processes % wanted["nodes"]:
        expected = f"a multiple of resources.{kind}.nodes = {wanted['nodes']}"
        raise unfit("processes", expected, processes)
    gpus = wanted["gpus"] * wanted["nodes"]
    if gpus and processes != gpus:
        expected = f"one per GPU, resources.{kind}.gpus x nodes = {gpus}"
        raise unfit("processes", expected, processes)


def _check_pair(row: SheetRow[Pair], config: Mapping[str, Any], runs: Runs) -> None:
    pair = row.cells
    for column in ("init", "tuned"):
        _check_name(row, column, "run or model", [*config["models"], *runs])
        name = getattr(pair, column)
        if "architecture" in config["models"].get(name, {}):
            raise row.fault(column, f"model {name!r} is an architecture without weights")
    if pair.init == pair.tuned:
        raise row.fault("tuned", "the same checkpoint as init")
    _check_items(row)
    for item in pair.items:
        for name in (pair.init, pair.tuned) if item in COMPARING_RUNS else ():
            if name not in runs:
                raise row.fault("items", f"{item} compares two runs, {name!r} is a model")
        if item in OF_SAVED_STEPS:
            _check_saved_steps(row, item, config, runs)


def _check_saved_steps(
    row: SheetRow[Pair], item: str, config: Mapping[str, Any], runs: Runs
) -> None:
    tuned, init = row.cells.tuned, row.cells.init
    shows = f"{item} shows the saved steps of a run, {tuned!r}"
    if tuned not in runs:
        raise row.fault("items", f"{shows} is a model")
    run = runs[tuned].cells
    recipe = resolved_recipe(config["recipes"][run.recipe], run.set)
    if not getattr(recipe, "checkpoint_every", 0):
        cure = "give its recipe (or its column set) checkpoint_every"
        raise row.fault("items", f"{shows} saves none: {cure}")
    if run.init != init:
        shows = f"{item} shows saved steps against what the run {tuned!r} starts from"
        raise row.fault("init", f"{shows}: expected {run.init!r}, found {init!r}")


def _check_comparison(row: SheetRow[Comparison], pairs: Pairs) -> None:
    for column in ("pair1", "pair2"):
        _check_name(row, column, "pair", pairs)
    one, other = row.cells.pair1, row.cells.pair2
    first, second = (pairs[name].cells.init for name in (one, other))
    if first != second:
        starts = f"{other!r} starts from {second!r} and {one!r} from {first!r}"
        raise row.fault("pair2", f"{starts}; subnetworks are compared from one start")
    _check_items(row)


def _waits_for(run: Run, config: Mapping[str, Any], pairs: Pairs) -> dict[str, str]:
    """Return what a run waits for, each with the column that says so, the first one that does."""
    found = {config["data"][run.data].get("policy"): "data"}
    if run.mask:
        pair = pairs[run.mask_pair].cells
        found |= {pair.init: "mask", pair.tuned: "mask"}
    found[run.init] = "init"
    return {name: column for name, column in found.items() if name}


def _check_order(config: Mapping[str, Any], runs: Runs, pairs: Pairs) -> None:
    waits = {name: _waits_for(row.cells, config, pairs) for name, row in runs.items()}
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        # graphlib lists each node before the one that waits for it.
        cycle = list(reversed(error.args[1]))
        message = f"runs wait for each other in a circle: {' -> '.join(cycle)}"
        raise runs[cycle[0]].fault(waits[cycle[0]][cycle[1]], message) from error
