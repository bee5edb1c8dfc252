"""The paper's rows for verl, out of its sheet, and where their runs would lie."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from rlsubnet.backends.rows import verl_row
from rlsubnet.backends.verl.command import Places, overrides
from rlsubnet.config import load_config, load_scale, resolved_row
from rlsubnet.config.scale import Scale

REPOSITORY = Path(__file__).resolve().parents[2]
PRIME = ("prime", "prime_sub", "prime_steps")
ROWS = (*PRIME, "grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip")
PLACES = Places(Path("/w/models/start"), Path("/w/runs/run/verl"))


@cache
def paper() -> Scale:
    """Return the paper scale."""
    config = load_config([REPOSITORY / "config" / "paper" / "config.yaml"])
    return load_scale(config, REPOSITORY)


def row(name: str) -> dict[str, Any]:
    """Return one row of the sheet, as the rule passes it and the command checks it."""
    return verl_row(name, json.dumps(resolved_row(paper(), name)))


def overrides_of(name: str) -> list[str]:
    """Return the overrides of one row."""
    given = row(name)
    mask = Path(f"/w/masks/{given['mask']}.safetensors") if given["mask"] else None
    return overrides(given, PLACES._replace(mask=mask), threads=64)


def as_json(run: str, algorithm: str, recipe: dict[str, Any], mask: str = "") -> str:
    """Return a row of one's own as the rule passes it."""
    return json.dumps(
        {
            **{"run": run, "backend": "verl", "algorithm": algorithm, "init": "start"},
            **{"data": "math", "recipe": recipe, "seed": 42, "mask": mask, "architecture": None},
            "wandb": {"mode": "disabled", "project": "rlsubnet"},
        }
    )
