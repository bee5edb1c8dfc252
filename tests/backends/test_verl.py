"""PRIME and GRPO by the released verl, for real, in two CPU processes: `make test-verl`."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlsubnet.backends.verl.checkpoints import merge_step
from rlsubnet.backends.verl.overrides import Places, overrides
from rlsubnet.backends.verl.prompts import write_parquet
from rlsubnet.backends.verl.row import parse_row
from rlsubnet.backends.verl.saves import save_folder
from rlsubnet.checkpoints.masks import load_mask, save_mask
from rlsubnet.checkpoints.store import Checkpoint
from rlsubnet.objectives.prime import prime_advantages
from tests.backends import verl_runs

pytestmark = [
    pytest.mark.verl,
    pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: make test-verl"),
]


# One of the rows that the differ writes for each tensor.
EXACT = ("exact", "1e-05")


class Workplace:
    """A folder with the tiny model, its prompts, and the runs that were trained from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.init, self.prompts = folder / "init", folder / "toy.jsonl"
        verl_runs.save_model(self.init)
        verl_runs.save_prompts(self.prompts)

    def train(self, row: str, mask: Path | None = None) -> Path:
        """Train a row and return its folder: final/, metrics.csv and perhaps steps/."""
        values = parse_row(json.loads(row)["run"], row)
        out = self.folder / values["run"]
        verl_runs.rlsubnet(
            *("train_verl", values["run"], "--row", row, "--init", self.init),
            *("--data", self.prompts, "--scratch", out / "verl", "--threads", 3),
            *("--out", out / "final", "--metrics", out / "metrics.csv"),
            *(("--mask", mask) if mask else ()),
            *(("--steps", out / "steps") if values["recipe"]["checkpoint_every"] else ()),
        )
        return out

    def frozen(self, run: Path, mask: Path) -> tuple[int, int, int]:
        """Return how many frozen weights changed, how many of the mask did, and its size."""
        out = run / "frozen.csv"
        verl_runs.rlsubnet("frozen", self.init, run / "final", "--mask", mask, "--out", out)
        rows = list(csv.DictReader(out.open()))
        columns = ("frozen_changed", "subnetwork_changed", "subnetwork")
        frozen, changed, size = (sum(int(row[column]) for row in rows) for column in columns)
        return frozen, changed, size


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("verl"))


@pytest.fixture(scope="module")
def prime_full(place: Workplace) -> Path:
    return place.train(verl_runs.row("prime_full", "prime", checkpoint_every=3))


@pytest.fixture(scope="module")
def prime_mask(place: Workplace, prime_full: Path) -> Path:
    """The subnetwork of the full run, as the workflow finds it."""
    mask = place.folder / "prime.safetensors"
    verl_runs.rlsubnet("mask", place.init, prime_full / "final", "--rule", "bitwise", "--out", mask)
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


def test_a_full_prime_run_leaves_the_model_its_metrics_and_its_saved_steps(
    place: Workplace, prime_full: Path
) -> None:
    init, final = Checkpoint(place.init), Checkpoint(prime_full / "final")
    assert final.tensors.keys() == init.tensors.keys()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (prime_full / "final" / name).read_bytes() == (place.init / name).read_bytes()
    assert json.loads((prime_full / "final" / "manifest.json").read_text())["steps"] == 4
    assert [path.name for path in sorted((prime_full / "steps").iterdir())] == [
        "step-000003.delta",  # checkpoint_every, and the last one
        "step-000004.delta",
    ]
    rows = metrics_of(prime_full)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["lr"] == 5e-5 for row in rows)
    assert all(row["grad_norm"] and row["tokens"] for row in rows)
    assert rows[0]["grad_norm_masked"] is None
    assert not (prime_full / "verl").exists(), "verl's own saves are deleted"


def test_the_mask_holds_what_the_differ_counts_in_the_merged_model(
    place: Workplace, prime_full: Path, prime_mask: Path
) -> None:
    out = place.folder / "updates.csv"
    verl_runs.rlsubnet("updates", place.init, prime_full / "final", "--out", out)
    rows = [row for row in csv.DictReader(out.open()) if (row["rule"], row["atol"]) == EXACT]
    changed = {row["tensor"]: int(row["bitwise_changed"]) for row in rows}
    mask = load_mask(prime_mask)
    assert changed == {name: int(mask.read(name).sum()) for name in mask.names}
    print(f"PRIME: {sum(changed.values())} of 23584 weights changed")


def test_a_masked_prime_run_leaves_the_frozen_weights_bit_by_bit(
    place: Workplace, prime_mask: Path
) -> None:
    run = place.train(verl_runs.row("prime_sub", "prime", mask="prime"), prime_mask)
    frozen, changed, size = place.frozen(run, prime_mask)
    print(f"PRIME, FSDP1: frozen changed {frozen}, subnetwork moved {changed} of {size}")
    assert frozen == 0
    assert 0.2 * 23_584 < size < 0.8 * 23_584, "the mask freezes and trains a good part"
    assert changed > 0.7 * size
    for row in metrics_of(run):
        assert row["grad_norm_masked"] is not None and row["grad_norm"] is not None
        assert 0 < row["grad_norm_masked"] < row["grad_norm"]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("grpo_kl", {"kl_coef": 0.1, "strategy": "fsdp2", "overrides": ["critic.strategy=fsdp2"]}),
        ("grpo_nokl_noclip", {"clip": None, "updates": 2, "per_process": 4}),
    ],
)
def test_masked_grpo_with_and_without_kl_leaves_the_frozen_weights_bit_by_bit(
    place: Workplace, quarter: Path, name: str, recipe: dict[str, Any]
) -> None:
    # A large step, so that the policy leaves its reference within the four steps.
    run = place.train(verl_runs.row(name, "grpo", mask="quarter", lr=3e-3, **recipe), quarter)
    frozen, changed, size = place.frozen(run, quarter)
    print(f"{name}: frozen changed {frozen}, subnetwork moved {changed} of {size}")
    assert frozen == 0
    assert changed > 0.9 * size
    rows = metrics_of(run)
    assert len(rows) == 4
    if "kl_coef" in recipe:
        assert all(row["kl"] is not None for row in rows)
        assert rows[-1]["kl"] > 0
    else:
        assert all(row["kl"] is None for row in rows)


# One step of PRIME in float32, against plain torch in one process.


def logps_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of the responses' tokens, [B, T]."""
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).logits.float()
    count = batch["responses"].shape[1]
    logps = logits[:, -count - 1 : -1].log_softmax(-1)
    return logps.gather(-1, batch["responses"][..., None])[..., 0]


def entropies_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    count = batch["responses"].shape[1]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).logits[:, -count - 1 : -1]
    return torch.distributions.Categorical(logits=logits).entropy()


def rows_of(batch: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


def clipped_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def record(place: Workplace, update: str) -> tuple[dict[str, Tensor], Path]:
    """Return the batch of a first step, computed in float32, and the policy after it."""
    text = verl_runs.row(
        f"step_{update}",
        "prime",
        steps=1,
        lr=1e-3,
        reward_lr=1e-3,
        reward_update=update,
        entropy_coef=0.1,
        overrides=["actor_rollout_ref.actor.fsdp_config.dtype=float32"],
    )
    row = parse_row(f"step_{update}", text)
    places = Places(place.init, place.folder / row["run"])
    folder = places.scratch
    folder.mkdir()
    write_parquet(place.prompts, places.prompts)
    script = verl_runs.RAY_FILES / "verl_recording.py"
    variables = {"RECORDING": str(folder / "batch.pt"), "VERL_FILE_LOGGER_PATH": str(places.log)}
    done = subprocess.run(
        [sys.executable, str(script), *overrides(row, places, threads=3)],
        env=verl_runs.environment() | variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    actor = save_folder(places.saves, 1) / "actor"
    merge_step(actor, place.init, folder / "final", Path(sys.executable), {})
    return torch.load(folder / "batch.pt"), folder / "final"


@pytest.fixture(scope="module")
def recorded(place: Workplace) -> tuple[dict[str, Tensor], Path]:
    return record(place, "before")


class OneProcess:
    """The reward model in one process, and what it says of a recorded batch."""

    def __init__(self, init: Path, batch: Mapping[str, Tensor]) -> None:
        from transformers import AutoModelForCausalLM

        self.batch, self.mask = batch, batch["response_mask"].bool()
        self.model = AutoModelForCausalLM.from_pretrained(
            init, dtype=torch.float32, attn_implementation="eager"
        )
        self.reference = self.logps()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0)

    @torch.no_grad()
    def logps(self) -> Tensor:
        return logps_of(self.model, self.batch).masked_fill(~self.mask, 0.0)

    def learn(self, rows: list[int]) -> None:
        """Learn the outcomes of some responses: cross entropy of sigmoid(0.05 * gain)."""
        logps = logps_of(self.model, rows_of(self.batch, rows))
        gain = (logps - self.reference[rows]).masked_fill(~self.mask[rows], 0.0).sum(1)
        chance, right = torch.sigmoid(0.05 * gain), self.batch["outcomes"][rows]
        (-(right * chance.log() + (1 - right) * (1 - chance).log()).mean()).backward()
        clipped_step(self.model, self.optimizer, 10.0)


# Each process holds 16 of the 32 responses; reward_batch 16 is 8 of either.
SHARES = ([*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)])


def test_the_reward_model_learns_what_one_process_learns(
    place: Workplace, recorded: tuple[dict[str, Tensor], Path]
) -> None:
    batch, _ = recorded
    assert 0 < batch["outcomes"].mean() < 1
    one = OneProcess(place.init, batch)
    torch.testing.assert_close(batch["reference_logps"], one.reference, rtol=0, atol=1e-5)
    for rows in SHARES:
        one.learn(rows)
    updated = one.logps()
    moved = (updated - one.reference).abs().max().item()
    off = (updated - batch["reward_logps"]).abs().max().item()
    print(f"implicit reward model: log-probabilities moved by {moved:.1e}, differ by {off:.1e}")
    assert off < 1e-3 * moved
    expected = prime_advantages(updated, one.reference, batch["outcomes"], one.mask, 4, 0.05)
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=1e-2)


def test_updated_afterwards_the_reward_model_rewards_as_it_was_while_it_learned(
    place: Workplace,
) -> None:
    batch, _ = record(place, "after")
    one = OneProcess(place.init, batch)
    found = batch["reward_logps"]
    # The first share is rewarded by the start itself, the second after one update.
    first, second = SHARES
    torch.testing.assert_close(found[first], one.reference[first], rtol=0, atol=1e-5)
    one.learn(first)
    expected = one.logps()[second]
    moved = (expected - one.reference[second]).abs().max().item()
    assert (found[second] - expected).abs().max().item() < 1e-3 * moved


def test_the_policy_takes_the_step_that_one_process_takes(
    place: Workplace, recorded: tuple[dict[str, Tensor], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    batch, final = recorded
    model = AutoModelForCausalLM.from_pretrained(
        place.init, dtype=torch.float32, attn_implementation="eager"
    )
    init = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for first in range(0, 32, 8):  # micro-batches of 8: a mean over tokens in each, then over them
        part = rows_of(batch, list(range(first, first + 8)))
        mask = part["response_mask"].bool()
        gain = part["advantages"] * logps_of(model, part) + 0.1 * entropies_of(model, part)
        (-gain[mask].mean() / 4).backward()
    clipped_step(model, optimizer, 1.0)
    tuned = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
    same, moved, total = 0, 0, 0
    for name, weight in tuned.named_parameters():
        expected = model.get_parameter(name).detach().bfloat16().float()
        same += int((weight == expected).sum())
        moved += int((weight != init[name]).sum())
        total += weight.numel()
    print(f"policy: {moved} of {total} weights moved, {same} are the bits of one process")
    assert moved > 0.9 * total
    assert same > 0.99 * total
