"""PRIME and GRPO by the released verl, for real, in two CPU processes: `make test-verl`."""

import copy
import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.backends.processes import is_marked
from rlsubnet.backends.verl.command import Places
from rlsubnet.backends.verl.saves import logged_steps, save_folder
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import step_file
from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.files import sha256
from tests.backends import verl_runs
from tests.sheets_of_row import train_command

pytestmark = verl_runs.NEEDS_VERL

Moment = Callable[[Places], bool]


class Workplace:
    """A folder with the tiny model, its prompts, and the runs that were trained from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.init = folder / "init"
        verl_runs.save_model(self.init)

    def train(self, row: Mapping[str, Any], mask: Path | None = None, prompts: int = 64) -> Path:
        out = self.folder / row["run"]
        out.mkdir(exist_ok=True)
        verl_runs.rlsubnet(out / "log", *self._words(row, mask, prompts))
        return out

    def train_until_killed(
        self,
        row: Mapping[str, Any],
        mask: Path,
        prompts: int,
        moment: Callable[[Places], bool],
        workers: bool = True,
    ) -> Path:
        out = self.folder / row["run"]
        places = Places(self.init, out / "verl")
        out.mkdir(exist_ok=True)
        process = verl_runs.start_rlsubnet(out / "log", *self._words(row, mask, prompts))
        while not moment(places):
            assert process.poll() is None, (out / "log").read_text()[-6000:]
            time.sleep(0.001)
        verl_runs.kill_all(process, workers)
        return out

    def _words(self, row: Mapping[str, Any], mask: Path | None, prompts: int) -> list[str]:
        data = self.folder / f"prompts_{prompts}.jsonl"
        verl_runs.save_prompts(data, prompts)
        words = train_command(self.folder / row["run"], row, data, self.init, mask)
        return [*words, "--threads", "3"]

    def frozen(self, run: Path, mask: Path) -> tuple[int, int, int]:
        out = run / "frozen.csv"
        words = ("frozen", self.init, run / "final", "--mask", mask, "--out", out)
        verl_runs.rlsubnet(run / "log", *words)
        rows = list(csv.DictReader(out.open()))
        columns = ("frozen_changed", "subnetwork_changed", "subnetwork")
        frozen, changed, size = (sum(int(row[column]) for row in rows) for column in columns)
        return frozen, changed, size


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("verl"))


@pytest.fixture(scope="module")
def prime_full(place: Workplace) -> Path:
    return place.train(verl_runs.row("prime_full", "prime"))


@pytest.fixture(scope="module")
def prime_mask(place: Workplace, prime_full: Path) -> Path:
    """The subnetwork of the full run, as the workflow finds it."""
    mask = place.folder / "prime.safetensors"
    words = ("mask", place.init, prime_full / "final", "--rule", "bitwise", "--out", mask)
    verl_runs.rlsubnet(prime_full / "log", *words)
    return mask


@pytest.fixture(scope="module")
def quarter(place: Workplace) -> Path:
    """A mask of a quarter of the weights, drawn at random."""
    numbers = np.random.default_rng(7)
    shapes = {name: info.shape for name, info in Checkpoint(place.init).tensors.items()}
    masks = {name: numbers.random(shape) < 0.25 for name, shape in shapes.items()}
    path = place.folder / "quarter.safetensors"
    save_mask(path, masks, {"rule": "random", "atol": "0", "init_sha256": "", "tuned_sha256": ""})
    return path


def metrics_of(run: Path) -> list[dict[str, float | None]]:
    with (run / "metrics.csv").open() as stream:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(stream)
        ]


def test_a_full_prime_run_leaves_the_model_and_its_metrics(place, prime_full):
    init, final = Checkpoint(place.init), Checkpoint(prime_full / "final")
    assert final.tensors.keys() == init.tensors.keys()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (prime_full / "final" / name).read_bytes() == (place.init / name).read_bytes()
    assert json.loads((prime_full / "final" / "manifest.json").read_text())["steps"] == 4
    rows = metrics_of(prime_full)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["lr"] == 5e-5 for row in rows)
    assert all(row["grad_norm"] and row["tokens"] for row in rows)
    assert rows[0]["grad_norm_masked"] is None
    assert not (prime_full / "verl").exists(), "verl's own saves are deleted"


@pytest.fixture(scope="module")
def prime_sub(place: Workplace, prime_mask: Path) -> Path:
    """A masked run of two steps an epoch, which saves models along its way."""
    row = verl_runs.row("prime_sub", "prime", mask="prime", checkpoint_every=3)
    return place.train(row, prime_mask, prompts=32)


def test_a_masked_prime_run_leaves_the_frozen_weights_bit_by_bit(place, prime_mask, prime_sub):
    frozen, changed, size = place.frozen(prime_sub, prime_mask)
    print(f"PRIME, FSDP1: frozen changed {frozen}, subnetwork moved {changed} of {size}")
    assert frozen == 0
    assert 0.2 * 23_584 < size < 0.8 * 23_584, "the mask freezes and trains a good part"
    assert changed > 0.7 * size
    for row in metrics_of(prime_sub):
        assert row["grad_norm_masked"] is not None and row["grad_norm"] is not None
        assert 0 < row["grad_norm_masked"] < row["grad_norm"]
    assert [path.name for path in sorted((prime_sub / "steps").iterdir())] == [
        "step-000003.delta",  # checkpoint_every, and the last one
        "step-000004.delta",
    ]


# With a large step, so that the policy leaves its reference within the four steps.
GRPO_KL = {"kl_coef": 0.1, "strategy": "fsdp2", "overrides": ["critic.strategy=fsdp2"], "lr": 3e-3}
GRPO_PLAIN = {"clip": None, "updates": 2, "per_process": 4, "lr": 3e-3}


@pytest.fixture(scope="module")
def grpo_kl(place: Workplace, quarter: Path) -> Path:
    """A masked run of two steps an epoch."""
    row = verl_runs.row("grpo_kl", "grpo", mask="quarter", **GRPO_KL)
    return place.train(row, quarter, prompts=16)


def check_masked_grpo(place: Workplace, run: Path, mask: Path) -> list[dict[str, float | None]]:
    frozen, changed, size = place.frozen(run, mask)
    print(f"{run.name}: frozen changed {frozen}, subnetwork moved {changed} of {size}")
    assert frozen == 0
    assert changed > 0.9 * size
    rows = metrics_of(run)
    assert len(rows) == 4
    return rows


def test_masked_grpo_with_kl_leaves_the_frozen_weights_bit_by_bit(place, quarter, grpo_kl):
    rows = check_masked_grpo(place, grpo_kl, quarter)
    assert all(row["kl"] is not None for row in rows)
    assert rows[-1]["kl"] is not None and rows[-1]["kl"] > 0


def test_masked_grpo_without_kl_and_clipping_leaves_the_frozen_weights_bit_by_bit(place, quarter):
    row = verl_runs.row("grpo_nokl_noclip", "grpo", mask="quarter", **GRPO_PLAIN)
    rows = check_masked_grpo(place, place.train(row, quarter), quarter)
    assert all(row["kl"] is None for row in rows)


# Killed runs, of two steps an epoch: what is left of the first is taken up, or the second.


def while_saving(step: int) -> Moment:
    """Name the moment when a save has files and is not finished."""

    def is_now(places: Places) -> bool:
        folder = save_folder(places.saves, step)
        return any(folder.rglob("*.pt")) and not is_marked(folder)

    return is_now


def once_logged(step: int) -> Moment:
    """Name the moment when a step is in the log, and its save therefore counts."""
    return lambda places: logged_steps(places.log) >= step


def once_packed(step: int) -> Moment:
    """Name the moment when a save has become a delta and is still there."""
    return lambda places: (places.steps / step_file(step)).exists()


def check_completed(place: Workplace, row: str, mask: Path, prompts: int, undisturbed: Path) -> str:
    out = place.train(row, mask, prompts)
    assert not (out / "verl").exists()
    names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*.delta"))
    for name in (Path("metrics.csv"), Path("final/model.safetensors"), *names):
        assert sha256(out / name) == sha256(undisturbed / name), name
    return (out / "log").read_text()


def test_a_killed_masked_prime_run_goes_on_to_the_bits_of_an_undisturbed_one(
    place, prime_mask, prime_sub
):
    row = verl_runs.row("prime_killed", "prime", mask="prime", checkpoint_every=3, save_every=1)
    for moment in (while_saving(2), once_packed(3)):
        out = place.train_until_killed(row, prime_mask, 32, moment)
        with (out / "verl" / "steps.jsonl").open("a") as log:
            log.write('{"step": 9, "da')  # as the kill may have cut it off
    words = check_completed(place, row, prime_mask, 32, prime_sub)
    assert "prime_killed: resumed after step 1" in words
    assert "prime_killed: resumed after step 4" in words


def test_a_masked_grpo_run_that_was_killed_and_could_not_write_ends_with_the_same_bits(
    place, quarter, grpo_kl
):
    row = verl_runs.row("grpo_killed", "grpo", mask="quarter", save_every=2, **GRPO_KL)
    out = place.train_until_killed(row, quarter, 16, once_logged(2), workers=False)
    (out / "metrics.csv").mkdir()
    with pytest.raises(AssertionError, match="Is a directory"):
        place.train(row, quarter, 16)
    (out / "metrics.csv").rmdir()
    words = check_completed(place, row, quarter, 16, grpo_kl)
    assert "grpo_killed: resumed after step 2" in words
    assert "grpo_killed: resumed after step 4" in words


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_of_the_prompts_is_torch_s_and_is_taken_up_anywhere_in_any_epoch(workers):
    from torch.utils.data import RandomSampler
    from torchdata.stateful_dataloader import StatefulDataLoader

    from rlsubnet.backends.verl.trainer.saving import ResumableOrder

    prompts = list(range(11))  # of which each epoch leaves three out

    def loader(kind: type[RandomSampler]) -> StatefulDataLoader[int]:
        return StatefulDataLoader(
            prompts,
            batch_size=4,
            sampler=kind(prompts, generator=torch.Generator().manual_seed(42)),
            num_workers=workers,
            drop_last=True,
            collate_fn=list,
        )

    def batches(source: StatefulDataLoader[int]) -> Iterator[list[int]]:
        for _ in range(3):
            yield from source

    expected = list(batches(loader(RandomSampler)))
    assert len(expected) == 6
    whole = loader(ResumableOrder)
    for done, batch in enumerate(batches(whole), start=1):
        assert batch == expected[done - 1]
        resumed = loader(ResumableOrder)
        resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        assert list(batches(resumed))[: 6 - done] == expected[done:]
    state: dict[str, Any] | None = None
    for batch in expected:  # killed after every one
        source = loader(ResumableOrder)
        if state is not None:
            source.load_state_dict(state)
        assert next(batches(source)) == batch
        state = copy.deepcopy(source.state_dict())
