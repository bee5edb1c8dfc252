"""The script's saves, from inside of it: whole or absent, and enough to go on from.

With ``--checkpointing_steps`` the script saves DeepSpeed's masters and moments, looks for its last
save when it starts, and leaves out the batches that were learned from. What it lacks:

* Its output folder has the time in its name, which each process reads from its own clock: no later
  start finds it, and those of one start need not agree.
* A process marks a save when its own part is written, not when all are.
* It loads the save and then computes the reference's log-probabilities, with the half-trained
  policy. Here they are computed once, by the start's weights, and are a part of every save.
* It leaves out as many batches of every later epoch, too.
* The first process of each node deletes old saves, all of them the same ones.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlsubnet.backends.processes import is_marked, mark_saved, read_marker, remove
from rlsubnet.files import read_jsonl, write_jsonl
from rlsubnet.machine import describe_environment

PACKAGES = (
    *("torch", "deepspeed", "transformers", "accelerate", "datasets", "tokenizers", "numpy"),
    "flash-attn",
)
# What the script looks for in a save before it loads it.
SCRIPT_MARKER = "COMPLETED"
# Functions of the script that are replaced once it runs.
REFERENCE, CLEAN = "get_cache_ref_logprobs", "clean_last_n_checkpoints"
# torch 2.6 loads plain values alone unless it is told otherwise; DeepSpeed 0.15 pickles others.
ANY_PICKLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

# Log-probabilities of one side of the pairs: of each epoch, of each batch, one number a pair.
Reference = Sequence[Sequence[Any]]


class LauncherError(RuntimeError):
    """The run is not what was asked for."""


def put_before(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a function or method by another, whose first argument it becomes."""
    own = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: function(own, *args, **kwargs))


def complete_saves(output: Path) -> list[Path]:
    """Return the saves in the script's output folder that are whole, by their steps."""
    found = [path for path in output.glob("step_*") if is_marked(path)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def without_time(folder: str) -> str:
    """Return the script's output folder without the time in its name: RUN__SEED.

    >>> without_time("output/dpo_sub__42__1747340000")
    'output/dpo_sub__42'
    """
    found = re.fullmatch(r"(.*[^/]__\d+)__\d+", folder)
    if found is None:
        raise LauncherError(f"the script writes to {folder}: expected a folder RUN__SEED__TIME")
    return found[1]


def still_to_come(reference: Reference, epoch: int, batches: int) -> list[Sequence[Any]]:
    """Return log-probabilities by epoch and batch, without the first batches of one epoch.

    >>> still_to_come([["a", "b"], ["c", "d"], ["e", "f"]], epoch=1, batches=1)
    [['a', 'b'], ['d'], ['e', 'f']]
    """
    return [found[batches:] if number == epoch else found for number, found in enumerate(reference)]


@dataclass
class Saver:
    """One process of a run: what it went on from, and what its saves need."""

    steps: Path | None = None  # where steps are written; None in all processes but the first
    engine: Any = None
    output: Path | None = None  # the script's output folder, without the time
    loaded: Path | None = None  # the save that this process went on from
    done: int = 0  # updates made before that save
    skipped: bool = False  # whether the batches learned from were left out
    # Log-probabilities of the pairs' two sides, of all epochs.
    reference: dict[str, Any] = field(default_factory=dict)

    def adopt(self, engine: Any, script: Any) -> None:
        """Replace folder and functions of the script, which runs and has yet to look for a save."""
        if missing := [n for n in ("args", REFERENCE, CLEAN) if not hasattr(script, n)]:
            raise LauncherError(
                f"the script has no {', '.join(missing)}; "
                "another script than the one this was written for"
            )
        self.engine = engine
        script.args.output_dir = without_time(script.args.output_dir)
        self.output = Path(script.args.output_dir)
        put_before(script, REFERENCE, self.refer)
        setattr(script, CLEAN, self.clean)

    def clean(self, output_dir: str, keep_last_n_checkpoints: int) -> None:
        """Remove all saves but the newest, which the script itself would not leave at its end."""
        if self.steps is not None:
            for save in complete_saves(Path(output_dir))[:-1]:
                remove(save)

    def save(
        self, save_state: Callable[..., Any], accelerator: Any, output_dir: str, **options: Any
    ) -> Any:
        """Save by accelerate's own function, and add what makes a save whole."""
        import torch

        result = save_state(accelerator, output_dir, **options)
        folder = Path(output_dir)
        torch.save(self.reference, folder / reference_file())
        accelerator.wait_for_everyone()  # every process has written its part
        if self.steps is not None:
            told = {
                "step": self.engine.global_steps,
                "environment": describe_environment(PACKAGES),
                "metrics": read_jsonl(self.steps),
            }
            mark_saved(folder, told)
        accelerator.wait_for_everyone()
        return result

    def load(
        self, load_state: Callable[..., Any], accelerator: Any, input_dir: str, **options: Any
    ) -> Any:
        """Load by accelerate's own function, and check what it loaded."""
        told = read_marker(Path(input_dir))
        here = describe_environment(PACKAGES)
        if told["environment"] != here:
            raise LauncherError(
                f"{input_dir}: saved in another environment, {told['environment']}, "
                f"this is {here}; delete {input_dir} to start from the beginning"
            )
        # A file of this run's own, which nobody else wrote.
        os.environ[ANY_PICKLE] = "1"
        result = load_state(accelerator, input_dir, **options)
        self.check_loaded(told["step"], input_dir)
        self.loaded, self.done = Path(input_dir), told["step"]
        if self.steps is not None:
            # Steps made after the save are made again.
            write_jsonl(self.steps, told["metrics"])
        return result

    def check_loaded(self, step: int, folder: str) -> None:
        """Check that engine and moments are those after a step."""
        moments = {int(state["step"]) for state in self.engine.optimizer.optimizer.state.values()}
        found = (self.engine.global_steps, moments)
        if found != (step, {step}):
            raise LauncherError(
                f"{folder}: expected engine and moments after step {step}, found {found}"
            )

    def skip(
        self,
        skip_first_batches: Callable[..., Any],
        accelerator: Any,
        dataloader: Any,
        num_batches: int = 0,
    ) -> Any:
        """Leave batches out by accelerate's own function, once."""
        if self.skipped:
            return dataloader
        self.skipped = True
        return skip_first_batches(accelerator, dataloader, num_batches)

    def refer(
        self,
        compute: Callable[..., Any],
        model: Any,
        dataloader: Any,
        accelerator: Any,
        average: bool,
        last_save: str | None,
        batches: int | None,
        epochs: range,
        forward: Any,
    ) -> tuple[Reference, Reference]:
        """Return the reference's log-probabilities, by the script's own function or saved ones."""
        self.check_epochs(len(dataloader), epochs.stop)
        if last_save is not None:
            return self.saved_reference(epochs.start, batches or 0)
        assert self.output is not None, "the engine was made before"
        if found := complete_saves(self.output):
            raise LauncherError(f"{found[-1]}: the script did not go on from it")
        chosen, rejected = compute(
            model, dataloader, accelerator, average, None, None, epochs, forward
        )
        self.reference = {"chosen": chosen, "rejected": rejected}
        return chosen, rejected

    def check_epochs(self, batches: int, epochs: int) -> None:
        """Check that each epoch but the last ends with an update.

        Where one does not, the script would count an update that DeepSpeed does not make, and leave
        out the wrong batches when it goes on.
        """
        each = self.engine.gradient_accumulation_steps()
        if epochs > 1 and batches % each:
            raise LauncherError(
                f"{epochs} epochs of {batches} batches a process, of which {each} make an update: "
                f"expected a multiple of {each}; leave out pairs, or train for one epoch"
            )

    def saved_reference(self, epoch: int, batches: int) -> tuple[Reference, Reference]:
        """Return log-probabilities of the save, without those of an epoch's first batches."""
        import torch

        if self.loaded is None:
            raise LauncherError("the script found a save and loaded none")
        self.reference = torch.load(self.loaded / reference_file(), weights_only=True)
        chosen, rejected = (
            still_to_come(self.reference[side], epoch, batches) for side in ("chosen", "rejected")
        )
        return chosen, rejected


def reference_file() -> str:
    import torch

    return f"reference_{torch.distributed.get_rank()}.pt"
