"""What tables say of a suite, whichever program asked it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlsubnet.backends.olmes.suites import SUITES
from rlsubnet.config import suite_kind
from rlsubnet.config.scale import PROBLEM_KINDS
from rlsubnet.tasks.choices import CHOICE_TASKS

LIKELIHOOD = "log-likelihood"


@dataclass(frozen=True)
class Asked:
    """How a suite was asked and what of the paper it stands for.

    Attributes:
        kind: problems, choices, preferences or demonstration_pairs.
        decoding: how items were answered, in print; empty where the number of samples tells.
        chances: share right by chance, by task name without the suite's.
        stands_for: the task of Table 3(a), by task name without the suite's.
        math500: whether its levels stand beside those of Table 3(b).
    """

    kind: str
    decoding: str = ""
    chances: Mapping[str, float] = field(default_factory=dict)
    stands_for: Mapping[str, str] = field(default_factory=dict)
    math500: bool = False

    def decoded(self, samples: int) -> str:
        """Return how items with so many samples were answered, in print."""
        return self.decoding or decoding_of(samples)


def decoding_of(samples: int) -> str:
    """Return how a problem was answered, in print.

    >>> decoding_of(1), decoding_of(32)
    ('greedy', 'sampled, 32 an item')
    """
    return "greedy" if samples == 1 else f"sampled, {samples} an item"


def asked(config: Mapping[str, Any], suite: str) -> Asked:
    """Return what tables say of a suite that ``evaluation.suites`` names.

    >>> olmes = {"evaluation": {"backend": "olmes"}}
    >>> asked(olmes, "table3a").stands_for["lsat_ar"], asked(olmes, "aime2024").math500
    ('AGIEval LSAT-AR', False)
    """
    kind = suite_kind(config, suite)
    if config["evaluation"]["backend"] == "olmes":
        tasks = {task.name.removeprefix(f"{suite}_"): task for task in SUITES[suite].tasks}
        return Asked(
            kind,
            SUITES[suite].decoding,
            {name: task.chance for name, task in tasks.items() if task.chance is not None},
            {name: task.paper for name, task in tasks.items() if task.paper},
            math500=any(task.levels for task in tasks.values()),
        )
    if kind in PROBLEM_KINDS:
        return Asked("problems", math500=kind == "problems")
    made = CHOICE_TASKS if kind == "choices" else {}
    return Asked(
        kind,
        LIKELIHOOD,
        {name: task.chance for name, task in made.items()},
        {name: task.stands_for for name, task in made.items()},
    )
