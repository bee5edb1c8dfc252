"""What accelerate starts on every GPU: the unmodified script, watched and, if asked, masked.

    python -m rlsubnet.backends.open_instruct.launcher [--mask FILE --mask-at post_clip]
        --records DIR --engine JSON SCRIPT ARGUMENTS...

The script trains through ``deepspeed.initialize``. That is wrapped: the engine it returns must be
what ``--engine`` says, and the mask is attached to its optimizer. A run in which DeepSpeed was
never used, or an update came without its mask, ends with an error, however well it trained. Its
saves, and going on from one, are :mod:`saving`'s.
Written to DIR by the first process: ``steps.jsonl``, one line per optimizer step, and
``report.json``, versions and counts, last and only if all is well.
"""

import argparse
import json
import logging
import math
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlsubnet.backends.open_instruct.saving import PACKAGES, LauncherError, Saver, put_before
from rlsubnet.backends.processes import end_with_parent
from rlsubnet.files import write_json
from rlsubnet.machine import describe_environment

STEPS, REPORT = "steps.jsonl", "report.json"

# The script's own words, written by the first process after each optimizer step.
STEP_LINE = re.compile(r"\s*Step: (\d+), LR: ([-+.e\d]+), Loss: ([-+.e\d]+|nan|inf)")
# What it adds up in between, of which only the loss is logged: length, loss and reward margin.
SUMS, LOSS, MARGIN = 20, 0, 5


@dataclass
class Watch:
    """One process of a run: what was attached, and what is known of the current step."""

    expected: dict[str, Any]  # what the engine must be, see the command
    mask: Path | None = None
    mask_at: str = "post_clip"
    saver: Saver = field(default_factory=Saver)
    engine: Any = None  # what deepspeed.initialize returned
    attached: Any = None  # the mask of its optimizer
    lr: float | None = None  # of the last update
    # Of the squared gradients of the last update, after clip and mask, of this process's part.
    squares: float = 0.0
    sums: list[float] = field(default_factory=list)  # the script's, over all processes
    inside: float | None = None  # norm of the gradient inside the mask, before the clip
    left_over: int | None = None  # the script's step that was no update

    def initialize(self, own: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Let DeepSpeed make an engine, check it, and attach the mask to its optimizer."""
        made = own(*args, **options)
        engine = made[0]
        if self.engine is not None:
            raise LauncherError("deepspeed.initialize was called twice; one model is trained")
        import torch

        found = {
            "zero_stage": engine.zero_optimization_stage(),
            "bf16": engine.bfloat16_enabled(),
            "clip": float(engine.gradient_clipping()),
            "accumulate": engine.gradient_accumulation_steps(),
            "processes": torch.distributed.get_world_size(),
        }
        if found != self.expected:
            raise LauncherError(f"DeepSpeed's engine: expected {self.expected}, found {found}")
        self.engine = engine
        if self.mask is not None:
            from rlsubnet.training.engines import attach_engine_mask

            self.attached = attach_engine_mask(engine, engine.module, self.mask, self.mask_at)
        self.saver.adopt(engine, sys.modules["__main__"])
        # After the mask: it sees the gradient that the update sees.
        engine.optimizer.optimizer.register_step_pre_hook(self.before_update)
        return made

    def before_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Note learning rate and gradient; ZeRO-3 updates one group of tensors after the other."""
        self.lr = float(optimizer.param_groups[0]["lr"])
        if self.attached is not None:
            for group in optimizer.param_groups:
                for tensor in group["params"]:
                    if tensor.grad is not None:
                        self.squares += float(tensor.grad.detach().float().square().sum())

    def reduce(self, own: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Reduce by accelerate's own function, and note the script's sums, of which one a step."""
        tensor = own(*args, **options)
        if tuple(getattr(tensor, "shape", ())) != (SUMS,):
            return tensor
        self.sums = tensor.tolist()
        if self.attached is not None:
            from rlsubnet.training.masking import clip_factor

            clipped = math.sqrt(sum_over_processes(self.squares))
            self.inside = clipped / clip_factor(self.norm(), float(self.expected["clip"]))
            self.squares = 0.0
        return tensor

    def norm(self) -> float:
        """Return the norm of the gradient that the last clip saw."""
        return float(self.engine.get_global_grad_norm())

    def read_line(self, record: logging.LogRecord) -> None:
        """Note the step if a line of the script's log says what one gave."""
        if found := STEP_LINE.match(record.getMessage()):
            self.after_step(int(found[1]), float(found[3]))

    def after_step(self, step: int, loss: float) -> None:
        """Write down one optimizer step, of which the script and DeepSpeed must say the same.

        At its end the script counts one for the pairs that fill no batch, which DeepSpeed does not
        make.
        """
        updates, made = self.expected["accumulate"], self.engine.global_steps
        if step == made + 1 and self.left_over is None:
            self.left_over = step
            return
        if step != made:
            raise LauncherError(f"step {step}: DeepSpeed made {made} updates")
        if not math.isfinite(loss):
            raise LauncherError(f"step {step}: the loss is {loss}")
        if not self.sums or not math.isclose(self.sums[LOSS] / updates, loss, rel_tol=1e-4):
            raise LauncherError(
                f"step {step}: the script says loss {loss}, its sums {self.sums}; "
                "another script than the one this was written for"
            )
        norm, before = self.norm(), self.mask_at == "pre_clip" and self.attached is not None
        assert self.saver.steps is not None, "only the first process logs"
        line = {
            "step": step,
            "loss": loss,
            "reward": self.sums[MARGIN] / updates,
            # Masked before the clip, the whole gradient's norm is never known.
            "grad_norm": None if before else norm,
            "grad_norm_masked": norm if before else self.inside,
            "lr": self.lr,
        }
        with self.saver.steps.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def check(self) -> None:
        """Check, at the end, that this process did what was asked."""
        if self.engine is None:
            raise LauncherError("the script never called deepspeed.initialize: not what was asked")
        if not self.engine.global_steps:
            raise LauncherError("the engine made no update")
        if self.mask is not None:
            self.attached.check_updates(self.engine.global_steps - self.saver.done)


def sum_over_processes(value: float) -> float:
    """Return the sum of a number of each process; all of them must ask."""
    import torch

    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    total = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return float(total)


def refuse_resize(self: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse what ``resize_token_embeddings`` does: shapes must be those of start and mask."""
    raise LauncherError(
        f"the tokenizer has more tokens than the model has rows: found {args or kwargs}; "
        "a tuned model must have the shapes of its start"
    )


def install(watch: Watch) -> None:
    """Let the script, which is yet to be imported, find our functions in front of its own."""
    import accelerate
    import deepspeed
    import transformers

    # accelerate looks it up as an attribute when it prepares the model.
    put_before(deepspeed, "initialize", watch.initialize)
    put_before(accelerate.Accelerator, "reduce", watch.reduce)
    put_before(accelerate.Accelerator, "save_state", watch.saver.save)
    put_before(accelerate.Accelerator, "load_state", watch.saver.load)
    put_before(accelerate.Accelerator, "skip_first_batches", watch.saver.skip)
    model: Any = transformers.PreTrainedModel
    model.resize_token_embeddings = refuse_resize
    # The script's logger: it is run as the main module.
    logger = logging.getLogger("__main__")
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = watch.read_line  # type: ignore[method-assign]
    logger.addHandler(handler)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script as the main module, then judge the run and write the report."""
    parser = argparse.ArgumentParser(prog="launcher", allow_abbrev=False)
    parser.add_argument("--mask", type=Path, help="train only the weights in this mask")
    parser.add_argument("--mask_at", default="post_clip", help="where it meets the gradient")
    parser.add_argument("--records", type=Path, required=True, help="existing folder to write to")
    parser.add_argument("--engine", type=json.loads, required=True, help="what it must be, JSON")
    parser.add_argument("script", help="path of the training script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    options = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    watch = Watch(
        expected=options.engine,
        mask=options.mask,
        mask_at=options.mask_at,
        saver=Saver(steps=options.records / STEPS if first else None),
    )
    install(watch)
    sys.argv = [options.script, *options.arguments]
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_path(options.script, run_name="__main__")
    watch.check()
    import torch

    if torch.distributed.is_initialized():  # with tracking, the script has ended it
        torch.distributed.barrier()  # every process got through its check
    if first:
        write_json(
            options.records / REPORT,
            {
                "steps": watch.engine.global_steps,
                "engine": {**watch.expected, "optimizer": type(watch.engine.optimizer).__name__},
                **describe_environment(PACKAGES),
            },
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of gloo and DeepSpeed may abort a process that is tearing down, after all is written.
    os._exit(0)


if __name__ == "__main__":
    end_with_parent()
    main()
