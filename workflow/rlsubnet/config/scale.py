"""A scale: its config and the rows of its three sheets, checked against each other."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from rlsubnet.config.errors import SheetError, unknown_name
from rlsubnet.config.model import (
    check_decay,
    check_used_by_verl,
    check_verl,
    describe,
    first_error,
    implied_by_verl,
    load_schema,
)
from rlsubnet.config.read import Row, read_sheet
from rlsubnet.items import ITEMS, VERDICTS

PAIR_KINDS = ("preferences", "demonstration_pairs", "word_preferences")
PROBLEM_KINDS = ("problems", "word_problems")
# Read from a local file of word problems.
WORD_KINDS = ("word_problems", "word_demonstrations", "word_preferences")
# Made of the answers of the policy that they name.
ANSWERED_KINDS = ("preferences", "rejection_samples", "word_preferences")
# Pairs of messages, read by trainers that bring their own tokenization.
MESSAGE_PAIR_KINDS = ("tulu_preferences", "rollout_pairs")
ITEM_KIND = "eval_items"
# Problems with an answer that a grader checks; the trainer draws responses itself.
PROMPT_KIND = "graded_prompts"
# Parts of one kind, one after the other: it counts as of that kind.
MIXTURE = "mixture"
# Made of published files, which are fetched first; all other data are made up here.
FETCHED_KINDS = (*MESSAGE_PAIR_KINDS, ITEM_KIND, PROMPT_KIND)


@dataclass(frozen=True)
class Backend:
    """What the sheets know of a trainer.

    Attributes:
        schema: name of its recipes' schema among the definitions of the config's schema.
        data_kinds: algorithm -> kinds of data that it learns from.
        check: raises ValueError unless the keys of a resolved recipe fit each other, for a run with
            or without mask and its algorithm.
        implied: what tables ask of every recipe and this trainer's do not say, from what they say:
            ``steps`` of the optimizer, or None where only the data tell; ``schedule``,
            ``warmup_ratio``, ``optimizer``, ``mask_at``.
    """

    schema: str
    data_kinds: Mapping[str, tuple[str, ...]]
    check: Callable[[Mapping[str, Any], bool, str], None]
    implied: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda recipe: {}


def check_native(recipe: Mapping[str, Any], masked: bool, algorithm: str = "") -> None:
    """Check the keys of a resolved recipe against each other, so that no job starts in vain.

    Raises:
        ValueError: a batch cannot be split into ``accumulate`` equal parts, or into as many for
            each of ``updates``, a weight decay would move the frozen weights of a masked run or
            is asked of SGD, PRIME's reward model would take its rate from that of SGD, no accuracy
            lies between ``accuracy_low`` and ``accuracy_high``, or the models saved along the run
            leave out the last, lie amid the updates of a batch, or have no init to be changes of.
    """
    parts = recipe["accumulate"] or 1  # null: to be chosen by memory, from those that divide
    if recipe["batch_size"] % parts:
        raise ValueError(
            f"accumulate: expected a divisor of batch_size {recipe['batch_size']}, "
            f"found {recipe['accumulate']}"
        )
    if recipe["batch_size"] % (recipe["updates"] * parts):
        raise ValueError(
            f"updates: expected updates * accumulate to divide batch_size {recipe['batch_size']}, "
            f"found {recipe['updates']} * {parts}"
        )
    if recipe["accuracy_low"] > recipe["accuracy_high"]:
        raise ValueError(
            f"accuracy_low: expected at most accuracy_high {recipe['accuracy_high']}, "
            f"found {recipe['accuracy_low']}"
        )
    _check_checkpoints(recipe, algorithm)
    check_decay(recipe, masked, algorithm)
    if recipe["optimizer"] == "sgd" and recipe["weight_decay"]:
        raise ValueError(
            f"weight_decay: expected 0 with optimizer sgd, which has no decoupled decay, "
            f"found {recipe['weight_decay']}"
        )
    if algorithm == "prime" and recipe["optimizer"] == "sgd" and recipe["reward_lr"] is None:
        raise ValueError(
            "reward_lr: expected a number with optimizer sgd (the reward model keeps AdamW), "
            "found null"
        )


def _check_checkpoints(recipe: Mapping[str, Any], algorithm: str) -> None:
    every = recipe["checkpoint_every"]
    if every and algorithm == "pretrain":
        raise ValueError(
            f"checkpoint_every: expected 0 in pretraining (saved steps are changes of the weights "
            f"a run starts from, and those are random), found {every}"
        )
    if every and recipe["steps"] % every:
        raise ValueError(
            f"checkpoint_every: expected a divisor of steps {recipe['steps']} (the last saved step "
            f"is the final model), found {every}"
        )
    if every % recipe["updates"]:
        raise ValueError(
            f"checkpoint_every: expected a multiple of updates {recipe['updates']}, found {every}"
        )


DATA_KINDS: dict[str, tuple[str, ...]] = {
    "pretrain": ("base_text",),
    "sft": ("demonstrations", "word_demonstrations"),
    "rft": ("rejection_samples",),
    **dict.fromkeys(("dpo", "dpo_norm", "simpo", "kto", "orpo"), PAIR_KINDS),
    **dict.fromkeys(("grpo", "raft", "ppo", "prime"), PROBLEM_KINDS),
}

BACKENDS: dict[str, Backend] = {
    "native": Backend("recipe", DATA_KINDS, check_native),
    "open_instruct": Backend(
        "open_instruct_recipe",
        dict.fromkeys(("dpo", "dpo_norm"), MESSAGE_PAIR_KINDS),
        check_decay,
        lambda recipe: {"steps": None, "optimizer": "adamw"},  # it trains for whole epochs
    ),
    "verl": Backend(
        "verl_recipe", dict.fromkeys(("prime", "grpo"), (PROMPT_KIND,)), check_verl, implied_by_verl
    ),
}


def data_kind(config: Mapping[str, Any], name: str) -> str:
    """Return the kind of a data set; that of a mixture is the kind of its parts."""
    spec = config["data"][name]
    parts = spec["parts"] if spec["kind"] == MIXTURE else [name]
    return str(config["data"][parts[0]]["kind"])


def check_learns(row: Row, config: Mapping[str, Any], backend: str) -> None:
    """Raise unless the row's trainer knows its algorithm, and that learns from such data."""
    algorithm, data = row.cells["algorithm"], row.cells["data"]
    by = "" if backend == "native" else f" of {backend}"
    kinds = BACKENDS[backend].data_kinds
    if algorithm not in kinds:
        raise row.fault(
            "recipe",
            f"{row.cells['recipe']!r} is for {backend}, which trains {', '.join(kinds)}; "
            f"the row's algorithm is {algorithm}",
        )
    kind = data_kind(config, data)
    if kind not in kinds[algorithm]:
        expected = " or ".join(kinds[algorithm])
        raise row.fault(
            "data", f"{data!r} is of kind {kind}; {algorithm}{by} learns from {expected}"
        )


def check_gpus(recipe: Mapping[str, Any], backend: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError where a job would get another number of GPUs than its processes need."""
    kind = f"train_{backend}"
    wanted = config["resources"].get(kind, {})
    gpus = wanted.get("gpus", 0) * wanted.get("nodes", 1)
    if gpus and recipe.get("processes", gpus) != gpus:
        raise ValueError(
            f"processes: expected one per GPU, resources.{kind}.gpus x nodes = {gpus}, "
            f"found {recipe['processes']}"
        )


# Suites of backend olmes; what is in them stands in `rlsubnet.backends.olmes.suites`.
OLMES_SUITES = {
    "table3a": "choices",
    "math500": "problems",
    "math500-fewshot": "problems",
    "math500-r1": "problems",
    "aime2024": "problems",
}


def suite_kind(config: Mapping[str, Any], suite: str) -> str:
    """Return the kind of a suite that ``evaluation.suites`` names: problems, choices and so on.

    >>> suite_kind({"evaluation": {"backend": "olmes"}}, "table3a")
    'choices'
    """
    if config["evaluation"]["backend"] == "olmes":
        return OLMES_SUITES[suite]
    kind: str = config["data"][suite]["kind"]
    return kind


SUITE_KINDS = (*PROBLEM_KINDS, "choices", *PAIR_KINDS)


def check_data(config: Mapping[str, Any], runs: Mapping[str, Row]) -> None:
    """Raise unless the data sets' policies and parts exist and fit."""
    sources = [name for name, model in config["models"].items() if "source" in model]
    for name, spec in config["data"].items():
        policy = spec.get("policy")
        if policy is not None and policy not in {*runs, *sources}:
            problem = unknown_name("run or model", policy, [*sources, *runs])
            raise SheetError(f"scale {config['scale']}, key data.{name}.policy: {problem}")
        if spec["kind"] == MIXTURE:
            _check_parts(config, name)


def _check_parts(config: Mapping[str, Any], name: str) -> None:
    """Raise unless the parts of a mixture are data sets of one kind, and that is no mixture."""
    place = f"scale {config['scale']}, key data.{name}.parts"
    kinds = []
    for part in config["data"][name]["parts"]:
        if part not in config["data"]:
            raise SheetError(f"{place}: {unknown_name('data set', part, config['data'])}")
        kinds.append(config["data"][part]["kind"])
    if MIXTURE in kinds or len(set(kinds)) > 1:
        raise SheetError(f"{place}: expected data sets of one kind, found {', '.join(kinds)}")


def check_suites(config: Mapping[str, Any]) -> None:
    """Raise unless runs can be evaluated on the suites named."""
    suites, olmes = config["evaluation"], config["evaluation"]["backend"] == "olmes"
    for key, kinds in (("suites", SUITE_KINDS), ("step_suites", PROBLEM_KINDS)):
        place = f"scale {config['scale']}, key evaluation.{key}"
        known = OLMES_SUITES if olmes else config["data"]
        for name in suites[key]:
            if name not in known:
                what = "suite of olmes" if olmes else "data set"
                raise SheetError(f"{place}: {unknown_name(what, name, known)}")
            kind = suite_kind(config, name)
            if kind not in kinds:
                raise SheetError(
                    f"{place}: {name!r} is of kind {kind}, expected {' or '.join(kinds)}"
                )


def check_contamination(config: Mapping[str, Any]) -> None:
    """Raise unless what is looked for in training prompts are evaluation items."""
    for name in config["contamination"]["items"]:
        place = f"scale {config['scale']}, key contamination.items"
        if name not in config["data"]:
            raise SheetError(f"{place}: {unknown_name('data set', name, config['data'])}")
        kind = config["data"][name]["kind"]
        if kind != ITEM_KIND:
            raise SheetError(f"{place}: {name!r} is of kind {kind}, expected {ITEM_KIND}")


# Keys of native recipes that only some algorithms use; others are of the loop and the optimizer.
OBJECTIVE_KEYS = {
    "beta": ("dpo", "dpo_norm", "simpo", "kto"),
    "gamma": ("simpo",),
    "odds_weight": ("orpo",),
}
_ROLLOUTS = (
    *("samples", "temperature", "max_new_tokens", "oversample", "accuracy_low", "accuracy_high"),
    *("sampler", "updates", "clip_ratio", "kl_coef", "entropy_coef"),
)
ONLINE_KEYS = {
    **dict.fromkeys(_ROLLOUTS, ("grpo", "raft", "ppo", "prime")),
    **dict.fromkeys(("gae_lambda", "value_lr", "value_coef"), ("ppo",)),
    **dict.fromkeys(("reward_beta", "reward_lr", "reward_updates", "reward_clip"), ("prime",)),
}


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


def recipe_schemas(backend: str = "native") -> dict[str, Any]:
    """Return the schema of every key of a backend's recipes but ``backend`` itself."""
    properties = load_schema("config")["$defs"][BACKENDS[backend].schema]["properties"]
    return {key: schema for key, schema in properties.items() if key != "backend"}


def parse_set(text: str, backend: str = "native") -> dict[str, Any]:
    """Return the keys that column ``set`` overrides, ``lr=1e-6 steps=400``.

    Args:
        text: the cell.
        backend: whose keys may be overridden: that of the row's recipe.

    Raises:
        ValueError: an entry is not ``key=value``, a key is unknown or stands twice, or a value
            has the wrong type for its key.

    >>> parse_set("lr=1e-6 steps=400")
    {'lr': 1e-06, 'steps': 400}
    >>> parse_set("lrr=1")
    Traceback (most recent call last):
    ValueError: unknown key 'lrr' (did you mean 'lr'?); known: steps, batch_size, lr, ...
    """
    schemas = recipe_schemas(backend)
    result: dict[str, Any] = {}
    for entry in text.split():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise ValueError(f"found {entry!r}, expected entries key=value separated by spaces")
        if key not in schemas:
            raise ValueError(unknown_name("key", key, schemas))
        if key in result:
            raise ValueError(f"key {key!r} stands twice")
        result[key] = parse_value(value)
        error = first_error(result[key], schemas[key])
        if error is not None:
            raise ValueError(f"{key}: {describe(error)}")
    return result


def check_used(overrides: Mapping[str, Any], algorithm: str, optimizer: str = "adamw") -> None:
    """Check that a native algorithm, and its optimizer, use what one of its rows sets.

    A recipe may hold keys for several algorithms; a row sets a key because it should matter.

    Raises:
        ValueError: the key has no effect; the message names the algorithms that use it.

    >>> check_used({"lr": 1e-6, "beta": 5.0}, "dpo")
    >>> check_used({"gamma": 1.0}, "dpo")
    Traceback (most recent call last):
    ValueError: gamma: has no effect on dpo; used by simpo
    """
    for key in ("beta2", "eps") if optimizer == "sgd" else ():
        if key in overrides:
            raise ValueError(f"{key}: has no effect on optimizer sgd; used by adamw")
    for key in overrides:
        users = {**OBJECTIVE_KEYS, **ONLINE_KEYS}.get(key, (algorithm,))
        if algorithm not in users:
            raise ValueError(f"{key}: has no effect on {algorithm}; used by {', '.join(users)}")


def resolved_recipe(recipe: Mapping[str, Any], overrides: str) -> dict[str, Any]:
    """Return a recipe with the column ``set`` laid over it, keys in the schema's order.

    Its ``backend`` is left out: it says what the others mean and is no setting among them.
    """
    backend = recipe["backend"]
    values = {**recipe, **parse_set(overrides, backend)}
    return {key: values[key] for key in recipe_schemas(backend)}


def saves_steps(scale: "Scale", run_name: str) -> bool:
    """Return whether a run saves models along its way."""
    run = scale.runs[run_name]
    recipe = resolved_recipe(scale.config["recipes"][run.recipe], run.set)
    return bool(recipe.get("checkpoint_every"))


def resolved_row(scale: "Scale", run_name: str) -> dict[str, Any]:
    """Return everything that the training command is told about one run.

    What the run computes follows from this mapping and from its input files alone. The label is
    left out: it changes what a table prints, not what is trained.
    """
    run = scale.runs[run_name]
    model = scale.config["models"].get(run.init, {})
    return {
        "run": run.run,
        "backend": scale.backend_of(run_name),
        "algorithm": run.algorithm,
        "init": run.init,
        "data": run.data,
        "recipe": resolved_recipe(scale.config["recipes"][run.recipe], run.set),
        "seed": run.seed,
        "mask": run.mask,
        "architecture": model.get("architecture"),
        "wandb": dict(scale.config["wandb"]),
    }


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
