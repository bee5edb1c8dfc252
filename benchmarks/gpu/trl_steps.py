"""The same steps of DPO and GRPO through TRL, where it is installed.

Both sides train float32 masters by AdamW with a bfloat16 forward and backward pass, on the same
sequences, without recomputing activations, by any kernels, not only those that repeat their bits;
reference log-probabilities of DPO are computed before, and of GRPO's responses every other one is
right. What remains: TRL keeps one copy of the weights, in float32, and rounds it in every product,
also while it draws; this project keeps a rounded copy. TRL's DPO takes entropies for its metrics,
which cannot be turned off.
"""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.figure import Figure, ratio
from benchmarks.gpu.clock import in_turn, wait
from benchmarks.gpu.size import Size, random_model, word_tokenizer
from benchmarks.gpu.training import Bench, new_online, offline_step
from rlsubnet.training.batches import Example
from rlsubnet.training.online import gather, policy_step

OURS, THEIRS = "rlsubnet", "TRL"


def is_installed() -> bool:
    """Return whether TRL and what it needs can be imported."""
    return all(importlib.util.find_spec(name) for name in ("trl", "datasets", "accelerate"))


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step, all that belongs to it included."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._begin = device, 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        wait(self._device)
        self._begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        wait(self._device)
        self.seconds.append(time.perf_counter() - self._begin)


def _settings(size: Size, device: torch.device, steps: int, parts: int) -> dict[str, Any]:
    rows = size.sequences // parts
    return {
        "max_steps": steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": parts,
        "learning_rate": 1e-6,
        "bf16": True,
        "gradient_checkpointing": False,
        "use_cpu": device.type == "cpu",
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "model_init_kwargs": {"dtype": "float32"},
        "disable_tqdm": True,
        "dataloader_pin_memory": device.type == "cuda",
        "seed": 1,
    }


def _words(tokens: list[int]) -> str:
    return "".join(f" t{token}" for token in tokens)


def _times(trainer: Any, device: torch.device) -> list[float]:
    """Train and return the seconds of all steps but the first, which warms up."""
    clock = StepTimes(device)
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds[1:]


def _saved_model(size: Size, folder: Path) -> str:
    """Write the model in float32, as TRL is to train it; by this name it makes its reference."""
    random_model(size, torch.device("cpu")).float().save_pretrained(folder / "model")
    return str(folder / "model")


def trl_dpo(bench: Bench, pairs: list[Example], parts: int, steps: int) -> list[float]:
    """Return the seconds of TRL's DPO steps on the pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    records = [
        {
            "prompt": _words(chosen.tokens[: chosen.given]),
            "chosen": _words(chosen.tokens[chosen.given :]),
            "rejected": _words(rejected.tokens[rejected.given :]),
        }
        for chosen, rejected in pairs
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = _settings(bench.size, bench.device, steps, parts)
        settings["per_device_train_batch_size"] = len(pairs) // parts
        trainer = DPOTrainer(
            model=_saved_model(bench.size, folder),
            args=DPOConfig(name, max_length=None, precompute_ref_log_probs=True, **settings),
            train_dataset=Dataset.from_list(records * (steps + 1)),
            processing_class=word_tokenizer(bench.size.vocabulary),
        )
        return _times(trainer, bench.device)


def trl_grpo(bench: Bench, parts: int, steps: int) -> list[float]:
    """Return the seconds of TRL's GRPO steps, drawing and scoring by a reference included."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    size = bench.size
    prompts = [{"prompt": _words(bench.tokens(size.prompt))} for _ in range(size.sequences)]

    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [float(number % 2) for number, _ in enumerate(completions)]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = GRPOTrainer(
            model=_saved_model(size, folder),
            reward_funcs=reward,
            args=GRPOConfig(
                name,
                num_generations=size.group,
                max_completion_length=size.response,
                beta=0.04,
                **_settings(size, bench.device, steps, parts),
            ),
            train_dataset=Dataset.from_list(prompts),
            processing_class=word_tokenizer(size.vocabulary),
        )
        return _times(trainer, bench.device)


def _beside(what: str, bench: Bench, ours: list[float], theirs: list[float]) -> Figure:
    goal = 1.0 if bench.device.type == "cuda" else None
    ours, theirs = ([1e3 * t for t in times] for times in (ours, theirs))
    return ratio(f"{what}, {bench.size.name}", ours, theirs, "ms", (OURS, THEIRS), goal)


def trl_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return how many times quicker a step of DPO and of GRPO is than TRL's."""
    pairs = bench.examples(bench.size.sequences // 2, 2)
    rows = bench.size.sequences
    parts = bench.recipe(len(pairs), rows).parts
    step = offline_step(bench, "dpo", pairs)
    (ours,) = in_turn([step], bench.device, repeats)
    del step
    dpo = _beside("DPO step", bench, ours, trl_dpo(bench, pairs, parts, repeats + 1))
    learner, questions = new_online(bench, "grpo")

    def whole() -> object:
        return policy_step(learner, gather(learner, questions, seed=0), 1)

    (ours,) = in_turn([whole], bench.device, repeats)
    parts = learner.recipe.parts
    theirs = trl_grpo(bench, parts, repeats + 1)
    return [dpo, _beside("GRPO step, drawing and scoring included", bench, ours, theirs)]
