"""A results folder small enough to check by eye: two tensors, ten weights."""

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pandas as pd

from rlsubnet.columns import Answer, ScoreRow, UpdateRow, names
from rlsubnet.config import Pair, Run, Scale
from rlsubnet.config.model import Recipe
from rlsubnet.items import ITEMS

# The verdicts are not among the tables here: they read the others.
TABLES = [name for name, item in ITEMS.items() if not item.is_figure and name != "verdicts"]
FIGURES = [name for name, item in ITEMS.items() if item.is_figure]
UPDATES_HEADER, SCORES_HEADER, ANSWERS_HEADER = (
    ",".join(names(row)) + "\n" for row in (UpdateRow, ScoreRow, Answer)
)
Q, NORM = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight"


def updates_csv(q_unchanged: dict[tuple[str, str], int], q_bitwise: int) -> str:
    """Return updates of an 8-weight matrix and a 2-weight norm that never changes."""
    lines = []
    for (atol, rule), unchanged in q_unchanged.items():
        lines.append(f"{Q},0,q_proj,8,{atol},{rule},{unchanged},{q_bitwise},0.001,BF16,BF16")
        lines.append(f"{NORM},0,input_layernorm,2,{atol},{rule},2,0,0.0,BF16,BF16")
    return UPDATES_HEADER + "\n".join(lines) + "\n"


# Of ten weights: 6 unchanged by the authors' rule (60 %), 5 by the exact one, 4 bit by bit.
DPO_UPDATES = updates_csv(
    {
        ("1e-05", "official"): 4,
        ("1e-05", "exact"): 3,
        ("0.0001", "official"): 6,
        ("0.0001", "exact"): 6,
    },
    q_bitwise=6,
)
# 2 unchanged (20 %).
SFT_UPDATES = updates_csv(
    {
        ("1e-05", "official"): 0,
        ("1e-05", "exact"): 0,
        ("0.0001", "official"): 0,
        ("0.0001", "exact"): 0,
    },
    q_bitwise=8,
)
# Full against sub: 9 of 10 the same at 1e-5, all at 1e-4.
SUB_UPDATES = updates_csv(
    {
        ("1e-05", "official"): 7,
        ("1e-05", "exact"): 7,
        ("0.0001", "official"): 8,
        ("0.0001", "exact"): 8,
    },
    q_bitwise=2,
)
RANKS = (
    "tensor,layer,matrix,rows,cols,rank,max_rank,stable_rank,effective_rank,"
    "rank_of_random_control\n"
    f"{Q},0,q_proj,4,2,2,2,1.5,1.75,2\n"
    "lm_head.weight,,lm_head,4,8,3,4,2.5,2.25,4\n"
)
FROZEN = (
    "tensor,numel,frozen,frozen_changed,subnetwork,subnetwork_changed\n"
    f"{Q},8,4,0,4,3\n"
    f"{NORM},2,2,0,0,0\n"
)
METRICS = (
    "step,loss,reward,kl,grad_norm,grad_norm_masked,lr,tokens\n"
    "1,0.7,,,1.0,,0.001,64\n2,0.6,,,1.0,,0.001,64\n3,0.5,,,1.0,,0.001,64\n"
)
SUB_METRICS = METRICS.replace("2,0.6", "2,0.4")
# Of 100 weights the runs updated 24 and 30, 18 in both; by chance 7.2, 12 and 15.
OVERLAP = (
    "null,o1,o2,o1_null,o2_null,lift,ci_low,ci_high\n"
    "uniform,0.75,0.6,0.3,0.24,2.5,2.0,3.0\n"
    "per_tensor,0.75,0.6,0.5,0.4,1.5,1.25,1.75\n"
    "per_magnitude,0.75,0.6,0.625,0.5,1.2,,\n"
)
TRAJECTORY = (
    "step,sparsity,step_sparsity,updated_outside_final,never,cancelled,subnetwork\n"
    "5,0.9,0.9,0.1,9,0,1\n10,0.8,0.7,0.0,7,1,2\n"
)
STEP_SCORES = (
    "step,task,level,n,correct,ci_low,ci_high,interval,backend,data_sha256\n"
    "0,arith_sampled,1,10,9,0.5,1.0,clustered,native,00\n"
    "0,arith_sampled,all,40,10,0.2,0.3,clustered,native,00\n"
    "0,arith_greedy,all,10,1,0.0,0.4,wilson,native,00\n"
    "5,arith_sampled,all,40,12,0.25,0.35,clustered,native,00\n"
    "5,arith_greedy,all,10,5,0.2,0.8,wilson,native,00\n"
    "10,arith_sampled,all,40,20,0.45,0.55,clustered,native,00\n"
    "10,arith_greedy,all,10,9,0.6,1.0,wilson,native,00\n"
)


def answers_csv(rows: list[tuple[str, str, str, int, int]]) -> str:
    """Return an answers file; a row is task, level, item, samples, correct."""
    return ANSWERS_HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows)


def write_results(folder: Path, files: dict[str, str]) -> Path:
    """Write results files below `folder`; a name that ends in .gz is compressed."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return folder


def make_run(run: str, mask: str = "", label: str = "", **more: Any) -> Run:
    """Return a DPO run of seed 42 from `sft`, or one that differs in what `more` names."""
    row = Run(run, "dpo", "sft", "preferences", "rl", 42, mask, "", label)
    return dataclasses.replace(row, **more)


def make_recipe(**keys: Any) -> dict[str, Any]:
    """Return a recipe of 10 steps at a constant 1e-3 but for `keys`, with the defaults filled."""
    recipe = {"backend": "native", "steps": 10, "batch_size": 4, "lr": 1e-3}
    recipe |= {"schedule": "constant", "warmup_ratio": 0.0}
    return Recipe(**recipe | keys).model_dump()


def make_pair(pair: str, init: str, tuned: str, method: str, items: str, model: str = "") -> Pair:
    listed = tuple(item for item in items.split(",") if item)
    return Pair(pair, init, tuned, method, listed, model, (), f"label of {pair}")


def with_pairs(scale: Scale, **changes: dict[str, Any]) -> Scale:
    """Return a scale whose pairs of these names have other values."""
    pairs = {name: dataclasses.replace(scale.pairs[name], **new) for name, new in changes.items()}
    return dataclasses.replace(scale, pairs={**scale.pairs, **pairs})


def row_of(frame: pd.DataFrame, **values: str) -> dict:
    """Return the only row with these values."""
    chosen = frame
    for name, value in values.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1, f"{values}: {len(chosen)} rows"
    return chosen.iloc[0].to_dict()
