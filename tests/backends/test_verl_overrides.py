"""Rows of the sheet as verl's command lines: read from golden files whose diffs are read, too."""

from pathlib import Path
from typing import Any

import pytest

from rlsubnet.backends.verl.command import NO_CLIP, Places, command, overrides
from tests.backends import verl_rows
from tests.sheets_of_row import checked_row

GOLDEN = Path(__file__).parent / "golden" / "verl"
MASK = Path("/w/masks/prime.safetensors")


def as_mapping(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def test_every_row_of_the_sheet_is_tested_here() -> None:
    assert tuple(verl_rows.paper().runs_of("verl")) == verl_rows.ROWS


@pytest.mark.parametrize("name", verl_rows.ROWS)
def test_a_row_becomes_the_command_line_that_was_read_before(name: str) -> None:
    golden = GOLDEN / f"{name}.txt"
    found = "".join(f"{line}\n" for line in verl_rows.overrides_of(name))
    assert found == golden.read_text(), f"if this is wanted, write it to {golden} and read the diff"


def changed(name: str, other: str) -> dict[str, tuple[str | None, str | None]]:
    """Return the keys that two rows differ in, but for names and places."""
    a, b = (as_mapping(verl_rows.overrides_of(each)) for each in (name, other))
    own = ("trainer.experiment_name", "trainer.default_local_dir", "hydra.run.dir")
    keys = [key for key in {**a, **b} if key not in (*own, "data.train_files", "data.val_files")]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def test_a_masked_run_differs_from_the_full_one_in_its_mask_alone() -> None:
    assert changed("prime", "prime_sub") == {
        "+actor_rollout_ref.subnetwork.mask": ("null", str(MASK)),
    }


def test_the_kl_switch_is_a_loss_term_and_the_reference_model_and_no_part_of_the_reward() -> None:
    assert changed("grpo_kl", "grpo_nokl") == {
        "actor_rollout_ref.actor.use_kl_loss": ("True", "False"),
        "actor_rollout_ref.actor.kl_loss_coef": ("0.001", "0.0"),
    }
    for name in verl_rows.ROWS:
        assert as_mapping(verl_rows.overrides_of(name))["algorithm.use_kl_in_reward"] == "False"


def test_the_clipping_switch_sets_a_bound_that_no_gradient_reaches() -> None:
    assert changed("grpo_kl", "grpo_noclip") == {
        "actor_rollout_ref.actor.grad_clip": ("1.0", str(NO_CLIP))
    }


def test_no_run_has_weight_decay_which_is_not_0_in_verl() -> None:
    for name in verl_rows.ROWS:
        found = as_mapping(verl_rows.overrides_of(name))
        assert found["actor_rollout_ref.actor.optim.weight_decay"] == "0.0"


def test_appendix_b_stands_in_the_command_line_of_prime() -> None:
    found = as_mapping(verl_rows.overrides_of("prime"))
    expected = {
        "data.train_batch_size": "64",
        "actor_rollout_ref.actor.optim.lr": "5e-07",
        "+prime.reward.lr": "1e-06",
        "actor_rollout_ref.rollout.n": "4",
        "+prime.reward.clip": "10.0",
        "+prime.reward.beta": "0.05",
        "trainer.total_epochs": "15",
    }
    assert {key: found[key] for key in expected} == expected
    # One update for each batch: 64 prompts, all of them in one mini-batch.
    assert found["actor_rollout_ref.actor.ppo_mini_batch_size"] == "64"
    assert found["+data.gen_batch_size"] == "256"


def test_more_settings_of_verl_come_last_and_so_win(tmp_path: Path) -> None:
    own = {"batch_size": 64, "samples": 4, "lr": 5e-7}
    own["overrides"] = ["data.truncation=left", "+own.key=1"]
    row = checked_row(tmp_path, verl_rows.own_row("x", "prime", own))
    assert overrides(row, verl_rows.PLACES)[-2:] == ["data.truncation=left", "+own.key=1"]


def test_a_resumed_run_differs_in_the_save_that_it_goes_on_from_alone() -> None:
    row, save = verl_rows.row("prime"), Path("/w/saves/global_step_42")
    begun = overrides(row, verl_rows.PLACES)
    resumed = overrides(row, verl_rows.PLACES._replace(resumed=save))
    assert [line for line in resumed if line not in begun] == [
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={save}",
    ]


def test_the_entry_point_is_that_of_the_algorithm() -> None:
    words = command(verl_rows.row("grpo_kl"), verl_rows.PLACES, "python")
    start = words.index("--")
    assert words[:4] == ["python", "-m", "rlsubnet.backends.launch", "ray"]
    assert words[start + 1 : start + 3] == ["-m", "rlsubnet.backends.verl.grpo"]


def test_on_several_nodes_ray_is_the_launcher_s_and_the_processes_are_shared() -> None:
    row = verl_rows.row("grpo_kl")
    words = command(row, verl_rows.PLACES._replace(nodes=2), "python", threads=64)
    assert words[:2] == ["srun", "--nodes=2"]
    found = as_mapping([word for word in words if "=" in word and not word.startswith("-")])
    assert (found["trainer.nnodes"], found["trainer.n_gpus_per_node"]) == ("2", "4")
    assert found["+ray_kwargs.ray_init.address"] == "auto"
    # Of a Ray that runs already verl may not say how many CPUs it has.
    assert "ray_kwargs.ray_init.num_cpus" not in found
    with pytest.raises(ValueError, match="key processes: expected a multiple of 3 nodes, found 8"):
        command(row, verl_rows.PLACES._replace(nodes=3), "python")


def test_a_place_with_blanks_and_signs_is_quoted() -> None:
    places = Places(Path("/w/a b=c/init"), Path("/w/verl"))
    lines = overrides(verl_rows.row("prime"), places)
    assert "actor_rollout_ref.model.path='/w/a b=c/init'" in lines


@pytest.mark.parametrize(
    ("algorithm", "recipe", "message"),
    [
        ("dpo", {}, "is for verl, which trains prime, grpo; the row's algorithm is dpo"),
        ("prime", {"lrr": 1.0}, r"unknown key 'lrr' \(did you mean 'lr'\?\)"),
        ("prime", {"lr": "fast"}, "its.lr: expected a number"),
        ("prime", {"kl_coef": 0.1}, "kl_coef: expected 0, PRIME has no such term"),
        ("prime", {"reward_batch": 60}, "reward_batch: expected a divisor of batch_size"),
        ("prime", {"reward_batch": 4}, "reward_batch: expected 4 responses to be a multiple"),
        ("prime", {"accuracy_low": 0.9}, "accuracy_low: expected at most accuracy_high 0.8"),
        ("grpo", {"updates": 3}, "updates: expected 256 responses to be a multiple"),
        ("grpo", {"per_process": 5}, "updates: expected 256 responses to be a multiple"),
    ],
)
def test_a_bad_row_is_refused_before_anything_starts(
    tmp_path: Path, algorithm: str, recipe: dict[str, Any], message: str
) -> None:
    own = {"batch_size": 64, "samples": 4, "lr": 5e-7, **recipe}
    with pytest.raises(ValueError, match=message):
        checked_row(tmp_path, verl_rows.own_row("x", algorithm, own))


def test_weight_decay_is_refused_only_where_it_moves_frozen_weights(tmp_path: Path) -> None:
    recipe = {"batch_size": 64, "samples": 4, "lr": 5e-7, "weight_decay": 0.01}
    checked_row(tmp_path, verl_rows.own_row("x", "grpo", recipe))
    with pytest.raises(ValueError, match="weight_decay: expected 0 in a run with a mask"):
        checked_row(tmp_path, verl_rows.own_row("x", "grpo", recipe, mask="p"))
