"""Which trainers there are, and what a row may ask of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlsubnet.config.decay import check_decay
from rlsubnet.config.tables import Row
from rlsubnet.config.verl import check_verl, implied_by_verl

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
    _check_saved_steps(recipe, algorithm)
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


def _check_saved_steps(recipe: Mapping[str, Any], algorithm: str) -> None:
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
