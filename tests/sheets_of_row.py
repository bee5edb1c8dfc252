"""A scale of one run, for a test that trains it by command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlsubnet.config import load_config, load_scale
from rlsubnet.config.model import Row

PLAIN = {"split": "train", "seed": 1}
DATA = {
    "pretrain": {"kind": "base_text", "documents": 8, "characters": 32, "seed": 1},
    "sft": {"kind": "demonstrations", "style": "worked", "problems": 8, **PLAIN},
    "pairs": {"kind": "demonstration_pairs", "style": "worked", "problems": 8, **PLAIN},
    "problems": {"kind": "problems", "per_level": [1, 1, 1, 1, 1], **PLAIN},
    "open_instruct": {"kind": "tulu_preferences", "source": "hf:a/b"},
    "verl": {"kind": "graded_prompts", "source": "hf:a/b", "grader": "gsm8k"},
}
ONLINE = ("grpo", "raft", "ppo", "prime")


def write_config(folder: Path, **blocks: Any) -> str:
    """Write a config of a scale in ``folder`` and return its path."""
    settings = {
        **{"scale": "one", "work": str(folder / "work"), "results": str(folder / "results")},
        **{name: str(folder / f"{name}.tsv") for name in ("runs", "pairs", "comparisons")},
        **blocks,
    }
    file = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)


def train_command(
    folder: Path,
    row: Mapping[str, Any],
    data: Path,
    init: Path | None = None,
    mask: Path | None = None,
    **config: Any,
) -> list[str]:
    """Return the command that trains a row, and its sheets, in which ``config`` changes blocks.

    Of what the run writes, ``final``, ``steps``, its saved states and ``metrics.csv`` lie in
    ``folder``; inputs are links to those given, which need not exist.
    """
    run, trainer = row["run"], row.get("backend", "native")
    algorithm, masked = row["algorithm"], row.get("mask", "")
    own = algorithm if algorithm in DATA else "problems" if algorithm in ONLINE else "pairs"
    models: dict[str, Any] = {"other": {"source": "hf:a/b"}}
    models[row["init"]] = {"source": "hf:a/b"}
    if row.get("architecture"):
        models[row["init"]] = {"architecture": dict(row["architecture"])}
    settings = {
        "models": models,
        "data": {row["data"]: DATA[own if trainer == "native" else trainer]},
        "recipes": {"its": {"backend": trainer, **row["recipe"]}},
        "wandb": dict(row.get("wandb", {})),
        **config,
    }
    links = {f"work/runs/{run}": folder, f"results/metrics/{run}.csv": folder / "metrics.csv"}
    links[f"work/data/{row['data']}.jsonl"] = data
    if init is not None:
        links[f"work/models/{row['init']}"] = init
    if mask is not None:
        links[f"work/masks/{masked}.safetensors"] = mask
    for name, target in links.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target.absolute())
    cells = [run, algorithm, row["init"], row["data"], "its", str(row["seed"]), masked]
    sheets = {
        "runs": ("run algorithm init data recipe seed mask set label", cells),
        "pairs": (
            "pair init tuned method items paper_model common_rows label",
            [masked, row["init"], "other", "DPO"],
        ),
        "comparisons": ("comparison pair1 pair2 axis items setting1 setting2 label", []),
    }
    for name, (header, values) in sheets.items():
        lines = ["\t".join(header.split()), *(["\t".join(values)] if values and values[0] else [])]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["train", run, "--config", write_config(folder, **settings)]


def checked_row(folder: Path, row: Mapping[str, Any]) -> Row:
    """Return a row as the sheets resolve it."""
    *_, config = train_command(folder, row, folder / "data")
    return load_scale(load_config([config])).row(row["run"])
