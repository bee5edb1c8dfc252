"""One row of the sheet of runs for open-instruct, checked: the last gate before GPUs are used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rlsubnet.backends.rows import read_row

BACKEND = "open_instruct"


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one run; what they mean stands in the config's schema."""

    commit: str
    processes: int
    per_process: int
    accumulate: int
    epochs: int
    lr: float
    schedule: str
    warmup_ratio: float
    weight_decay: float
    clip: float | None
    beta: float
    max_length: int
    chat_template: str
    gradient_checkpointing: bool
    flash_attention: bool
    mask_at: str
    save_every: int

    @property
    def batch_size(self) -> int:
        """Return the number of pairs per optimizer step."""
        return self.processes * self.per_process * self.accumulate


@dataclass(frozen=True)
class Row:
    """One row of the sheet of runs with its recipe spelled out, as in the native trainer."""

    run: str
    algorithm: str
    init: str
    data: str
    recipe: Recipe
    seed: int
    mask: str
    wandb: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, for JSON."""
        return {"backend": BACKEND, **asdict(self)}


def parse_row(run: str, text: str) -> Row:
    """Return the row that ``text`` describes: JSON, or ``@`` and the path of a JSON file.

    Raises:
        ValueError: as :func:`rlsubnet.backends.rows.read_row` says.
    """
    values = read_row(run, text, BACKEND)
    recipe = values.pop("recipe")
    settings = {item.name: recipe[item.name] for item in fields(Recipe)}
    return Row(**values, recipe=Recipe(**settings))
