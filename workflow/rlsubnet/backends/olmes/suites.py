"""How olmes is asked: suites, commit, template, lengths."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rlsubnet.suites import OlmesTask, tasks_of

COMMIT = "4f04122642bcee6d74393ec2ecfb0e572a64da53"
# Templates that olmes brings itself; without one the model's own is used.
CHAT_TEMPLATES = ("tulu", "olmo", "llama2", "xwin", "zephyr")


@dataclass(frozen=True)
class Settings:
    """Settings of one evaluation.

    Attributes:
        suites: names of :data:`rlsubnet.suites.OLMES_SUITES`.
        commit: commit of the olmes checkout; None asks nothing of it.
        chat_template: one of olmes's own templates; None takes the model's.
        max_length: longest prompt and answer together, in tokens.
        limit: items asked of each task, drawn with a fixed seed; None asks all.
    """

    suites: tuple[str, ...]
    commit: str | None = COMMIT
    chat_template: str | None = None
    max_length: int = 4096
    limit: int | None = None

    def __post_init__(self) -> None:
        tasks_of(self.suites)
        if not self.suites:
            raise ValueError("olmes settings, key suites: expected at least one suite")
        if self.chat_template not in (None, *CHAT_TEMPLATES):
            raise ValueError(
                f"olmes settings, key chat_template: expected null or one of "
                f"{', '.join(CHAT_TEMPLATES)}, found {self.chat_template!r}"
            )
        if self.max_length < 1:
            raise ValueError(f"olmes settings, key max_length: found {self.max_length}")
        if self.limit is not None and self.limit < 2:
            # olmes takes a limit of 1 for the whole: 100 per cent.
            raise ValueError(f"olmes settings, key limit: expected 2 or more, found {self.limit}")

    @property
    def tasks(self) -> tuple[OlmesTask, ...]:
        """Return the tasks of all suites."""
        return tasks_of(self.suites)


def read_settings(block: Mapping[str, Any]) -> Settings:
    """Return the settings in ``block``: ``suites`` and the keys of ``evaluation.olmes``.

    Raises:
        ValueError: a key is missing, unknown, of the wrong type or out of range.

    >>> read_settings({"suites": ["table3a"], "limit": 20}).limit
    20
    """
    known = [one.name for one in fields(Settings)]
    unknown = sorted(set(block) - set(known))
    if unknown or "suites" not in block:
        raise ValueError(f"olmes settings: expected suites and keys of {known}, found {unknown}")
    for key, kinds in (("max_length", int), ("limit", int | None)):
        value = block.get(key, 1 if key == "max_length" else None)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"olmes settings, key {key}: expected a whole number, found {value!r}")
    return Settings(**{**block, "suites": tuple(block["suites"])})
