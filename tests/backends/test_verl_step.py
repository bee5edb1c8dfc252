"""One step of PRIME by the released verl, in float32, against plain torch in one process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlsubnet.backends.verl.command import Places, overrides, write_parquet
from rlsubnet.backends.verl.saves import merge_step, save_folder
from rlsubnet.objectives.prime import prime_advantages
from tests.backends import verl_runs
from tests.sheets_of_row import checked_row

pytestmark = verl_runs.NEEDS_VERL


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verl_step") / "init"
    verl_runs.save_model(folder)
    return folder


def logits_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return those that the tokens of the responses were drawn from."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    return model(**inputs, use_cache=False).logits[:, -batch["responses"].shape[1] - 1 : -1]


def logps_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    logps = logits_of(model, batch).float().log_softmax(-1)
    return logps.gather(-1, batch["responses"][..., None])[..., 0]


def entropies_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return torch.distributions.Categorical(logits=logits_of(model, batch)).entropy()


def rows_of(batch: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


def clipped_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def record(init: Path, update: str) -> tuple[dict[str, Tensor], Path]:
    own = verl_runs.row(
        f"step_{update}",
        "prime",
        steps=1,
        lr=1e-3,
        reward_lr=1e-3,
        reward_update=update,
        entropy_coef=0.1,
        overrides=["actor_rollout_ref.actor.fsdp_config.dtype=float32"],
    )
    row = checked_row(init.parent, own)
    places = Places(init, init.parent / row.run)
    folder = places.scratch
    folder.mkdir()
    prompts = folder / "toy.jsonl"
    verl_runs.save_prompts(prompts)
    write_parquet(prompts, places.prompts)
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
    merge_step(actor, init, folder / "final", Path(sys.executable), os.environ)
    return torch.load(folder / "batch.pt"), folder / "final"


@pytest.fixture(scope="module")
def recorded(init: Path) -> tuple[dict[str, Tensor], Path]:
    return record(init, "before")


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


def test_the_reward_model_learns_what_one_process_learns(init, recorded):
    batch, _ = recorded
    assert 0 < batch["outcomes"].mean() < 1
    one = OneProcess(init, batch)
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


def test_updated_afterwards_the_reward_model_rewards_as_it_was_while_it_learned(init):
    batch, _ = record(init, "after")
    one = OneProcess(init, batch)
    found = batch["reward_logps"]
    # The first share is rewarded by the start itself, the second after one update.
    first, second = SHARES
    torch.testing.assert_close(found[first], one.reference[first], rtol=0, atol=1e-5)
    one.learn(first)
    expected = one.logps()[second]
    moved = (expected - one.reference[second]).abs().max().item()
    assert (found[second] - expected).abs().max().item() < 1e-3 * moved


def test_the_policy_takes_the_step_that_one_process_takes(init, recorded):
    from transformers import AutoModelForCausalLM

    batch, final = recorded
    model = AutoModelForCausalLM.from_pretrained(
        init, dtype=torch.float32, attn_implementation="eager"
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
