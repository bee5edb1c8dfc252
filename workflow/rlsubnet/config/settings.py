"""How models are evaluated: the config's ``evaluation`` block."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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
