"""The demo's own data sets: what of its test problems stands in its training texts."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rlsubnet.config import load_config
from rlsubnet.evaluation.policy_data import build


def calculation(text: str) -> str:
    """Return a prompt or a chain without its idle steps: what is to be computed."""
    # Written again here: the splits' own function must not judge itself.
    return re.sub(r"\+0", "", text.strip("()="))


@pytest.fixture(scope="module")
def sets(repository: Path) -> dict[str, list[dict]]:
    specs = load_config([repository / "config" / "demo" / "config.yaml"])["data"]
    return {name: build(name, specs[name])[0] for name in ("base_text", "sft_train", "arith500")}


def shared_by_level(problems: list[dict], calculations: set[str]) -> list[int]:
    """Return how many problems of levels 1 to 5 have their calculation among these."""
    known = Counter(
        problem["level"] for problem in problems if calculation(problem["prompt"]) in calculations
    )
    return [known[level] for level in range(1, 6)]


def test_no_test_prompt_stands_in_a_training_text(sets):
    trained = {record["prompt"] for record in sets["sft_train"]}
    texts = "\n".join(record["text"] for record in sets["base_text"])
    for problem in sets["arith500"]:
        assert problem["prompt"] not in trained
        assert problem["prompt"].rstrip("=") not in texts


def test_no_test_calculation_stands_in_the_sft_data(sets):
    trained = {calculation(record["prompt"]) for record in sets["sft_train"]}
    assert shared_by_level(sets["arith500"], trained) == [0, 0, 0, 0, 0]


def test_base_text_teaches_every_single_step_and_no_other_test_calculation(sets):
    texts = "\n".join(record["text"] for record in sets["base_text"])
    facts = set(re.findall(r"(\d\d[-+*]\d)=\d\d;", texts))
    assert len(facts) == 2700  # 100 starts, 3 operations, operands 0 and 2 to 9
    chains = {calculation(chain) for chain in re.findall(r"(\(\d\d(?:[-+*]\d)+\))\d+;", texts)}
    assert shared_by_level(sets["arith500"], facts) == [43, 0, 0, 0, 0]
    assert shared_by_level(sets["arith500"], chains) == [0, 0, 0, 0, 0]
