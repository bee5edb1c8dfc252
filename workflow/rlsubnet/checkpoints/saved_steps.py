"""The saved steps of a run: their names, their order, and opening them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlsubnet.checkpoints.delta import PatchedCheckpoint
from rlsubnet.checkpoints.delta_file import is_delta
from rlsubnet.checkpoints.delta_init import InitDigests
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.store import Checkpoint

STEP_FILES = "step-*.delta"


def step_file(step: int) -> str:
    """Return the name of the file that a run saves a step in.

    >>> step_file(5)
    'step-000005.delta'
    """
    return STEP_FILES.replace("*", f"{step:06d}")


def step_number(path: Path | str) -> int:
    """Return the last number in the own name of a saved step.

    >>> step_number("runs/grpo/global_step_320"), step_number("steps/step-000005.delta")
    (320, 5)
    """
    numbers = re.findall(r"\d+", Path(path).name)
    if not numbers:
        raise ValueError(f"{path}: no step number in its name; give --steps")
    return int(numbers[-1])


def find_steps(
    paths: Sequence[Path | str], numbers: Sequence[int] | None = None
) -> dict[int, Path]:
    """Return step -> path by increasing step (a shell lists step 100 before step 20).

    Args:
        paths: full checkpoints and delta files; a folder of step files stands for all of them.
        numbers: their steps, where the names do not tell.

    Raises:
        ValueError: a name without a number, two paths of one step, or too few or many numbers.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob(STEP_FILES)) if path.is_dir() else []
        # Of an older format; refused by name when it is opened.
        inside = inside or sorted(path.glob("step-*.safetensors"))
        found += inside or [path]
    steps = [step_number(path) for path in found] if numbers is None else list(numbers)
    if len(steps) != len(found):
        raise ValueError(f"--steps has {len(steps)} numbers for {len(found)} saved steps")
    ordered = dict(sorted(zip(steps, found, strict=True)))
    if len(ordered) != len(found):
        raise ValueError(f"two saved steps have one number: {sorted(steps)}")
    return ordered


def open_steps(init: Checkpoint, steps: Mapping[int, Path]) -> dict[int, Checkpoint]:
    """Return the checkpoint of every step: full ones as they are, deltas laid over ``init``.

    Raises:
        ValueError: a path is no checkpoint, or a delta is damaged or of another init.
    """
    deltas = {step for step, path in steps.items() if is_delta(path)}
    digests = InitDigests(StoredWeights(init.path)) if deltas else None
    return {
        step: PatchedCheckpoint(init, path, digests) if step in deltas else Checkpoint(path)
        for step, path in steps.items()
    }
