"""The columns of every CSV file below `results/{scale}/`: one dataclass a kind of file.

Who writes a file takes its header from here, who reads it takes types and limits as well. Expensive
work ends in these files; tables, figures and verdicts read nothing else. A cell of a number is
empty where it is not defined.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

# A file holds one row for each combination of its keys.
KEY = "key"
RATIO = "ratio in [0, 1]"


@dataclass(frozen=True)
class PartOf:
    """Marks a count that may not exceed another column's."""

    whole: str


@dataclass(frozen=True)
class UpdateRow:
    """`updates/{pair}.csv`: what finetuning left of a tensor, by one rule at one tolerance."""

    tensor: Annotated[str, KEY]
    layer: int | None
    matrix: str
    numel: int
    atol: Annotated[float, KEY]
    rule: Annotated[Literal["official", "exact"], KEY]
    unchanged: Annotated[int, PartOf("numel")]
    bitwise_changed: Annotated[int, PartOf("numel")]
    max_abs_diff: float
    dtype_init: str
    dtype_tuned: str


@dataclass(frozen=True)
class RankRow:
    """`ranks/{pair}.csv`: rank of a matrix's update, and of its changes at random positions."""

    tensor: Annotated[str, KEY]
    layer: int | None
    matrix: str
    rows: int
    cols: int
    rank: Annotated[int, PartOf("max_rank")]
    max_rank: int
    stable_rank: float
    effective_rank: float
    rank_of_random_control: Annotated[int, PartOf("max_rank")]


@dataclass(frozen=True)
class OverlapRow:
    """`overlap/{comparison}.csv`: two subnetworks beside one null, see `measure.overlap.NULLS`."""

    null: Annotated[str, KEY]
    o1: Annotated[float, RATIO]
    o2: Annotated[float, RATIO]
    o1_null: Annotated[float, RATIO]
    o2_null: Annotated[float, RATIO]
    lift: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class FrozenRow:
    """`frozen/{run}.csv`: what a masked run did outside and inside its mask."""

    tensor: Annotated[str, KEY]
    numel: int
    frozen: int
    frozen_changed: Annotated[int, PartOf("frozen")]
    subnetwork: int
    subnetwork_changed: Annotated[int, PartOf("subnetwork")]


@dataclass(frozen=True)
class MetricsRow:
    """`metrics/{run}.csv`: one optimizer step, counted from 1.

    Attributes:
        step: counted from 1.
        loss: mean over the batch's tokens (pretrain, sft, rft) or pairs (the others).
        reward: mean margin r(chosen) - r(rejected): of the implicit reward (dpo, dpo_norm, kto), of
            beta times the mean log-probability (simpo), or of log odds (orpo); grpo, raft, ppo,
            prime: share of right responses among those drawn.
        kl: grpo, raft, ppo, prime: k3 estimate of the divergence from the start, nats per token;
            kto: its reference point z_0, a biased estimate of the same.
        grad_norm: of the whole gradient, before clipping and mask.
        grad_norm_masked: of its part inside the mask, before clipping; empty without a mask.
        lr: learning rate of the step.
        tokens: response tokens in the batch (pretraining: all but the start tokens).
    """

    step: Annotated[int, KEY]
    loss: float
    reward: float
    kl: float
    grad_norm: float
    grad_norm_masked: float
    lr: float
    tokens: float


@dataclass(frozen=True)
class OnlineMetricsRow(MetricsRow):
    """`metrics/{run}.csv` of an online algorithm.

    Attributes:
        entropy: of the policy's next token, nats, mean over the batch's response tokens.
        response_length: tokens, mean over the responses drawn.
    """

    entropy: float
    response_length: float


@dataclass(frozen=True)
class ScoreRow:
    """`scores/{run}.csv`: right responses of a model to one level of a task, or to `all`."""

    task: Annotated[str, KEY]
    level: Annotated[str, KEY]
    n: int
    correct: Annotated[int, PartOf("n")]
    ci_low: float
    ci_high: float
    interval: str
    backend: str
    data_sha256: str


@dataclass(frozen=True)
class _Step:
    step: Annotated[int, KEY]


@dataclass(frozen=True)
class StepScoreRow(ScoreRow, _Step):
    """`step_scores/{run}.csv`: the same of each saved step, its number first; 0 is the start."""


@dataclass(frozen=True)
class Answer:
    """`answers/{run}.csv.gz`: how one item was answered; ``correct`` of ``samples`` are right."""

    task: Annotated[str, KEY]
    level: str
    item_id: Annotated[str, KEY]
    samples: int
    correct: Annotated[int, PartOf("samples")]


@dataclass(frozen=True)
class TrajectoryRow:
    """`trajectory/{run}.csv`: the weights at one saved step, compared bit by bit.

    Attributes:
        step: optimizer steps done.
        sparsity: share unchanged since the start.
        step_sparsity: share unchanged since the saved step before.
        updated_outside_final: share changed since the start and outside the final subnetwork.
        never: weights that no saved step up to here found changed.
        cancelled: weights that an earlier one found changed and this one does not.
        subnetwork: weights changed since the start.
    """

    step: Annotated[int, KEY]
    sparsity: Annotated[float, RATIO]
    step_sparsity: Annotated[float, RATIO]
    updated_outside_final: Annotated[float, RATIO]
    never: int
    cancelled: int
    subnetwork: int


@dataclass(frozen=True)
class MachineRow:
    """`machines.csv`: where a run was made, and by which versions."""

    run: str
    device: str
    arithmetic: str
    threads: str
    python: str
    rlsubnet: str
    torch: str
    transformers: str
    numpy: str
    git_commit: str


# Folder below results/ -> what a row of its files holds.
RESULTS_FILES: dict[str, type[Any]] = {
    "updates": UpdateRow,
    "ranks": RankRow,
    "overlap": OverlapRow,
    "frozen": FrozenRow,
    "metrics": MetricsRow,
    "scores": ScoreRow,
    "answers": Answer,
    "trajectory": TrajectoryRow,
    "step_scores": StepScoreRow,
}


def names(row: type[Any]) -> tuple[str, ...]:
    """Return the header of a file.

    >>> names(Answer)
    ('task', 'level', 'item_id', 'samples', 'correct')
    """
    return tuple(field.name for field in fields(row))


def results_file(kind: str, name: str) -> str:
    """Return the path of a file below the results folder.

    >>> results_file("updates", "dpo"), results_file("answers", "dpo")
    ('updates/dpo.csv', 'answers/dpo.csv.gz')
    """
    return f"{kind}/{name}.csv{'.gz' if kind == 'answers' else ''}"
