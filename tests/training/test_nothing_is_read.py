"""A training step reads nothing from the device: on a GPU a reading waits for all work before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlsubnet.config.model import Recipe
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training import optimizer as optimizer_module
from rlsubnet.training.batches import Sample, collate
from rlsubnet.training.credit import ASSIGNERS, Group, ValueCredit, make_rollouts
from rlsubnet.training.device import ChangedWeights
from rlsubnet.training.loop import ALGORITHMS, reference_logps, reference_point, train_step
from rlsubnet.training.masking import Layout, attach_layout, whole
from rlsubnet.training.model import new_model
from rlsubnet.training.online import Experience, Learner, new_learner, policy_step
from rlsubnet.training.optimizer import MasterOptimizer
from tests.training.training_runs import ARCHITECTURE

CPU = torch.device("cpu")
RECIPE = Recipe(steps=4, batch_size=4, lr=1e-3, samples=2, kl_coef=0.1, entropy_coef=0.01)
aten = torch.ops.aten
# Operations whose result the program needs, or whose result has a size that depends on numbers.
READS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.repeat_interleave,
}


class Watch(TorchDispatchMode):
    """Refuses every operation that would make the program wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in READS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse readings, also those that are no operation."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a tensor is copied to the program")

    with monkeypatch.context() as patch, Watch():
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, refuse)
        yield


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "read_every", lambda device: 20)


class EveryOther:
    """A mask of every other weight, not read from a file."""

    path = "none"

    def check_shapes(self, *_: Any) -> None:
        """Fit every model."""

    def is_empty(self) -> bool:
        """Return that something may move."""
        return False

    def read_range(self, name: str, start: int, numel: int) -> np.ndarray:
        """Return the bits of a part."""
        return np.arange(start, start + numel) % 2 == 0


def parts_of(masked: bool) -> tuple[Any, MasterOptimizer]:
    model = new_model(ARCHITECTURE, build_tokenizer(), seed=1)
    optimizer = MasterOptimizer(dict(model.named_parameters()), RECIPE)
    if masked:
        shapes = {name: tuple(master.shape) for name, master in optimizer.masters.items()}
        held = [whole(name, master) for name, master in optimizer.masters.items()]
        mask: Any = EveryOther()
        optimizer.mask = attach_layout(Layout(optimizer.inner, shapes, held), mask)
    return model, optimizer


def offline(name: str, masked: bool = False) -> Callable[[], object]:
    model, optimizer = parts_of(masked)
    algorithm = ALGORITHMS[name]
    pairs = [(Sample([1, 5, 6, n, 2], 3), Sample([1, 5, 6, n, 9, 9, 2], 3)) for n in (7, 8, 9, 10)]
    examples = pairs if algorithm.reference or name in ("simpo", "orpo") else [p[:1] for p in pairs]
    reference = reference_logps(model, examples, 0, 4) if algorithm.reference else None
    batches = [collate(examples, part, 0, CPU) for part in ([0, 1], [2, 3])]
    changed = ChangedWeights(model)

    def step() -> object:
        point = None
        if algorithm.mismatched:
            assert reference is not None
            point = reference_point(model, batches, reference)
        changed.sparsity()
        return train_step(model, optimizer, algorithm, batches, reference, point, RECIPE, step=1)

    return step


def online(name: str) -> Callable[[], object]:
    model, optimizer = parts_of(masked=False)
    learner: Learner = new_learner(name, model, optimizer, build_tokenizer(), RECIPE)
    samples = [Sample([1, 5, 6, n, 2], 3) for n in (7, 8)]
    groups = [Group(samples, [True, False], True) for _ in range(4)]
    rollouts = make_rollouts(groups, RECIPE, 0, CPU)
    reference = torch.zeros(rollouts.batch.targets.shape)

    def step() -> object:
        credit = learner.credit.assign(rollouts, reference)
        return policy_step(learner, Experience(rollouts, credit, reference, None), step=1)

    return step


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_on_given_data_reads_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = offline(name)
    with watched(monkeypatch):
        step()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_masked_step_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    step = offline("dpo", masked=True)
    with watched(monkeypatch):
        step()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", ASSIGNERS)
def test_learning_from_drawn_responses_reads_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The AdamW of PPO's head counts its steps on the CPU, whatever the device: no reading.
    monkeypatch.setattr(ValueCredit, "update", lambda self, divisor: None)
    step = online(name)
    with watched(monkeypatch):
        step()


def test_the_watch_sees_a_step_that_reads_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    step = offline("sft")
    with pytest.raises(AssertionError, match="waits for the device"), watched(monkeypatch):
        step()
