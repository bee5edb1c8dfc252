"""Recipes: every key once, with its type, bound, unit and meaning, and the rules between keys.

Training reads these objects, the sheets are checked with them, and the schemas for editors and the
tables of config/README.md are made from them. What a run's result follows from leaves out keys
that have their default, so that a new key repeats no run; hence a default is never changed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeVar

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
# What can draw a model's responses: the model itself, or vLLM with its weights.
SamplerName = Literal["own", "vllm"]

MaskAt = Literal["post_clip", "pre_clip"]


def key(
    doc: str,
    default: Any = ...,
    *,
    of: tuple[str, ...] = (),
    source: str = "",
    changes: Literal["weights", "files", "nothing"] = "weights",
    omit: bool = False,
) -> Any:
    """Return a key of a config; one without a default must be given.

    Args:
        doc: its meaning, for editors and config/README.md.
        default: never changed, as provenance leaves it out.
        of: the algorithms that use it, where others do not.
        source: where the default comes from, if not from us.
        changes: what another value changes of a run: its weights (or scores); only which ``files``
            it writes besides; or ``nothing`` that a result follows from.
        omit: whether jobs are not told the key where it has its default: their parameters then are
            what they were before there was such a key.
    """
    more = {"of": of, "source": source, "changes": "" if changes == "weights" else changes}
    extra: Any = {name: value for name, value in more.items() if value} or None
    left_out: Callable[[Any], bool] | None = (lambda value: value == default) if omit else None
    return Field(default, description=doc, json_schema_extra=extra, exclude_if=left_out)


def unfit(name: str, expected: str, found: object) -> ValueError:
    """Return what to raise where a key does not fit others."""
    return ValueError(f"{name}: expected {expected}, found {found}")


class Model(BaseModel):
    """A block of keys: strict about types, without unknown keys and numbers that are none."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=False
    )

    def but(self, **changes: Any) -> Self:
        """Return a copy with other values, checked again."""
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def marked(cls, mark: str) -> dict[str, Any]:
        """Return what :func:`key` was told as ``mark``, for the keys that have it."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        told = {name: extra for name, extra in extras.items() if isinstance(extra, dict)}
        return {name: extra[mark] for name, extra in told.items() if mark in extra}

    def followed_from(self, than: tuple[str, ...] = ("nothing",)) -> dict[str, Any]:
        """Return the keys without their defaults that change more than what is named."""
        left_out = {name for name, changes in self.marked("changes").items() if changes in than}
        return self.model_dump(exclude=left_out, exclude_defaults=True)


class AnyRecipe(Model):
    """What recipes of all trainers share."""

    # Algorithm -> the kinds of data that it learns from.
    learns_from: ClassVar[Mapping[str, tuple[str, ...]]]

    if TYPE_CHECKING:  # each trainer's recipe says more about them
        backend: str
        weight_decay: float

    def check_for(self, algorithm: str, masked: bool) -> None:
        """Raise ValueError where the keys do not fit an algorithm, or a run with a mask."""
        if masked and self.weight_decay:
            expected = "0 in a run with a mask (it moves frozen weights)"
            raise unfit("weight_decay", expected, self.weight_decay)

    def check_used(self, names: Mapping[str, Any], algorithm: str) -> None:
        """Raise ValueError where a row sets a key that its algorithm has no use for.

        A recipe may hold keys for several algorithms; a row sets one because it should matter.
        """
        for name in names:
            users = self.marked("of").get(name, (algorithm,))
            if algorithm not in users:
                used = ", ".join(users)
                raise ValueError(f"{name}: has no effect on {algorithm}; used by {used}")

    def bits(self) -> dict[str, Any]:
        """Return what the bits of the trained weights follow from, without defaults."""
        return self.followed_from(("nothing", "files"))

    def implied(self) -> dict[str, Any]:
        """Return what tables ask of every recipe and this one does not say, from what it says.

        ``steps`` of the optimizer, or None where only the data tell; ``schedule``,
        ``warmup_ratio``, ``optimizer`` and ``mask_at``.
        """
        return {}


def _check_filter(low: float, high: float) -> None:
    if low > high:
        raise unfit("accuracy_low", f"at most accuracy_high {high}", low)


PAIR_KINDS = ("preferences", "demonstration_pairs", "word_preferences")
PROBLEM_KINDS = ("problems", "word_problems")
# Pairs of messages, read by trainers that bring their own tokenization.
MESSAGE_PAIR_KINDS = ("tulu_preferences", "rollout_pairs")
# Problems with an answer that a grader checks; the trainer draws responses itself.
PROMPT_KIND = "graded_prompts"
# These draw their own responses in every step.
ONLINE = ("grpo", "raft", "ppo", "prime")
BETA = ("dpo", "dpo_norm", "simpo", "kto")
PPO = ("ppo",)
PRIME = ("prime",)


class Recipe(AnyRecipe):
    """The hyperparameters of one run of our own trainer.

    >>> Recipe(steps=200, batch_size=64, lr=3e-6).clip
    1.0
    >>> Recipe(steps=200, batch_size=64, lr=3e-6, accumulate=3)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Recipe
      Value error, accumulate: expected a divisor of batch_size 64, found 3 ...
    """

    learns_from = {
        "pretrain": ("base_text",),
        "sft": ("demonstrations", "word_demonstrations"),
        "rft": ("rejection_samples",),
        **dict.fromkeys(("dpo", "dpo_norm", "simpo", "kto", "orpo"), PAIR_KINDS),
        **dict.fromkeys(ONLINE, PROBLEM_KINDS),
    }

    backend: Literal["native"] = key("the trainer", "native")
    steps: Count = key("optimizer steps")
    batch_size: Count = key("examples per optimizer step; a pair is one, and so is a prompt")
    lr: Positive = key("peak learning rate")
    schedule: Literal["linear", "constant"] = key("what follows the warm-up", "linear")
    warmup_ratio: Share = key("share of the steps in which the learning rate rises", 0.1)
    optimizer: Literal["adamw", "sgd"] = key("what moves the float32 masters", "adamw")
    weight_decay: Amount = key("AdamW's, decoupled; 0 in a run with a mask and with `sgd`", 0.0)
    beta1: Decay = key("AdamW's decay of the first moment; momentum of `sgd`", 0.9)
    beta2: Decay = key("AdamW's decay of the second moment", 0.999)
    eps: Positive = key("AdamW's term that keeps the denominator above 0", 1e-8)
    clip: Positive | None = key("largest norm of the gradient; `null`: no clipping", 1.0)
    accumulate: Count | None = key("parts of a batch; `null`: as few as the memory allows", 1)
    compute: Literal["float32", "bfloat16"] = key("precision of forward and backward", "float32")
    compile: bool = key("let torch compile the layers for training; changes rounding", False)
    recompute: bool | None = key(
        "compute activations twice; `null`: where memory is short", False, changes="nothing"
    )
    beta: Positive = key("temperature; scale of SimPO's reward, 2 or more there", 0.1, of=BETA)
    gamma: Amount = key("the margin aimed at, in units of its reward", 0.5, of=("simpo",))
    odds_weight: Positive = key("lambda, the weight of the odds ratio", 0.1, of=("orpo",))
    mask_at: MaskAt = key("whether a mask meets the gradient after clipping or before", "post_clip")
    save_every: Whole = key("steps between states to resume from; `0`: none", 50, changes="nothing")
    checkpoint_every: Whole = key(
        "steps between saved models, for Figures 2, 5, 6 and 7: a divisor of `steps`, a multiple "
        "of `updates`; `0`: none",
        0,
        changes="files",
    )
    sparsity_every: Whole = key(
        "steps between counts of changed weights in the metrics; `0`: none", 0, changes="files"
    )
    samples: Several = key("responses per prompt", 8, of=ONLINE)
    temperature: Positive = key("of the sampling, and of what is trained", 1.0, of=ONLINE)
    max_new_tokens: Count = key("longest response; a longer one counts as wrong", 12, of=ONLINE)
    sampler: SamplerName = key("what draws responses: the policy, or vLLM", "own", of=ONLINE)
    oversample: Count = key("prompts drawn for each that is learned from", 1, of=ONLINE)
    accuracy_low: Share = key(
        "lowest accuracy of prompts that `oversample` prefers", 0.0, of=ONLINE
    )
    accuracy_high: Share = key("highest such accuracy", 1.0, of=ONLINE)
    updates: Count = key("steps for a batch of responses; `1` is fully on-policy", 1, of=ONLINE)
    clip_ratio: Positive | None = key("clip of the probability ratio, or `null`", 0.2, of=ONLINE)
    kl_coef: Amount = key("weight of the KL divergence to the start (k3)", 0.0, of=ONLINE)
    entropy_coef: Amount = key("weight of the entropy bonus", 0.0, of=ONLINE)
    gae_lambda: Share = key("decay of advantages along a response", 0.95, of=PPO)
    value_lr: Positive = key("constant learning rate of the value head", 1e-3, of=PPO)
    value_coef: Amount = key("weight of the value loss below the head", 0.1, of=PPO)
    reward_beta: Positive = key("temperature of the implicit reward", 0.05, of=PRIME)
    reward_lr: Positive | None = key("the reward model's; `null`: twice `lr`", None, of=PRIME)
    reward_updates: Count = key("the reward model's steps for each batch", 1, of=PRIME)
    reward_clip: Positive | None = key("the reward model's `clip`", 10.0, of=PRIME)

    @property
    def parts(self) -> int:
        """Return ``accumulate``, once it is known."""
        assert self.accumulate is not None, "a run replaces null by a number before it starts"
        return self.accumulate

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size, every = self.batch_size, self.checkpoint_every
        parts = self.accumulate or 1  # null: to be chosen by memory, from those that divide
        if size % parts:
            raise unfit("accumulate", f"a divisor of batch_size {size}", parts)
        if size % (self.updates * parts):
            expected = f"updates * accumulate to divide batch_size {size}"
            raise unfit("updates", expected, f"{self.updates} * {parts}")
        _check_filter(self.accuracy_low, self.accuracy_high)
        if every and self.steps % every:
            expected = f"a divisor of steps {self.steps} (the last saved step is the final model)"
            raise unfit("checkpoint_every", expected, every)
        if every % self.updates:
            raise unfit("checkpoint_every", f"a multiple of updates {self.updates}", every)
        if self.optimizer == "sgd" and self.weight_decay:
            expected = "0 with optimizer sgd, which has no decoupled decay"
            raise unfit("weight_decay", expected, self.weight_decay)
        return self

    def check_for(self, algorithm: str, masked: bool) -> None:
        super().check_for(algorithm, masked)
        if self.checkpoint_every and algorithm == "pretrain":
            because = (
                "saved steps are changes of the weights a run starts from, and those are random"
            )
            raise unfit("checkpoint_every", f"0 in pretraining ({because})", self.checkpoint_every)
        if algorithm == "prime" and self.optimizer == "sgd" and self.reward_lr is None:
            expected = "a number with optimizer sgd (the reward model keeps AdamW)"
            raise unfit("reward_lr", expected, "null")

    def check_used(self, names: Mapping[str, Any], algorithm: str) -> None:
        for name in {"beta2", "eps"} & set(names) if self.optimizer == "sgd" else ():
            raise ValueError(f"{name}: has no effect on optimizer sgd; used by adamw")
        super().check_used(names, algorithm)


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


class OpenInstructRecipe(AnyRecipe):
    """A recipe for open-instruct: defaults are those of appendix B where it has any."""

    learns_from = dict.fromkeys(("dpo", "dpo_norm"), MESSAGE_PAIR_KINDS)

    backend: Literal["open_instruct"] = key("the trainer")
    commit: Commit = key(
        "that the checkout must be at, unmodified",
        "c35cd715f75931dc9b8bc5888b9f8f8fc53a144a",
        source="last commit before the paper, 2025-05-15",
    )
    processes: Count = key("one per GPU, on all nodes", 8, source="B")
    per_process: Count = key("pairs per process and forward pass", 1, source="B")
    accumulate: Count = key("forward passes per update; section 5 has 4", 16, source="B")
    epochs: Count = key("passes over the data, each a whole number of updates", 1, source="B")
    lr: Positive = key("peak learning rate; the first update has rate 0", source="B: `5.0e-7`")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = key(
        "what follows the warm-up", "linear", source="B"
    )
    warmup_ratio: Share = key("share of the updates in which the rate rises", 0.1, source="B")
    weight_decay: Amount = key("AdamW's; 0 in a run with a mask", 0.0, source="B")
    clip: Positive | None = key("as in native recipes", 1.0, source="D (accelerate)")
    beta: Positive = key("temperature; usually `0.1` for `dpo`", source="S: `5.0` with `dpo_norm`")
    max_length: Count = key("tokens of prompt and response, cut off there", 2048, source="B")
    chat_template: Literal["tulu", "own"] = key(
        "Tulu's way to write messages, or that of the start's tokenizer", "tulu", source="D"
    )
    flash_attention: bool = key("needs the package flash-attn", True, source="S")
    mask_at: MaskAt = key("as in native recipes", "post_clip", source="section 1")
    save_every: Whole = key(
        "updates between saves to resume from, 12 bytes a weight; `0`: none", 100, changes="nothing"
    )

    @property
    def batch_size(self) -> int:
        return self.processes * self.per_process * self.accumulate

    def implied(self) -> dict[str, Any]:
        return {"steps": None, "optimizer": "adamw"}  # it trains for whole epochs


class VerlRecipe(AnyRecipe):
    """A recipe for verl: defaults are those of appendix B, else of verl's own PRIME example."""

    learns_from = dict.fromkeys(("prime", "grpo"), (PROMPT_KIND,))

    backend: Literal["verl"] = key("the trainer")
    processes: Count = key("one per GPU, on all nodes", 8)
    per_process: Count = key(
        "responses per process and forward pass; the loss is a mean over their tokens, then over "
        "passes",
        1,
        source="R",
    )
    scored_per_process: Count = key("the same where nothing is learned", 32, source="R")
    strategy: Literal["fsdp", "fsdp2"] = key("how weights are sharded", "fsdp", source="R")
    offload: bool = key("keep weights and moments in main memory at rest", True, source="R")
    gradient_checkpointing: bool = key("compute activations twice", True, source="R")
    remove_padding: bool = key("needs the package flash-attn", True, source="R")
    epochs: Count = key("passes over the prompts", 15, source="B")
    steps: Count | None = key("batches; `null`: all of the epochs", None, source="R: 869 of 870")
    batch_size: Count = key("prompts that a step learns from", source="B: `64`")
    samples: Several = key("responses per prompt", source="B: `4`")
    updates: Count = key("as in native recipes", 1, source="R")
    lr: Positive = key("constant learning rate", source="B: `5.0e-7`")
    weight_decay: Amount = key("AdamW's; verl's own is 0.01; 0 in a run with a mask", 0.0)
    clip: Positive | None = key("as in native recipes", 1.0, source="R")
    clip_ratio: Positive = key("as in native recipes", 0.2, source="D")
    kl_coef: Amount = key("as in native recipes; `0`: no reference", 0.0, source="R", of=("grpo",))
    entropy_coef: Amount = key("weight of the entropy bonus", 0.0, source="R: `0.001`")
    temperature: Positive = key("of the sampling, and of what is trained", 1.0, source="R")
    max_prompt_tokens: Count = key("longer prompts are left out, and logged", 1024, source="R")
    max_new_tokens: Count = key("longer responses are cut off", 3072, source="R")
    save_every: Whole = key(
        "steps between saves to resume from, 12 bytes a weight; `0`: none", 50, changes="nothing"
    )
    checkpoint_every: Whole = key("steps between saved models", 0, source="21", changes="files")
    oversample: Count = key("prompts drawn for each learned from", 4, source="R", of=PRIME)
    accuracy_low: Share = key(
        "lowest accuracy at which a prompt whose responses ended is preferred",
        0.2,
        source="R",
        of=PRIME,
    )
    accuracy_high: Share = key("highest such accuracy", 0.8, source="R", of=PRIME)
    reward_beta: Positive = key("temperature of the reward", 0.05, source="B", of=PRIME)
    reward_lr: Positive = key("that of the reward model, constant", 1e-6, source="B", of=PRIME)
    reward_clip: Positive | None = key("of the reward model", 10.0, source="B", of=PRIME)
    reward_batch: Count = key("the reward model's responses a step", 64, source="R", of=PRIME)
    reward_update: Literal["before", "after"] = key(
        "whether the reward model learns a batch's outcomes before it rewards its tokens, or "
        "after, with the log-probabilities of the update itself (PRIME's own code)",
        "before",
        source="R",
        of=PRIME,
    )
    overrides: list[Annotated[str, Field(pattern="=")]] = key(
        "more settings as verl's command line takes them; these win", []
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.checkpoint_every and self.steps is None:
            because = "so that the disk which its saved steps take is known"
            raise unfit("steps", f"a number in a run with checkpoint_every, {because}", "null")
        self._check_split("updates", self.batch_size * self.samples, self.updates)
        return self

    def check_for(self, algorithm: str, masked: bool) -> None:
        super().check_for(algorithm, masked)
        if algorithm != "prime":
            return
        learned = self.batch_size * self.samples
        if learned % self.reward_batch:
            expected = f"a divisor of batch_size * samples = {learned}"
            raise unfit("reward_batch", expected, self.reward_batch)
        self._check_split("reward_batch", self.reward_batch, 1)
        _check_filter(self.accuracy_low, self.accuracy_high)
        if self.kl_coef:
            raise unfit("kl_coef", "0, PRIME has no such term", self.kl_coef)

    def _check_split(self, name: str, responses: int, updates: int) -> None:
        """Check that each update gives every process a whole number of micro-batches."""
        shares = self.processes * self.per_process
        if self.batch_size % updates or responses % (updates * shares):
            raise ValueError(
                f"{name}: expected {responses} responses to be a multiple of updates * processes * "
                f"per_process = {updates} * {self.processes} * {self.per_process}"
            )

    def implied(self) -> dict[str, Any]:
        """Return what this means in the words of native recipes.

        A step of verl's draws one batch of responses and makes ``updates`` optimizer steps.

        >>> recipe = {"backend": "verl", "batch_size": 8, "samples": 4, "lr": 1e-6, "processes": 1}
        >>> VerlRecipe(**recipe, steps=210, updates=4).implied()["steps"]
        840
        """
        return {
            "steps": None if self.steps is None else self.steps * self.updates,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "optimizer": "adamw",
            "mask_at": "post_clip",
        }


RECIPES: dict[str, type[AnyRecipe]] = {
    "native": Recipe,
    "open_instruct": OpenInstructRecipe,
    "verl": VerlRecipe,
}


class Architecture(Model):
    """A model with random weights, in the words of Qwen2Config."""

    hidden_size: Count = key("width of the model")
    num_hidden_layers: Count = key("layers")
    intermediate_size: Count = key("width of the MLP")
    num_attention_heads: Count = key("query heads")
    num_key_value_heads: Count = key("key and value heads", 1)
    initializer_range: Positive = key("standard deviation of the first weights", 0.02)
    tie_word_embeddings: bool = key("embedding and head share their weights", False)
    max_position_embeddings: Count = key("longest sequence, tokens", 128)

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # rotary embeddings turn pairs of a head's numbers
            found = f"{heads} in hidden_size {self.hidden_size}"
            raise unfit("num_attention_heads", "heads of an even whole size", found)
        if heads % groups:
            expected = f"a divisor of num_attention_heads {heads}"
            raise unfit("num_key_value_heads", expected, groups)
        return self


class Sampling(Model):
    """How answers are sampled; greedy decoding and log-likelihoods use the sizes only."""

    samples: Count = key("answers sampled per problem", 16)
    temperature: Positive = key("of the sampling", 1.0)
    batch_size: Count = key("sequences generated at once", 512)
    max_new_tokens: Count = key("longest answer, tokens", 12)
    seed: Whole = key("seed of the sampling", 777)
    sampler: SamplerName = key("what draws the answers, as in recipes", "own", omit=True)


R = TypeVar("R", bound=AnyRecipe, default=Recipe)


class Row(Model, Generic[R]):
    """Everything that one training run is told: its row of the sheet with the recipe spelled out.

    What the run computes follows from this and from its input files alone.
    """

    run: str = key("name of the run")
    algorithm: str = key("one of those that the trainer has")
    init: str = key("name of what it starts from")
    data: str = key("name of the data set")
    recipe: R = key("hyperparameters")
    seed: Whole = key("of the order of examples and, without init, of the first weights")
    mask: str = key("the pair whose mask limits the update, or empty", "")
    architecture: dict[str, Any] | None = key("of a model with random weights", None)
    wandb: dict[str, str] = key("mode and project", {"mode": "disabled"}, changes="nothing")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.algorithm not in self.recipe.learns_from:
            known = ", ".join(self.recipe.learns_from)
            raise unfit("algorithm", f"one of {known}", repr(self.algorithm))
        self.recipe.check_for(self.algorithm, bool(self.mask))
        return self

    @property
    def backend(self) -> str:
        return self.recipe.backend

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, for JSON, but for what its trainer's runs share."""
        values = self.model_dump(exclude={"recipe": {"backend"}})
        if self.backend == "native":
            return values
        del values["architecture"]
        return {"backend": self.backend, **values}

    def bits_follow_from(self) -> dict[str, Any]:
        """Return the row without what changes nothing: a killed run goes on if this is the same."""
        values = self.as_dict()
        for block, model in ((values, self), (values["recipe"], self.recipe)):
            for name, changes in model.marked("changes").items():
                if changes == "nothing":
                    del block[name]
        return values

    def provenance(self) -> dict[str, Any]:
        """Return what a result follows from: a run is repeated where this changes.

        Keys that have their default are left out, so that one more key repeats nothing.
        """
        shape = self.architecture and Architecture(**self.architecture).followed_from()
        return {
            **self.followed_from(),
            "recipe": self.recipe.followed_from(),
            "architecture": shape,
        }
