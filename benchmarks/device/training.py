"""Checks of training: whole runs whose bits repeat, steps that wait for nothing, memory, compiling.

On a CPU the tests have all of this (``tests/training``); here it is the GPU's own kernels.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.device.kernels import TINY, architecture, examples, expect, policy
from benchmarks.device.parts import Finding, Place
from benchmarks.gpu.clock import wait
from rlsubnet.backends.trainers import run_training
from rlsubnet.cli import main
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import Recipe, Row
from rlsubnet.evaluation.loading import deterministic
from rlsubnet.evaluation.policy_data import build
from rlsubnet.files import write_jsonl
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.batches import collate
from rlsubnet.training.credit import Question
from rlsubnet.training.journal import Journal
from rlsubnet.training.loop import ALGORITHMS, reference_logps, train_step
from rlsubnet.training.model import bytes_per_logit, bytes_per_sequence, prepare_training
from rlsubnet.training.online import gather, new_learner, policy_step
from rlsubnet.training.optimizer import MasterOptimizer
from rlsubnet.training.run import NativeTrainer

DATA: dict[str, dict[str, Any]] = {
    "pretrain": {"kind": "base_text", "documents": 200, "characters": 48, "wrong_facts": 0.1},
    "sft": {"kind": "demonstrations", "style": "mixed", "terse_share": 0.5, "problems": 200},
    "dpo": {"kind": "demonstration_pairs", "style": "reversed", "problems": 64},
    "problems": {"kind": "problems", "per_level": [20] * 5},
}
# No answer of an untrained model is right: without these, GRPO and RAFT++ would learn nothing.
MOVING = {"entropy_coef": 0.01, "kl_coef": 0.05}


class Runs:
    """Runs of eight steps in a folder, from a base model that is made there first."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._device, self._folder = place.device, folder
        for name, spec in DATA.items():
            split = {} if name == "pretrain" else {"split": "train"}
            records, _ = build(name, {**spec, **split, "seed": 1}, None)
            write_jsonl(folder / f"{name}.jsonl", records)
        self.train("base", "pretrain", steps=20)

    def final(self, name: str) -> Path:
        """Return the folder of a run's model."""
        return self._folder / name / "final"

    def train(self, name: str, algorithm: str, mask: Path | None = None, **changes: Any) -> str:
        """Train, or go on, and return the digest of weights and metrics."""
        settings: dict[str, Any] = {"steps": 8, "save_every": 4, "accumulate": None, **changes}
        settings |= MOVING if algorithm in ("grpo", "raft") else {}
        recipe = Recipe(
            batch_size=8,
            lr=1e-3,
            compute="bfloat16",
            sparsity_every=4,
            samples=4,
            max_new_tokens=8,
            **settings,
        )
        first = algorithm == "pretrain"
        shape, start = (TINY, "") if first else (None, "base")
        row = Row(
            run="run",
            algorithm=algorithm,
            init=start,
            data="data",
            recipe=recipe,
            seed=3,
            mask="full" if mask else "",
            architecture=shape,
        )
        data = algorithm if algorithm in DATA else "problems"
        final, metrics = self.final(name), self._folder / name / "metrics.csv"
        files = RunFiles(
            data=self._folder / f"{data}.jsonl",
            scratch=self._folder / name / "resume",
            model=final,
            metrics=metrics,
            init=None if first else self.final("base"),
            mask=mask,
        )
        run_training(row, files, NativeTrainer(row, files, self._device.type))
        weights = (final / "model.safetensors").read_bytes()
        return hashlib.sha256(weights + metrics.read_bytes()).hexdigest()[:12]


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Let a run end with KeyboardInterrupt once it has taken so many steps."""
    note = Journal.note

    def noting(self: Journal, metrics: dict[str, Any], state: Any) -> None:
        if metrics["step"] == step:
            raise KeyboardInterrupt
        note(self, metrics, state)

    with mock.patch.object(Journal, "note", noting):
        yield


def whole_runs(place: Place) -> Iterator[Finding]:
    """Run twice, killed and resumed, masked, with activations computed twice: the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        runs, digests = Runs(place, Path(folder)), {}
        more = () if place.miniature else ("sft", "grpo", "raft", "ppo")
        for algorithm in ("dpo", "prime", *more):
            digests[algorithm] = runs.train(algorithm, algorithm)
            same = runs.train(f"{algorithm} again", algorithm) == digests[algorithm]
            yield {"what": f"{algorithm}, twice", "sha256": digests[algorithm]}
            expect(same, f"{algorithm}: two runs have other bits")
        for algorithm in ("dpo", "prime"):
            try:
                with killed_at(6):
                    runs.train("killed", algorithm)
            except KeyboardInterrupt:
                same = runs.train("killed", algorithm) == digests[algorithm]
                expect(same, f"{algorithm}: killed and resumed, other bits")
                yield {"what": f"{algorithm}, killed and resumed"}
        twice = runs.train("twice", "sft", recompute=True, save_every=0)
        once = runs.train("once", "sft", recompute=False, save_every=0)
        expect(once == twice, "activations computed twice: other bits")
        for algorithm, optimizer in (("dpo", "adamw"), ("prime", "adamw"), ("dpo", "sgd")):
            check_mask(runs, Path(folder), algorithm, optimizer)
            yield {"what": f"{algorithm} by {optimizer}, masked: frozen weights stayed"}


def check_mask(runs: Runs, folder: Path, algorithm: str, optimizer: str) -> None:
    """Train inside a run's own update and expect every other weight to be as it was."""
    name = f"{algorithm} {optimizer}"
    base, mask = str(runs.final("base")), folder / f"{name}.safetensors"
    words = ["mask", base, str(runs.final(algorithm)), "--rule", "bitwise", "--out", str(mask)]
    expect(main(words) == 0, f"{name}: no mask")
    runs.train(name, algorithm, mask, optimizer=optimizer)
    tuned, out = str(runs.final(name)), str(folder / f"{name}.csv")
    code = main(["frozen", base, tuned, "--mask", str(mask), "--out", out])
    expect(code == 0, f"{name}: a frozen weight moved")


@contextmanager
def refusing_to_wait(place: Place) -> Iterator[None]:
    """Let CUDA raise where the program would wait for it."""
    if place.is_gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if place.is_gpu:
            torch.cuda.set_sync_debug_mode("default")


def waiting(place: Place) -> Iterator[Finding]:
    """Steps of every kind wait for nothing; CUDA itself is told to refuse."""

    with deterministic(place.device):
        for name, members in (("sft", 1), ("dpo", 2)):
            for optimizer in ("adamw", "sgd"):
                steps = Steps(place, name, 8, members, TINY, optimizer=optimizer)
                steps.take(1)
                with refusing_to_wait(place):
                    steps.take(2)
                yield {"what": f"{name} by {optimizer}"}
        for name in ("grpo", "raft", "ppo", "prime"):
            learn_online(place, name)
            yield {"what": name}


def learn_online(place: Place, name: str) -> None:
    """Take two steps of an online algorithm, the second without waiting once it has drawn."""
    model = policy(place.device, torch.bfloat16)
    recipe = Recipe(steps=4, batch_size=4, samples=4, lr=1e-3, max_new_tokens=8, compute="bfloat16")
    optimizer = MasterOptimizer(dict(model.named_parameters()), recipe)
    learner = new_learner(name, model, optimizer, build_tokenizer(), recipe)
    questions = [Question([1, 4, 13, 5, 16], ";09")] * 4
    for step in (1, 2):
        drawn = gather(learner, questions, seed=step)
        with refusing_to_wait(place) if step == 2 else nullcontext():
            learner.credit.assign(drawn.rollouts, drawn.reference)
            policy_step(learner, drawn, step)


class Steps:
    """Steps of SFT or DPO on one batch of 57 tokens, the first 25 given."""

    def __init__(
        self, place: Place, name: str, rows: int, members: int, shape: Any, **changes: Any
    ) -> None:
        self.model = policy(place.device, torch.bfloat16, shape)
        self.recipe = Recipe(steps=99, batch_size=rows, lr=1e-5, compute="bfloat16", **changes)
        prepare_training(self.model, self.recipe)
        self._optimizer = MasterOptimizer(dict(self.model.named_parameters()), self.recipe)
        self._algorithm = ALGORITHMS[name]
        self._examples = examples(rows, 57, 25, members)
        self._reference = None
        if self._algorithm.reference:
            self._reference = reference_logps(self.model, self._examples, 0, rows)

    def take(self, step: int) -> dict[str, Any]:
        """Take a step and return its metrics, unread."""
        rows = range(len(self._examples))
        batch = collate(self._examples, rows, 0, self.model.device)
        learned = (self.model, self._optimizer, self._algorithm, [batch], self._reference)
        return train_step(*learned, None, self.recipe, step)


def memory(place: Place) -> Iterator[Finding]:
    """What a step holds beside the estimate that batches are divided by."""
    for name, rows, members in (("sft", 256, 1), ("dpo", 128, 2)):
        rows = 8 if place.miniature else rows
        held = 0
        with deterministic(place.device):
            steps = Steps(place, name, rows, members, architecture(place))
            for step in (1, 2):
                if place.is_gpu:
                    torch.cuda.reset_peak_memory_stats()
                    held = -torch.cuda.memory_allocated()
                steps.take(step)
        logit = bytes_per_logit(steps.recipe, False)
        one = bytes_per_sequence(steps.model.config, False, 57, 32, logit)
        estimate = rows * members * one
        if place.is_gpu:
            held += torch.cuda.max_memory_allocated()
        yield {"what": name, "estimate_gb": estimate / 1e9, "held_gb": held / 1e9}
        expect(held < 1.25 * estimate, f"{name}: a step holds more than 1.25 of the estimate")


def compiled(place: Place) -> Iterator[Finding]:
    """Layers compiled by Inductor: the same norms, and what a step takes."""
    norms: list[list[float]] = []
    for compiles in (False,) if place.miniature else (False, True):
        rows = 8 if place.miniature else 256
        with deterministic(place.device):
            steps = Steps(place, "sft", rows, 1, architecture(place), compile=compiles)
            norms.append([steps.take(step)["grad_norm"].value() for step in (1, 2, 3)])
            wait(place.device)
            begin = time.perf_counter()
            for step in range(4, 14):
                steps.take(step)
            wait(place.device)
        ms = 100 * (time.perf_counter() - begin)
        yield {"what": "compiled" if compiles else "eager", "ms": ms, "norms": norms[-1]}
    expect(np.allclose(norms[0], norms[-1], rtol=2e-2), f"norms of gradients differ: {norms}")
