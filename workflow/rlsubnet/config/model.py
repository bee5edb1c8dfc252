"""What a training run is told, checked: the last gate before anything is computed."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlsubnet.config.errors import unknown_name
from rlsubnet.files import read_object

# Keys of the block that say what is evaluated, or with which program, and not how.
NO_SETTINGS = ("backend", "olmes", "suites", "step_suites", "step_samples")

# What can draw a model's responses: the model itself, or vLLM with its weights.
SAMPLERS = ("own", "vllm")


def check_sampler(name: str) -> None:
    """Raise ValueError where there is no such sampler."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler: expected one of {SAMPLERS}, found {name!r}")


@dataclass(frozen=True)
class Settings:
    """Settings of sampling; greedy decoding and log-likelihoods use the sizes only.

    ``sampler`` is what draws: the model itself (``own``), or ``vllm``.
    """

    samples: int
    temperature: float
    batch_size: int
    max_new_tokens: int
    seed: int
    sampler: str = "own"

    def __post_init__(self) -> None:
        for key in ("samples", "batch_size", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"evaluation: {key} must be at least 1, found {self}")
        if self.temperature <= 0:
            raise ValueError(f"evaluation: temperature must be above 0, found {self}")
        check_sampler(self.sampler)


def read_settings(block: Mapping[str, Any]) -> Settings:
    """Return the settings of a config's ``evaluation`` block; what is no setting is left out.

    Raises:
        ValueError: a key is missing, unknown, of the wrong type or out of range.

    >>> read_settings({"samples": 16, "temperature": 1, "batch_size": 512, "max_new_tokens": 12,
    ...                "seed": 777}).samples
    16
    """
    given = {key: value for key, value in block.items() if key not in NO_SETTINGS}
    types = {field.name: field.type for field in fields(Settings)}
    if not set(types) - {"sampler"} <= set(given) <= set(types):
        raise ValueError(
            f"evaluation settings: expected the keys {sorted(types)}, found {sorted(given)}"
        )
    for key, value in given.items():
        allowed: Any = (int, float) if types[key] is float else types[key]
        if isinstance(value, bool) or not isinstance(value, allowed):
            kind = "a name" if types[key] is str else "a number"
            raise ValueError(f"evaluation settings, key {key}: expected {kind}, found {value!r}")
    return Settings(**given)


def _number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and low <= value <= high

    return holds


def _above_zero(value: Any) -> bool:
    return _number(0)(value) and value > 0


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= low


def _null_or(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _share(value: Any) -> bool:
    return _number(0)(value) and value < 1


# key -> (what holds for its value, the same in words)
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": (_whole(1), "a whole number of at least 1"),
    "batch_size": (_whole(1), "a whole number of at least 1"),
    "lr": (_above_zero, "a number above 0"),
    "schedule": (lambda value: value in ("linear", "constant"), "linear or constant"),
    "warmup_ratio": (_number(0, 1), "a number from 0 to 1"),
    "optimizer": (lambda value: value in ("adamw", "sgd"), "adamw or sgd"),
    "weight_decay": (_number(0), "a number of at least 0"),
    "beta1": (_share, "a number from 0 to below 1"),
    "beta2": (_share, "a number from 0 to below 1"),
    "eps": (_above_zero, "a number above 0"),
    "clip": (_null_or(_above_zero), "a number above 0, or null"),
    "accumulate": (_null_or(_whole(1)), "a whole number of at least 1, or null"),
    "compute": (lambda value: value in ("float32", "bfloat16"), "float32 or bfloat16"),
    "compile": (lambda value: isinstance(value, bool), "true or false"),
    "recompute": (_null_or(lambda value: isinstance(value, bool)), "true, false or null"),
    "beta": (_above_zero, "a number above 0"),
    "gamma": (_number(0), "a number of at least 0"),
    "odds_weight": (_above_zero, "a number above 0"),
    "mask_at": (lambda value: value in ("post_clip", "pre_clip"), "post_clip or pre_clip"),
    "save_every": (_whole(0), "a whole number of at least 0"),
    "checkpoint_every": (_whole(0), "a whole number of at least 0"),
    "sparsity_every": (_whole(0), "a whole number of at least 0"),
    "samples": (_whole(2), "a whole number of at least 2"),
    "temperature": (_above_zero, "a number above 0"),
    "max_new_tokens": (_whole(1), "a whole number of at least 1"),
    "sampler": (lambda value: value in SAMPLERS, "own or vllm"),
    "oversample": (_whole(1), "a whole number of at least 1"),
    "accuracy_low": (_number(0, 1), "a number from 0 to 1"),
    "accuracy_high": (_number(0, 1), "a number from 0 to 1"),
    "updates": (_whole(1), "a whole number of at least 1"),
    "clip_ratio": (_null_or(_above_zero), "a number above 0, or null"),
    "kl_coef": (_number(0), "a number of at least 0"),
    "entropy_coef": (_number(0), "a number of at least 0"),
    "gae_lambda": (_number(0, 1), "a number from 0 to 1"),
    "value_lr": (_above_zero, "a number above 0"),
    "value_coef": (_number(0), "a number of at least 0"),
    "reward_beta": (_above_zero, "a number above 0"),
    "reward_lr": (_null_or(_above_zero), "a number above 0, or null"),
    "reward_updates": (_whole(1), "a whole number of at least 1"),
    "reward_clip": (_null_or(_above_zero), "a number above 0, or null"),
}


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one run.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per optimizer step (a preference pair is one example).
        lr: peak learning rate.
        schedule: decay after the warm-up, ``linear`` to 0 or ``constant``.
        warmup_ratio: share of the steps with a rising learning rate.
        optimizer: ``adamw``, or ``sgd`` with momentum ``beta1``: weights move in proportion to
            their gradient, where AdamW moves all by about the same.
        weight_decay: of AdamW, decoupled; 0 with SGD.
        beta1: AdamW's decay of the first moment, or the momentum of SGD.
        beta2: AdamW's decay of the second moment.
        eps: AdamW's term that keeps the denominator above 0.
        clip: largest gradient norm; None clips nothing.
        accumulate: parts that a batch is computed in, to save memory; the result stays the same
            but for rounding. None: as few as the GPU's memory allows, see :func:`fewest_parts`.
        compute: precision of forward and backward; the weights are bfloat16 values either way.
        compile: whether torch compiles the layers for training, which changes rounding.
        recompute: whether activations are computed twice to save memory; changes no bit. None:
            where those of a single example would not fit into the GPU's memory.
        beta: temperature of DPO and KTO, scale of SimPO's reward.
        gamma: SimPO's target margin.
        odds_weight: ORPO's lambda, the weight of the odds ratio beside the likelihood.
        mask_at: where a mask meets the gradient, after clipping (the paper) or before.
        save_every: steps between two saved states to resume from; 0 saves none.
        checkpoint_every: steps between two saved models, the trajectory of the run; 0 saves none.
        sparsity_every: steps between two counts of the weights that differ from the start, a column
            of the metrics; 0 counts none.
        samples: online algorithms: responses per prompt; a step learns from ``batch_size`` prompts.
        temperature: of the sampling, and of the probabilities that are trained.
        max_new_tokens: length at which a response is cut off and counts as wrong.
        sampler: what draws the responses: ``own``, the policy itself, or ``vllm`` with its weights.
        oversample: prompts drawn for each prompt that is learned from: what the accuracy filter may
            choose from.
        accuracy_low: lowest accuracy at which a prompt is preferred.
        accuracy_high: greatest such share.
        updates: optimizer steps for each batch of responses; 1 is fully on-policy.
        clip_ratio: of PPO's and GRPO's surrogate; None clips nothing. It acts only where
            ``updates`` is above 1: else the ratio is 1.
        kl_coef: weight of the KL divergence to the model before finetuning in the loss.
        entropy_coef: weight of the entropy bonus.
        gae_lambda: PPO's decay of advantages along a response.
        value_lr: constant learning rate of PPO's value head.
        value_coef: weight of the value loss, as the weights below the head see it.
        reward_beta: PRIME's temperature of the implicit reward.
        reward_lr: constant learning rate of PRIME's reward model; None is twice ``lr``.
        reward_updates: optimizer steps of the reward model for each batch of responses.
        reward_clip: largest gradient norm of the reward model; None clips nothing.

    Raises:
        ValueError: naming the key, what was found and what was expected.

    >>> Recipe(steps=200, batch_size=64, lr=3e-6).clip
    1.0
    >>> Recipe(steps=200, batch_size=64, lr=0)
    Traceback (most recent call last):
    ValueError: recipe key lr: expected a number above 0, found 0
    """

    steps: int
    batch_size: int
    lr: float
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float | None = 1.0
    accumulate: int | None = 1
    compute: str = "float32"
    compile: bool = False
    recompute: bool | None = False
    beta: float = 0.1
    gamma: float = 0.5
    odds_weight: float = 0.1
    mask_at: str = "post_clip"
    save_every: int = 50
    checkpoint_every: int = 0
    sparsity_every: int = 0
    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 12
    sampler: str = "own"
    oversample: int = 1
    accuracy_low: float = 0.0
    accuracy_high: float = 1.0
    updates: int = 1
    clip_ratio: float | None = 0.2
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    gae_lambda: float = 0.95
    value_lr: float = 1e-3
    value_coef: float = 0.1
    reward_beta: float = 0.05
    reward_lr: float | None = None
    reward_updates: int = 1
    reward_clip: float | None = 10.0

    def __post_init__(self) -> None:
        for key, (holds, expected) in RULES.items():
            if not holds(found := getattr(self, key)):
                raise ValueError(f"recipe key {key}: expected {expected}, found {found!r}")
        parts = self.accumulate or 1
        if self.batch_size % parts:
            raise ValueError(
                f"recipe key accumulate: expected a divisor of batch_size {self.batch_size}, "
                f"found {self.accumulate}"
            )
        if self.batch_size % (self.updates * parts):
            raise ValueError(
                f"recipe key updates: expected updates * accumulate to divide batch_size "
                f"{self.batch_size}, found {self.updates} * {parts}"
            )
        if self.optimizer == "sgd" and self.weight_decay:
            raise ValueError(
                f"recipe key weight_decay: expected 0 with optimizer sgd, found {self.weight_decay}"
            )
        if self.accuracy_low > self.accuracy_high:
            raise ValueError(
                f"recipe key accuracy_low: expected at most accuracy_high {self.accuracy_high}, "
                f"found {self.accuracy_low}"
            )
        if self.checkpoint_every and self.steps % self.checkpoint_every:
            raise ValueError(
                f"recipe key checkpoint_every: expected a divisor of steps {self.steps}, "
                f"found {self.checkpoint_every}"
            )
        if self.checkpoint_every % self.updates:
            raise ValueError(
                f"recipe key checkpoint_every: expected a multiple of updates {self.updates}, "
                f"found {self.checkpoint_every}"
            )

    @property
    def parts(self) -> int:
        """Return ``accumulate``, once it is known."""
        assert self.accumulate is not None, "a run replaces null by a number before it starts"
        return self.accumulate


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of optimizer step ``step``, counted from 1.

    It rises linearly over ``int(warmup_ratio * steps)`` steps (at least one) to the peak, and then
    stays, or falls linearly so that step ``steps + 1`` would have 0.

    With 10 steps, 2 of them warm-up: 1/2, 1, then 8/8, 7/8, ..., 1/8 of the peak.

    >>> recipe = Recipe(steps=10, batch_size=1, lr=8.0, warmup_ratio=0.2)
    >>> [learning_rate(recipe, step) for step in range(1, 11)]
    [4.0, 8.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    """
    done = step - 1
    warmup = max(1, int(recipe.warmup_ratio * recipe.steps))
    if done < warmup:
        return recipe.lr * (step / warmup)
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * ((recipe.steps - done) / max(1, recipe.steps - warmup))


@dataclass(frozen=True)
class Row:
    """One row of the sheet of runs with its recipe spelled out.

    Attributes:
        run: name of the run.
        algorithm: a key of :data:`rlsubnet.training.loop.ALGORITHMS`, or one of ``ONLINE``.
        init: name of the starting point.
        data: name of the data set.
        recipe: hyperparameters.
        seed: of the order of examples and, without ``init`` folder, of the first weights.
        mask: name of the pair whose mask limits the update, or empty.
        architecture: configuration of a model that starts from random weights, or None.
        wandb: ``mode`` (disabled, offline, online) and ``project``.
    """

    run: str
    algorithm: str
    init: str
    data: str
    recipe: Recipe
    seed: int
    mask: str = ""
    architecture: Mapping[str, Any] | None = None
    wandb: Mapping[str, str] = field(default_factory=lambda: {"mode": "disabled"})

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, for JSON."""
        return asdict(self)


def _known_keys(cls: type, given: Mapping[str, Any], required: set[str], owner: str) -> None:
    known = [item.name for item in fields(cls)]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{owner}: unknown keys {unknown}; known: {', '.join(known)}")
    if missing := sorted(required - set(given)):
        raise ValueError(f"{owner}: missing keys {missing}")


def parse_row(run: str, text: str) -> Row:
    """Return the row that ``text`` describes: JSON, or ``@`` and the path of a JSON file.

    Raises:
        ValueError: naming the run and the key, what was found and what was expected.
    """
    source = f"run {run}, --row"
    values = read_object(source, text)
    if (backend := values.pop("backend", "native")) != "native":
        raise ValueError(f"{source}, key backend: expected native, found {backend!r}")
    _known_keys(Row, values, {"run", "algorithm", "init", "data", "recipe", "seed"}, source)
    if values["run"] != run:
        raise ValueError(f"{source}, key run: expected {run!r}, found {values['run']!r}")
    if not _whole(0)(values["seed"]):
        raise ValueError(
            f"{source}, key seed: expected a whole number of at least 0, found {values['seed']!r}"
        )
    kinds: dict[str, Any] = dict.fromkeys(("run", "algorithm", "init", "data", "mask"), str)
    kinds |= {"recipe": dict, "architecture": (dict, type(None)), "wandb": dict}
    for key, kind in kinds.items():
        if key in values and not isinstance(values[key], kind):
            raise ValueError(f"{source}, key {key}: found {values[key]!r}")
    _check_wandb(values.get("wandb", {}), source)
    _known_keys(Recipe, values["recipe"], {"steps", "batch_size", "lr"}, f"{source}, recipe")
    try:
        recipe = Recipe(**values["recipe"])
    except ValueError as error:
        raise ValueError(f"{source}, {error}") from error
    return Row(**{**values, "recipe": recipe})


def _check_wandb(settings: Mapping[str, Any], source: str) -> None:
    modes = ("disabled", "offline", "online")
    mode = settings.get("mode", "disabled")
    if mode not in modes:
        raise ValueError(f"{source}, key wandb.mode: expected one of {modes}, found {mode!r}")
    if unknown := sorted(set(settings) - {"mode", "project"}):
        raise ValueError(f"{source}, key wandb: unknown keys {unknown}")


def check_decay(recipe: Mapping[str, Any], masked: bool, algorithm: str = "") -> None:
    """Check that no weight decay moves the frozen weights of a masked run.

    Raises:
        ValueError: it would.
    """
    if masked and recipe["weight_decay"]:
        raise ValueError(
            f"weight_decay: expected 0 in a run with a mask (it moves frozen weights), "
            f"found {recipe['weight_decay']}"
        )


# Recipe keys of PRIME's filter and reward model.
PRIME_KEYS = (
    *("oversample", "accuracy_low", "accuracy_high"),
    *("reward_beta", "reward_lr", "reward_clip", "reward_batch", "reward_update"),
)


def check_used_by_verl(keys: Mapping[str, Any], algorithm: str) -> None:
    """Check that an algorithm uses what one of its rows sets.

    Raises:
        ValueError: the key has no effect.

    >>> check_used_by_verl({"lr": 1e-6, "reward_lr": 1e-6}, "prime")
    >>> check_used_by_verl({"reward_lr": 1e-6}, "grpo")
    Traceback (most recent call last):
    ValueError: reward_lr: has no effect on grpo; used by prime
    >>> check_used_by_verl({"kl_coef": 0.001}, "prime")
    Traceback (most recent call last):
    ValueError: kl_coef: has no effect on prime; used by grpo
    """
    for key in keys:
        if key in PRIME_KEYS and algorithm != "prime":
            raise ValueError(f"{key}: has no effect on {algorithm}; used by prime")
        if key == "kl_coef" and algorithm == "prime":
            raise ValueError(f"{key}: has no effect on prime; used by grpo")


def check_verl(recipe: Mapping[str, Any], masked: bool, algorithm: str) -> None:
    """Check the keys of a resolved recipe against each other, so that no job starts in vain.

    Raises:
        ValueError: a batch cannot be split into equal shares, a weight decay would move the frozen
            weights of a masked run, no accuracy lies between ``accuracy_low`` and
            ``accuracy_high``, or PRIME is asked for a KL term.
    """
    check_decay(recipe, masked)
    if recipe["checkpoint_every"] and recipe["steps"] is None:
        raise ValueError(
            "steps: expected a number in a run with checkpoint_every, so that the disk which its "
            "saved steps take is known, found null"
        )
    learned = recipe["batch_size"] * recipe["samples"]
    _check_split("updates", learned, recipe, recipe["updates"])
    if algorithm != "prime":
        return
    if learned % recipe["reward_batch"]:
        raise ValueError(
            f"reward_batch: expected a divisor of batch_size * samples = {learned}, "
            f"found {recipe['reward_batch']}"
        )
    _check_split("reward_batch", recipe["reward_batch"], recipe, 1)
    if recipe["accuracy_low"] > recipe["accuracy_high"]:
        raise ValueError(
            f"accuracy_low: expected at most accuracy_high {recipe['accuracy_high']}, "
            f"found {recipe['accuracy_low']}"
        )
    if recipe["kl_coef"]:
        raise ValueError(f"kl_coef: expected 0, PRIME has no such term, found {recipe['kl_coef']}")


def _check_split(key: str, responses: int, recipe: Mapping[str, Any], updates: int) -> None:
    """Check that each update gives every process a whole number of micro-batches."""
    shares = recipe["processes"] * recipe["per_process"]
    if recipe["batch_size"] % updates or responses % (updates * shares):
        raise ValueError(
            f"{key}: expected {responses} responses to be a multiple of updates * processes * "
            f"per_process = {updates} * {recipe['processes']} * {recipe['per_process']}"
        )


def implied_by_verl(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe for verl means in the words of native ones.

    A step of verl's draws one batch of responses and makes ``updates`` optimizer steps.

    >>> implied_by_verl({"steps": 210, "updates": 4})["steps"]
    840
    """
    steps = recipe["steps"]
    return {
        "steps": None if steps is None else steps * recipe["updates"],
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "optimizer": "adamw",
        "mask_at": "post_clip",
    }


if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

FOLDER = Path(__file__).resolve().parents[2] / "schemas"

_NOUNS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the schema ``workflow/schemas/{name}.schema.yaml``."""
    from jsonschema import Draft202012Validator

    schema = yaml.safe_load((FOLDER / f"{name}.schema.yaml").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return schema


def _filling(base: Callable[..., Iterator["ValidationError"]]) -> Callable[..., Any]:
    def properties(
        validator: Any, schemas: Mapping[str, Any], instance: Any, schema: Any
    ) -> Iterator["ValidationError"]:
        if isinstance(instance, dict):
            for key, subschema in schemas.items():
                if "default" in subschema:
                    # A copy: nested defaults are filled into it afterwards.
                    instance.setdefault(key, copy.deepcopy(subschema["default"]))
        yield from base(validator, schemas, instance, schema)

    return properties


def _is_integer(checker: object, value: object) -> bool:
    # JSON Schema takes 1000.0 for an integer; training, which counts with it, does not.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    # Every bound lets NaN pass: `nan < minimum` is false.
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


@cache
def _filling_validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    types = {"integer": _is_integer, "number": _is_number}
    return extend(
        Draft202012Validator,
        {"properties": _filling(Draft202012Validator.VALIDATORS["properties"])},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(types),
    )


def first_error(instance: Any, schema: Mapping[str, Any]) -> "ValidationError | None":
    """Fill the defaults of ``schema`` into ``instance``, in place; return its first error."""
    return next(_filling_validator()(schema).iter_errors(instance), None)


def describe(error: "ValidationError") -> str:
    """Return what was found and what the schema expects, without where it stands.

    >>> describe(first_error("dop", {"enum": ["sft", "dpo"]}))
    "unknown value 'dop' (did you mean 'dpo'?); known: sft, dpo"
    >>> describe(first_error({"a": 1, "lrr": 2}, load_schema("config")["$defs"]["recipe"]))
    "unknown key 'a'; known: backend, steps, ..."
    """
    found, expected = error.instance, error.validator_value
    match error.validator:
        case "enum":
            return unknown_name("value", str(found), map(str, expected))
        case "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(key for key in found if key not in known)
            return unknown_name("key", str(unknown), known)
        case "required":
            missing = [key for key in expected if key not in found]
            return f"missing key {', '.join(missing)}"
        case "oneOf":
            names = [alternative["required"][0] for alternative in expected]
            return f"expected exactly one of the keys {', '.join(names)}"
        case "type":
            return f"expected {_type_noun(expected)}, found {_say(found)}{_type_hint(found)}"
        case "pattern":
            return f"found {found!r}, expected {error.schema.get('description', expected)}"
        case _:
            return error.message


def _type_noun(expected: str | list[str]) -> str:
    kinds = [expected] if isinstance(expected, str) else expected
    return " or ".join(_NOUNS[kind] for kind in kinds)


def _say(found: Any) -> str:
    return f"the text {found!r}" if isinstance(found, str) else repr(found)


def _type_hint(found: Any) -> str:
    """Say why a value that looks like a number or a truth value was read as text."""
    if not isinstance(found, str):
        return ""
    if found.lower() in {"true", "false"}:
        return f"; on the command line write {found.capitalize()}"
    try:
        float(found)
    except ValueError:
        return ""
    return "; YAML 1.1 reads 2e-3 as text, write 2.0e-3"
