"""config/README.md explains every key of every recipe, with the default that the schema gives."""

import re
from typing import Any

import pytest
import yaml

from rlsubnet.config.model import load_schema

# Heading of a table -> where the schema describes its keys.
RECIPES = {"native": "recipe", "open_instruct": "open_instruct_recipe", "verl": "verl_recipe"}
REQUIRED = object()


def documented(text: str, backend: str) -> dict[str, Any]:
    """Return the defaults of a recipe's keys, as the tables below a backend's heading say.

    One row may explain several keys; they have as many defaults, or one that all of them share.
    """
    section = text.split(f"**`backend: {backend}`**")[1]
    section = re.split(r"\n(?:\*\*`backend|### )", section)[0]
    found: dict[str, Any] = {}
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        _, names, _, said, *_ = re.split(r"(?<!\\)\|", line)
        keys = re.findall(r"`([^`]+)`", names)
        values = [yaml.safe_load(value) for value in re.findall(r"`([^`]+)`", said)]
        if said.strip() == "required":
            values = [REQUIRED]
        assert len(values) in (1, len(keys)), line
        found |= dict(zip(keys, values * (len(keys) // len(values)), strict=True))
    return found


@pytest.mark.parametrize("backend", RECIPES)
def test_every_key_of_a_recipe_is_explained_with_its_default(repository, backend):
    schema = load_schema("config")["$defs"][RECIPES[backend]]
    defaults = {
        key: REQUIRED if key in schema["required"] else spec["default"]
        for key, spec in schema["properties"].items()
        if key != "backend"
    }
    text = (repository / "config" / "README.md").read_text(encoding="utf-8")
    assert documented(text, backend) == defaults
