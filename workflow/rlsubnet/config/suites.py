"""What kind of questions a suite asks, whichever program asks them."""

from collections.abc import Mapping
from typing import Any

# Suites of backend olmes; what is in them stands in `rlsubnet.backends.olmes.suites`.
OLMES_SUITES = {
    "table3a": "choices",
    "math500": "problems",
    "math500-fewshot": "problems",
    "math500-r1": "problems",
    "aime2024": "problems",
}


def suite_kind(config: Mapping[str, Any], suite: str) -> str:
    """Return the kind of a suite that ``evaluation.suites`` names: problems, choices and so on.

    >>> suite_kind({"evaluation": {"backend": "olmes"}}, "table3a")
    'choices'
    """
    if config["evaluation"]["backend"] == "olmes":
        return OLMES_SUITES[suite]
    kind: str = config["data"][suite]["kind"]
    return kind
