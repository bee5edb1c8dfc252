"""What a trainer of another project is told, checked before GPUs are used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import load_mask
from rlsubnet.config.model import describe, first_error, load_schema
from rlsubnet.config.scale import BACKENDS
from rlsubnet.files import read_object

KEYS = frozenset({"run", "algorithm", "init", "data", "recipe", "seed", "mask", "wandb"})


def read_row(run: str, text: str, backend: str) -> dict[str, Any]:
    """Return the row that ``text`` describes, without ``backend`` and ``architecture``.

    Keys of the recipe that are not given have the schema's defaults.

    Args:
        run: name of the run.
        text: JSON, or ``@`` and the path of a JSON file.
        backend: the trainer, a key of :data:`rlsubnet.config.scale.BACKENDS`.

    Raises:
        ValueError: naming the run and the key, what was found and what was expected.
    """
    source = f"run {run}, --row"
    values = read_object(source, text)
    recipe: dict[str, Any] = values.get("recipe", {})
    if differing := sorted(set(values) ^ (KEYS | {"backend", "architecture"})):
        raise ValueError(f"{source}: keys that are missing or unknown: {', '.join(differing)}")
    found = (values.pop("backend"), values.pop("architecture"), values["run"])
    if found != (backend, None, run):
        raise ValueError(
            f"{source}, keys backend, architecture, run: expected {(backend, None, run)}, "
            f"found {found}"
        )
    trainer = BACKENDS[backend]
    if values["algorithm"] not in trainer.data_kinds:
        known = ", ".join(trainer.data_kinds)
        raise ValueError(
            f"{source}, key algorithm: expected one of {known}, found {values['algorithm']!r}"
        )
    error = first_error(recipe, load_schema("config")["$defs"][trainer.schema])
    if error is not None:
        key = ".".join(["recipe", *map(str, error.absolute_path)])
        raise ValueError(f"{source}, key {key}: {describe(error)}")
    try:
        trainer.check(recipe, bool(values["mask"]), values["algorithm"])
    except ValueError as error_:
        raise ValueError(f"{source}, recipe key {error_}") from error_
    return values


def check_mask_given(run: str, named: str, mask: Path | None) -> None:
    """Check that a mask file is given if and only if the row names a mask.

    Raises:
        ValueError: it is not so.
    """
    if bool(named) != (mask is not None):
        given = "absent" if mask is None else str(mask)
        raise ValueError(f"run {run}: the row's mask is {named!r}, --mask is {given}")


def check_bfloat16(checkpoint: Checkpoint) -> None:
    """Check that rounding to bfloat16, in which trainers save, moves no weight of a start.

    Raises:
        ValueError: a tensor is stored otherwise.
    """
    for name, info in checkpoint.tensors.items():
        if info.dtype != "BF16":
            raise ValueError(
                f"{checkpoint.path}: tensor {name} is stored in {info.dtype}; "
                "training in bfloat16 changes all weights, frozen or not"
            )


def check_mask_fits(checkpoint: Checkpoint, mask: Path) -> None:
    """Check that a mask has the names and shapes of a start.

    Raises:
        ValueError: it does not; lists what differs.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    load_mask(mask).check_shapes(shapes, str(checkpoint.path))


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
        return {"backend": "open_instruct", **asdict(self)}


def open_instruct_row(run: str, text: str) -> Row:
    """Return the row that ``text`` describes: JSON, or ``@`` and the path of a JSON file.

    Raises:
        ValueError: as :func:`rlsubnet.backends.rows.read_row` says.
    """
    values = read_row(run, text, "open_instruct")
    recipe = values.pop("recipe")
    settings = {item.name: recipe[item.name] for item in fields(Recipe)}
    return Row(**values, recipe=Recipe(**settings))


def verl_row(run: str, text: str) -> dict[str, Any]:
    """Return the row that ``text`` describes: JSON, or ``@`` and the path of a JSON file.

    Its recipe follows ``verl_recipe`` of the config's schema, defaults filled.

    Raises:
        ValueError: as :func:`rlsubnet.backends.rows.read_row` says.
    """
    return {**read_row(run, text, "verl"), "backend": "verl"}
