"""The paper's rows for verl, out of its sheet, and where their runs would lie."""

from functools import cache
from pathlib import Path
from typing import Any

from rlsubnet.backends.verl.command import Places, overrides
from rlsubnet.config import load_config, load_scale
from rlsubnet.config.model import Row
from rlsubnet.config.scale import Scale

REPOSITORY = Path(__file__).resolve().parents[2]
PRIME = ("prime", "prime_sub", "prime_steps")
ROWS = (*PRIME, "grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip")
PLACES = Places(Path("/w/models/start"), Path("/w/runs/run/verl"))


@cache
def paper() -> Scale:
    config = load_config([REPOSITORY / "config" / "paper" / "config.yaml"])
    return load_scale(config, REPOSITORY)


def row(name: str) -> Row:
    return paper().row(name)


def overrides_of(name: str) -> list[str]:
    given = row(name)
    mask = Path(f"/w/masks/{given.mask}.safetensors") if given.mask else None
    return overrides(given, PLACES._replace(mask=mask), threads=64)


def own_row(run: str, algorithm: str, recipe: dict[str, Any], mask: str = "") -> dict[str, Any]:
    return {
        **{"run": run, "backend": "verl", "algorithm": algorithm, "init": "start"},
        **{"data": "math", "recipe": recipe, "seed": 42, "mask": mask},
    }
