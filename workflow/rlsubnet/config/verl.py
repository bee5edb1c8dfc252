"""What recipes for the trainer verl must hold beside their schema."""

from collections.abc import Mapping
from typing import Any

from rlsubnet.config.decay import check_decay

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
