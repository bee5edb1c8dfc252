"""How olmes is asked: suites, commit, template, lengths."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from rlsubnet.config.errors import checked, key_at
from rlsubnet.config.schema import Olmes
from rlsubnet.suites import OlmesTask, tasks_of


class Settings(Olmes):
    """Settings of one evaluation: those of the config, and the suites that are asked."""

    suites: tuple[str, ...]

    @model_validator(mode="after")
    def _knows_its_suites(self) -> Self:
        if not tasks_of(self.suites):
            raise ValueError("suites: expected at least one suite")
        return self

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
    values = {**block, "suites": tuple(block.get("suites", ()))}
    return checked(Settings, values, lambda path: f"olmes settings, {key_at(path)}")
