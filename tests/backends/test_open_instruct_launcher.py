"""The launcher around a stand-in for the training script: what it notes, and what it refuses."""

import json
import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsubnet.backends.open_instruct import launcher
from rlsubnet.training.masking import clip_factor

pytestmark = pytest.mark.usefixtures("one_process")

EXPECTED = {"zero_stage": 3, "bf16": True, "clip": 1.0, "accumulate": 2, "processes": 1}

# Two optimizer steps with gradients of norm 2 and 0.5; half of each lies inside the mask.
SCRIPT = """
import logging
import deepspeed, transformers
from accelerate import Accelerator
import sys, types

STEPS = [(0.0, 2.0, 1.4), (5e-4, 0.5, 1.2)]
args = types.SimpleNamespace(output_dir="output/dpo__42__1747340000")
get_cache_ref_logprobs = clean_last_n_checkpoints = None

if __name__ == "__main__":
    assert sys.argv[1:] == ["--exp_name", "dpo"], sys.argv
    engine, *_ = deepspeed.initialize()
    logger = logging.getLogger(__name__)
    accelerator = Accelerator()
    for number, (lr, norm, loss) in enumerate(STEPS, start=1):
        engine.update(lr, norm)
        sums = accelerator.reduce(engine.sums(loss, reward=0.3))
        logger.info(f"  Step: {number}, LR: {lr}, Loss: {loss / 2}")
        sums /= 2  # in place, as the script does
"""


class Engine:
    """What a DeepSpeed engine shows of itself, around one vector of two weights."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.optimizer = types.SimpleNamespace(optimizer=torch.optim.SGD([self.weight], lr=1.0))
        self.module = torch.nn.Linear(1, 1)
        self.global_steps, self.found, self.clip = 0, 0.0, 1.0
        self.zero_optimization_stage = lambda: 3
        self.bfloat16_enabled = lambda: True
        self.gradient_clipping = lambda: self.clip
        self.gradient_accumulation_steps = lambda: 2
        self.get_global_grad_norm = lambda: self.found

    def update(self, lr: float, norm: float) -> None:
        """Update with a gradient of that norm, along both weights alike, clipped."""
        self.found = norm
        self.weight.grad = torch.full((2,), norm / 2**0.5) * clip_factor(norm, self.clip)
        self.optimizer.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.optimizer.step()
        self.global_steps += 1

    def sums(self, loss: float, reward: float) -> torch.Tensor:
        sums = torch.zeros(20)
        sums[0], sums[5] = loss, reward
        return sums


class Attached:
    """A mask on the second weight, as rlsubnet.training.engines attaches one."""

    def __init__(self, engine: Engine, works: bool) -> None:
        self.updates, self.works = 0, works
        engine.optimizer.optimizer.register_step_pre_hook(self.before_update)
        self.engine = engine

    def before_update(self, *arguments: Any) -> None:
        if self.works:
            self.updates += 1
            self.engine.weight.grad[1] = 0.0

    def check_updates(self, steps: int) -> None:
        if self.updates != steps:
            raise ValueError(f"the mask was applied in {self.updates} of {steps} updates")


class Ended(Exception):
    """Raised in place of the end of the process."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    engine = Engine()
    modules: dict[str, Any] = {
        name: types.ModuleType(name) for name in ("deepspeed", "accelerate", "transformers")
    }
    modules["deepspeed"].initialize = lambda: (engine, None, None, None)

    class Accelerator:
        save_state = load_state = skip_first_batches = len

        def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    modules["accelerate"].Accelerator = Accelerator
    modules["transformers"].PreTrainedModel = type("PreTrainedModel", (), {})
    attach: Any = types.ModuleType("rlsubnet.training.engines")
    attach.works = True
    attach.attach_engine_mask = lambda engine, model, mask, mask_at: Attached(engine, attach.works)
    modules["rlsubnet.training.engines"] = attach
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(logging.getLogger("__main__"), "handlers", [])
    monkeypatch.setattr(sys, "argv", ["launcher"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "records").mkdir()
    return engine


@pytest.fixture
def launch(tmp_path: Path, engine: Engine) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs the script to its good end and returns the steps noted."""

    def run(*options: str, script: str = SCRIPT) -> list[dict[str, Any]]:
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        records = ["--records", str(tmp_path / "records"), "--engine", json.dumps(EXPECTED)]
        with pytest.raises(Ended):
            launcher.main([*options, *records, str(tmp_path / "script.py"), "--exp_name", "dpo"])
        lines = (tmp_path / "records" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return run


def test_each_step_is_noted_with_what_the_update_used(launch, tmp_path):
    steps = launch()
    assert [step["step"] for step in steps] == [1, 2]
    # The script logs the learning rate of the next step; these are those of the updates.
    assert [step["lr"] for step in steps] == [0.0, 5e-4]
    assert [step["loss"] for step in steps] == [0.7, 0.6]
    assert [step["reward"] for step in steps] == [pytest.approx(0.15)] * 2
    assert [step["grad_norm"] for step in steps] == [2.0, 0.5]
    assert [step["grad_norm_masked"] for step in steps] == [None, None]
    report = json.loads((tmp_path / "records" / "report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 2
    assert report["engine"]["zero_stage"] == 3
    assert report["packages"]["torch"] == torch.__version__


def test_the_norm_inside_the_mask_is_that_before_the_clip(launch, engine):
    steps = launch("--mask", "mask.safetensors")
    # Half of the squared norm lies on each weight: 2 / sqrt(2), 0.5 / sqrt(2).
    assert [step["grad_norm_masked"] for step in steps] == [
        pytest.approx(2**0.5, rel=1e-5),
        pytest.approx(0.5 / 2**0.5, rel=1e-5),
    ]
    assert [step["grad_norm"] for step in steps] == [2.0, 0.5]
    assert engine.weight[1] == 0.0
    assert engine.weight[0] != 0.0


def test_masked_before_the_clip_the_whole_norm_is_unknown(launch):
    steps = launch("--mask", "mask.safetensors", "--mask_at", "pre_clip")
    assert [step["grad_norm"] for step in steps] == [None, None]
    assert [step["grad_norm_masked"] for step in steps] == [2.0, 0.5]


def test_processes_but_the_first_write_nothing(launch, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FileNotFoundError):
        launch(script=SCRIPT.replace("logger.info", "str"))
    assert list((tmp_path / "records").iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [
        # accelerate does where a tracker is used.
        "import torch; torch.distributed.destroy_process_group()",
        # At the end of its data the script logs a third step; DeepSpeed waits for more pairs.
        'logger.info("  Step: 3, LR: 0.0, Loss: 0.1")',
    ],
    ids=["the group is ended", "pairs fill no batch"],
)
def test_a_script_may_go_on_after_the_last_step(launch, tmp_path, more):
    assert [step["step"] for step in launch(script=f"{SCRIPT}    {more}\n")] == [1, 2]
    assert (tmp_path / "records" / "report.json").exists()


INITIALIZE = "engine, *_ = deepspeed.initialize()"
RESIZE = "transformers.PreTrainedModel().resize_token_embeddings(9)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SCRIPT, "import deepspeed, transformers, accelerate", "never called deepspeed.initialize"),
        ("[(0.0, 2.0, 1.4), (5e-4, 0.5, 1.2)]", "[]", "made no update"),
        (INITIALIZE, f"{INITIALIZE}; deepspeed.initialize()", "called twice"),
        (INITIALIZE, f"{INITIALIZE}; {RESIZE}", "more tokens than the model has rows"),
        ("engine.sums(loss, reward=0.3)", "engine.sums(0.3, loss)", "1: the script says loss 0.7"),
        ("Loss: {loss / 2}", "Loss: nan", "step 1: the loss is nan"),
        ("{number}", "{number + 1}", "step 3: DeepSpeed made 2 updates"),
        ("get_cache_ref_logprobs = ", "", "no get_cache_ref_logprobs; another script"),
    ],
)
def test_a_run_that_is_not_what_was_asked_for_fails(launch, tmp_path, old, new, message):
    with pytest.raises(launcher.LauncherError, match=message):
        launch(script=SCRIPT.replace(old, new))
    assert not (tmp_path / "records" / "report.json").exists()


def test_a_mask_that_never_acts_fails(launch, tmp_path):
    module: Any = sys.modules["rlsubnet.training.engines"]
    module.works = False
    with pytest.raises(ValueError, match="the mask was applied in 0 of 2 updates"):
        launch("--mask", "mask.safetensors")
    assert not (tmp_path / "records" / "report.json").exists()


def test_an_engine_with_another_clip_fails_before_the_first_step(launch, engine):
    engine.clip = 0.5
    with pytest.raises(launcher.LauncherError, match="'clip': 1.0"):
        launch()
    assert engine.global_steps == 0
