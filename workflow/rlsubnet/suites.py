"""What models are evaluated on: olmes's tasks and the made-up ones, and what of the paper they are.

Sheets, evaluation and tables read this; nothing is imported.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MadeUpChoice:
    """A choice task of `rlsubnet.tasks.made_up`: how many choices, which task of Table 3(a)."""

    choices: int
    stands_for: str

    @property
    def chance(self) -> float:
        return 1 / self.choices


# In the order of the paper's table.
MADE_UP_CHOICES = {
    "worked_chain": MadeUpChoice(5, "LSAT-AR"),
    "last_step": MadeUpChoice(5, "LSAT-LR"),
    "first_step": MadeUpChoice(4, "LogiQA-en"),
    "long_total": MadeUpChoice(4, "GPQA"),
    "short_total": MadeUpChoice(5, "MMLU-Pro-Math"),
}

# olmes at commit 4f04122 (May 2025).

# Longest answers of PRIME's training; with prompts of up to 1,024 tokens they fill the 4,096 of
# Qwen2.5-Math.
ANSWER_TOKENS = 3072
MATH500_LEVELS = {"1": 43, "2": 90, "3": 105, "4": 128, "5": 134}


@dataclass(frozen=True)
class OlmesTask:
    """One task of olmes and what is counted of it.

    Attributes:
        name: its name in scores and answers.
        olmes: the name of its configuration in olmes.
        items: number of items that count.
        asked: number of items that olmes asks, where it asks more than count.
        metric: the metric of olmes that says whether an item is right, 1 or 0.
        levels: difficulty level -> number of items, where the data have levels.
        year: only items of this year count.
        paper: the task's name in Table 3.
        chance: share right when choices are drawn at random; None where their number varies.
        overrides: keys of olmes's task configuration that are set otherwise.
    """

    name: str
    olmes: str
    items: int
    asked: int = 0
    metric: str = "exact_match"
    levels: Mapping[str, int] = field(default_factory=dict)
    year: str = ""
    paper: str = ""
    chance: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.asked or self.items

    @property
    def argument(self) -> str:
        """Return what ``olmes --task`` is given: the name, or JSON with the overrides.

        >>> OlmesTask("table3a_gpqa", "gpqa:0shot_cot::tulu3", 448).argument
        'gpqa:0shot_cot::tulu3'
        """
        if not self.overrides:
            return self.olmes
        # olmes calls a task by its configuration's name only when that name is all it is given.
        alias = {"metadata": {"alias": self.olmes}}
        return json.dumps({"task_name": self.olmes, **self.overrides, **alias}, sort_keys=True)


@dataclass(frozen=True)
class OlmesSuite:
    """Tasks that are evaluated and printed together."""

    tasks: tuple[OlmesTask, ...]
    kind: str = "problems"
    decoding: str = "greedy"


def _boxed(name: str, olmes: str, **rest: Any) -> OlmesTask:
    """Return a mathematical task that asks for a boxed answer.

    The task's own metric, ``exact_match``, knows an answer only behind Minerva's words "Final
    Answer: The final answer is", which these prompts do not ask for: it would be near 0.
    ``exact_match_flex`` also reads the box.
    """
    # `chat_overrides` win over the rest; its default, 131,072 tokens, would make the longest answer
    # depend on the longest prompt of a batch.
    longest = {"generation_kwargs": {"max_gen_toks": ANSWER_TOKENS}}
    metric = "exact_match_flex"
    overrides = {"primary_metric": metric, "chat_overrides": longest, **longest}
    return OlmesTask(name, olmes, metric=metric, overrides=overrides, **rest)


def _choices(name: str, olmes: str, items: int, paper: str, chance: float | None) -> OlmesTask:
    task = f"table3a_{name}"
    return OlmesTask(task, f"{olmes}:0shot_cot::tulu3", items, paper=paper, chance=chance)


OLMES_SUITES: Mapping[str, OlmesSuite] = {
    # The five tasks of Table 3(a) as Tulu 3's own report asks them (olmes's `tulu_3_unseen`): no
    # examples, a chain of thought of up to 2,048 tokens, then a letter. That the authors used these
    # variants is inferred; olmes has others, such as `agi_eval_lsat-ar::olmes`.
    "table3a": OlmesSuite(
        (
            _choices("lsat_ar", "agi_eval_lsat-ar", 230, "AGIEval LSAT-AR", 0.2),
            _choices("lsat_lr", "agi_eval_lsat-lr", 510, "AGIEval LSAT-LR", 0.2),
            _choices("logiqa_en", "agi_eval_logiqa-en", 651, "AGIEval LogiQA-en", 0.25),
            _choices("gpqa", "gpqa", 448, "GPQA", 0.25),  # gpqa_main
            _choices("mmlu_pro_math", "mmlu_pro_math", 1351, "MMLU Pro Math", None),
        ),
        kind="choices",
    ),
    # Table 3(b), Figure 7(a). The paper names olmes for DPO only, and no prompt for PRIME. Default:
    # no examples and a boxed answer, as PRIME's training asks. The two below ask for forms that the
    # model was not trained on.
    "math500": OlmesSuite(
        (_boxed("math500", "minerva_math_500::zs_cot", items=500, levels=MATH500_LEVELS),)
    ),
    # Tulu 3's: four worked examples that end in Minerva's words, up to 1,024 tokens.
    "math500-fewshot": OlmesSuite(
        (OlmesTask("math500-fewshot", "minerva_math_500::tulu", 500, levels=MATH500_LEVELS),)
    ),
    # For models that think first: the answer starts with <think> and is sampled.
    "math500-r1": OlmesSuite(
        (_boxed("math500-r1", "minerva_math_500::zs_cot_r1", items=500, levels=MATH500_LEVELS),),
        decoding="sampled once at 0.6",
    ),
    # Figure 7(a). At this commit the task holds the 90 problems of 2022 to 2024.
    "aime2024": OlmesSuite((_boxed("aime2024", "aime::zs_cot", items=30, asked=90, year="2024"),)),
}


def tasks_of(suites: Sequence[str]) -> tuple[OlmesTask, ...]:
    """Return the tasks of several suites, in order.

    >>> [task.name for task in tasks_of(["math500", "aime2024"])]
    ['math500', 'aime2024']
    """
    for name in suites:
        if name not in OLMES_SUITES:
            raise ValueError(f"unknown suite {name!r}; known: {', '.join(OLMES_SUITES)}")
    return tuple(task for name in suites for task in OLMES_SUITES[name].tasks)
