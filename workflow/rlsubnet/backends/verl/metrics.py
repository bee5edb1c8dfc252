"""What verl logs of every step, as rows of the metrics."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rlsubnet.files import read_jsonl, replacing
from rlsubnet.training.runlog import ONLINE_METRICS, metrics_row

# column -> what verl or this project's workers call it.
NAMES = {
    "grad_norm": "actor/grad_norm",
    "grad_norm_masked": "rlsubnet/grad_norm_masked",
    "lr": "actor/lr",
    "entropy": "actor/entropy",
}


def step_metrics(
    step: int, logged: Mapping[str, float], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of the metrics of one step: one batch of responses.

    The loss is ``surrogate + kl_coef * kl - entropy_coef * entropy``, what is minimized; it and the
    norms are means over the step's updates. The share of right responses and their length are
    means over all responses drawn; for PRIME, which learns from a part of them, its trainer logs
    both. ``rlsubnet/...`` are this project's own: verl divides its own loss by the number of
    micro-batches twice.

    Args:
        step: counted from 1.
        logged: by verl.
        recipe: of the run: coefficients and the number of responses.

    Raises:
        ValueError: there is no loss.

    >>> logged = {"rlsubnet/surrogate": -0.25, "actor/entropy": 0.5, "critic/score/mean": 0.75,
    ...           "response_length/mean": 7.5, "actor/lr": 5e-07, "actor/grad_norm": 2.0}
    >>> recipe = {"kl_coef": 0.0, "entropy_coef": 0.001, "batch_size": 2, "samples": 4}
    >>> row = step_metrics(1, logged, recipe)
    >>> row["loss"], row["reward"], row["kl"], row["tokens"], row["response_length"]
    (-0.2505, 0.75, '', 60, 7.5)
    """
    if "rlsubnet/surrogate" not in logged:
        raise ValueError(f"verl logged no loss of step {step}")
    kl = logged.get("rlsubnet/kl")
    loss = logged["rlsubnet/surrogate"] + recipe["kl_coef"] * (kl or 0.0)
    loss -= recipe["entropy_coef"] * logged.get("actor/entropy", 0.0)
    length = logged.get("response_length/mean")
    return metrics_row(
        ONLINE_METRICS,
        step=step,
        loss=loss,
        kl=kl,
        reward=logged.get("prime/reward", logged.get("critic/score/mean")),
        response_length=logged.get("prime/response_length", length),
        tokens=None if length is None else round(length * recipe["batch_size"] * recipe["samples"]),
        **{column: logged.get(name) for column, name in NAMES.items()},
    )


def logged_steps(log: Path) -> int:
    """Return the number of steps in the log; a line that was cut off is none."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def keep_steps(log: Path, count: int) -> None:
    """Cut the log after its first ``count`` steps."""
    with log.open("rb") as stream, replacing(log) as temporary:
        temporary.write_bytes(b"".join(islice(stream, count)))


def read_metrics(log: Path, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of a whole run.

    Args:
        log: what verl's logger ``file`` wrote, one line ``{"step", "data"}`` a step.
        recipe: of the run.

    Raises:
        ValueError: a step is missing, or there are other ones than the recipe asks for.
    """
    lines = read_jsonl(log)
    steps = [line["step"] for line in lines]
    expected = len(steps) if recipe["steps"] is None else recipe["steps"]
    if not steps or steps != list(range(1, expected + 1)):
        raise ValueError(
            f"{log}: expected steps 1 to {expected}, found {len(steps)}, the last {steps[-1:]}"
        )
    return [step_metrics(line["step"], line["data"], recipe) for line in lines]
