"""A results folder small enough to check by eye: two tensors, ten weights."""

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pandas as pd

from rlsubnet.columns import RESULTS_FILES, names
from rlsubnet.config import Pair, Run, Scale
from rlsubnet.config.model import Recipe
from rlsubnet.items import ITEMS

# The verdicts are not among the tables here: they read the others.
TABLES = [name for name, item in ITEMS.items() if not item.is_figure and name != "verdicts"]
FIGURES = [name for name, item in ITEMS.items() if item.is_figure]
Q, NORM = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight"
CASES = [(atol, rule) for atol in ("1e-05", "0.0001") for rule in ("official", "exact")]


def csv_of(kind: str, *rows: str) -> str:
    """Return a results file with these rows below its header."""
    return "\n".join([",".join(names(RESULTS_FILES[kind])), *rows]) + "\n"


def updates_csv(*q_unchanged: int, q_bitwise: int) -> str:
    """Return updates of an 8-weight matrix, in order of `CASES`, and a norm that never changes."""
    rows = []
    for (atol, rule), unchanged in zip(CASES, q_unchanged, strict=True):
        rows.append(f"{Q},0,q_proj,8,{atol},{rule},{unchanged},{q_bitwise},0.001,BF16,BF16")
        rows.append(f"{NORM},0,input_layernorm,2,{atol},{rule},2,0,0.0,BF16,BF16")
    return csv_of("updates", *rows)


# Of ten weights: 6 unchanged by the authors' rule (60 %), 5 by the exact one, 4 bit by bit.
DPO_UPDATES = updates_csv(4, 3, 6, 6, q_bitwise=6)
# 2 unchanged (20 %).
SFT_UPDATES = updates_csv(0, 0, 0, 0, q_bitwise=8)
# Full against sub: 9 of 10 the same at 1e-5, all at 1e-4.
SUB_UPDATES = updates_csv(7, 7, 8, 8, q_bitwise=2)
RANKS = csv_of(
    "ranks", f"{Q},0,q_proj,4,2,2,2,1.5,1.75,2", "lm_head.weight,,lm_head,4,8,3,4,2.5,2.25,4"
)
FROZEN = csv_of("frozen", f"{Q},8,4,0,4,3", f"{NORM},2,2,0,0,0")
METRICS = csv_of("metrics", *(f"{step},0.{8 - step},,,1.0,,0.001,64" for step in (1, 2, 3)))
SUB_METRICS = METRICS.replace("2,0.6", "2,0.4")
# Of 100 weights the runs updated 24 and 30, 18 in both; by chance 7.2, 12 and 15.
OVERLAP = csv_of(
    "overlap",
    "uniform,0.75,0.6,0.3,0.24,2.5,2.0,3.0",
    "per_tensor,0.75,0.6,0.5,0.4,1.5,1.25,1.75",
    "per_magnitude,0.75,0.6,0.625,0.5,1.2,,",
)
TRAJECTORY = csv_of("trajectory", "5,0.9,0.9,0.1,9,0,1", "10,0.8,0.7,0.0,7,1,2")
STEP_SCORES = csv_of(
    "step_scores",
    "0,arith_sampled,1,10,9,0.5,1.0,clustered,native,00",
    "0,arith_sampled,all,40,10,0.2,0.3,clustered,native,00",
    "0,arith_greedy,all,10,1,0.0,0.4,wilson,native,00",
    "5,arith_sampled,all,40,12,0.25,0.35,clustered,native,00",
    "5,arith_greedy,all,10,5,0.2,0.8,wilson,native,00",
    "10,arith_sampled,all,40,20,0.45,0.55,clustered,native,00",
    "10,arith_greedy,all,10,9,0.6,1.0,wilson,native,00",
)


def answers_csv(rows: list[tuple[str, str, str, int, int]]) -> str:
    """Return an answers file; a row is task, level, item, samples, correct."""
    return csv_of("answers", *(",".join(map(str, row)) for row in rows))


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


def with_rows(scale: Scale, *rows: Run | Pair) -> Scale:
    """Return a scale with these runs and pairs, too, or in place of those of the same name."""
    runs = {row.run: row for row in rows if isinstance(row, Run)}
    pairs = {row.pair: row for row in rows if isinstance(row, Pair)}
    return dataclasses.replace(scale, runs={**scale.runs, **runs}, pairs={**scale.pairs, **pairs})


def with_pairs(scale: Scale, **changes: dict[str, Any]) -> Scale:
    """Return a scale whose pairs of these names have other values."""
    pairs = [dataclasses.replace(scale.pairs[name], **new) for name, new in changes.items()]
    return with_rows(scale, *pairs)


def row_of(frame: pd.DataFrame, **values: str) -> dict:
    """Return the only row with these values."""
    chosen = frame
    for name, value in values.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1, f"{values}: {len(chosen)} rows"
    return chosen.iloc[0].to_dict()
