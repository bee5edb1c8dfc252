"""A training step reads nothing from the device: on a GPU a reading waits for all work before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlsubnet.checkpoints.masks import Mask
from rlsubnet.config.model import Recipe
from rlsubnet.evaluation.generate import SampleRequest
from rlsubnet.evaluation.loading import load_model
from rlsubnet.evaluation.sampler import StaticSampler
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training import optimizer as optimizer_module
from rlsubnet.training.batches import Sample, collate
from rlsubnet.training.credit import ASSIGNERS, Group, ValueCredit, make_rollouts
from rlsubnet.training.device import ChangedWeights
from rlsubnet.training.loop import ALGORITHMS, reference_logps, reference_point, train_step
from rlsubnet.training.masking import attach_mask
from rlsubnet.training.online import Experience, new_learner, policy_step
from rlsubnet.training.optimizer import MasterOptimizer
from tests.evaluation.tiny_models import tiny_model

CPU = torch.device("cpu")
RECIPE = {"steps": 4, "batch_size": 4, "lr": 1e-3, "samples": 2, "kl_coef": 0.1}
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
    """Counts the operations that make the program wait for the device, or refuses them."""

    def __init__(self, refuses: bool = True) -> None:
        super().__init__()
        self.refuses, self.reads = refuses, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in READS:
            self.reads += 1
            if self.refuses:
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
    # The AdamW of PPO's head counts its steps on the CPU, whatever the device: no reading.
    monkeypatch.setattr(ValueCredit, "update", lambda self, divisor: None)


def begin(base: Path, recipe: Recipe) -> tuple[Any, MasterOptimizer]:
    model = load_model(base)
    return model, MasterOptimizer(dict(model.named_parameters()), recipe)


def offline(base: Path, name: str, mask: Path | None = None, **keys: Any) -> Callable[[], object]:
    recipe = Recipe(**RECIPE, **keys)
    model, optimizer = begin(base, recipe)
    if mask is not None:
        optimizer.mask = attach_mask(optimizer.inner, optimizer.masters, Mask(mask))
    algorithm = ALGORITHMS[name]
    pairs = [(Sample([1, 5, 6, n, 2], 3), Sample([1, 5, 6, n, 9, 9, 2], 3)) for n in (7, 8, 9, 10)]
    examples = pairs if algorithm.reference or name in ("simpo", "orpo") else [p[:1] for p in pairs]
    reference = reference_logps(model, examples, 0, 4) if algorithm.reference else None
    batches = [collate(examples, part, 0, CPU) for part in ([0, 1], [2, 3])]
    changed = ChangedWeights(model)

    def step() -> object:
        mismatched = algorithm.mismatched and reference is not None
        point = reference_point(model, batches, reference) if mismatched else None
        changed.sparsity()
        return train_step(model, optimizer, algorithm, batches, reference, point, recipe, step=1)

    return step


def online(base: Path, name: str) -> Callable[[], object]:
    recipe = Recipe(**RECIPE, entropy_coef=0.01)
    learner = new_learner(name, *begin(base, recipe), build_tokenizer(), recipe)
    samples = [Sample([1, 5, 6, n, 2], 3) for n in (7, 8)]
    groups = [Group(samples, [True, False], True) for _ in range(4)]
    rollouts = make_rollouts(groups, recipe, 0, CPU)
    reference = torch.zeros(rollouts.batch.targets.shape)

    def step() -> object:
        credit = learner.credit.assign(rollouts, reference)
        return policy_step(learner, Experience(rollouts, credit, reference, None), step=1)

    return step


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", [*ALGORITHMS, *ASSIGNERS])
def test_a_step_reads_nothing(base, name, monkeypatch):
    step = (online if name in ASSIGNERS else offline)(base, name)
    with watched(monkeypatch):
        step()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("keys", [{}, {"optimizer": "sgd"}, {"mask_at": "pre_clip"}])
def test_a_masked_step_reads_nothing(base, mask, keys, monkeypatch):
    step = offline(base, "dpo", mask, **keys)
    with watched(monkeypatch):
        step()


def test_the_watch_sees_a_step_that_reads_its_norm(base, monkeypatch):
    step = offline(base, "sft")
    with pytest.raises(AssertionError, match="waits for the device"), watched(monkeypatch):
        step()


@pytest.mark.parametrize("how", [(), (1.0, torch.Generator().manual_seed(0), 8)])
def test_drawing_asks_every_16_tokens_whether_to_go_on(how):
    sampler = StaticSampler(tiny_model())
    endless = SampleRequest([[1] * 9, [1] * 5], 40, *how, eos=-1, pad=0)
    with Watch(refuses=False) as watch:
        assert sampler(endless).shape[1] == 40
    # Whether a prompt is padded; behind 16, 32 and 40 tokens whether logits are finite, behind the
    # first two whether a row goes on.
    assert watch.reads == 1 + 2 * 2 + 1
