"""The config's data sets, checked against runs and against what asks for them."""

from collections.abc import Mapping
from typing import Any

from rlsubnet.config.backends import ITEM_KIND, MIXTURE, PAIR_KINDS, PROBLEM_KINDS
from rlsubnet.config.faults import SheetError, unknown_name
from rlsubnet.config.suites import OLMES_SUITES, suite_kind
from rlsubnet.config.tables import Row

SUITE_KINDS = (*PROBLEM_KINDS, "choices", *PAIR_KINDS)


def check_data(config: Mapping[str, Any], runs: Mapping[str, Row]) -> None:
    """Raise unless the data sets' policies and parts exist and fit."""
    sources = [name for name, model in config["models"].items() if "source" in model]
    for name, spec in config["data"].items():
        policy = spec.get("policy")
        if policy is not None and policy not in {*runs, *sources}:
            problem = unknown_name("run or model", policy, [*sources, *runs])
            raise SheetError(f"scale {config['scale']}, key data.{name}.policy: {problem}")
        if spec["kind"] == MIXTURE:
            _check_parts(config, name)


def _check_parts(config: Mapping[str, Any], name: str) -> None:
    """Raise unless the parts of a mixture are data sets of one kind, and that is no mixture."""
    place = f"scale {config['scale']}, key data.{name}.parts"
    kinds = []
    for part in config["data"][name]["parts"]:
        if part not in config["data"]:
            raise SheetError(f"{place}: {unknown_name('data set', part, config['data'])}")
        kinds.append(config["data"][part]["kind"])
    if MIXTURE in kinds or len(set(kinds)) > 1:
        raise SheetError(f"{place}: expected data sets of one kind, found {', '.join(kinds)}")


def check_suites(config: Mapping[str, Any]) -> None:
    """Raise unless runs can be evaluated on the suites named."""
    suites, olmes = config["evaluation"], config["evaluation"]["backend"] == "olmes"
    for key, kinds in (("suites", SUITE_KINDS), ("step_suites", PROBLEM_KINDS)):
        place = f"scale {config['scale']}, key evaluation.{key}"
        known = OLMES_SUITES if olmes else config["data"]
        for name in suites[key]:
            if name not in known:
                what = "suite of olmes" if olmes else "data set"
                raise SheetError(f"{place}: {unknown_name(what, name, known)}")
            kind = suite_kind(config, name)
            if kind not in kinds:
                raise SheetError(
                    f"{place}: {name!r} is of kind {kind}, expected {' or '.join(kinds)}"
                )


def check_contamination(config: Mapping[str, Any]) -> None:
    """Raise unless what is looked for in training prompts are evaluation items."""
    for name in config["contamination"]["items"]:
        place = f"scale {config['scale']}, key contamination.items"
        if name not in config["data"]:
            raise SheetError(f"{place}: {unknown_name('data set', name, config['data'])}")
        kind = config["data"][name]["kind"]
        if kind != ITEM_KIND:
            raise SheetError(f"{place}: {name!r} is of kind {kind}, expected {ITEM_KIND}")
