"""What a training run is told, checked: the last gate before anything is computed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rlsubnet.config.settings import SAMPLERS
from rlsubnet.files import read_object


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
        accuracy_low: least share of right responses with which a prompt is preferred.
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
        algorithm: a key of :data:`rlsubnet.training.algorithms.ALGORITHMS`, or one of ``ONLINE``.
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
