"""What surrounds verl: its command line, its saves, its output, its process. Needs no verl."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.backends.processes import alone_in
from rlsubnet.backends.trainers import check_start, link_copy
from rlsubnet.backends.verl.command import (
    NO_CLIP,
    Places,
    check_prompts,
    command,
    overrides,
    read_report,
)
from rlsubnet.backends.verl.saves import check_rotary, read_metrics
from rlsubnet.backends.verl.training import environment
from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.files import write_jsonl
from rlsubnet.objectives.prime import preferred_rows
from tests.backends import verl_runs
from tests.checkpoints.checkpoint_files import make_weights, write_checkpoint
from tests.sheets_of_row import checked_row

PRIME_LOG = Path(__file__).parent / "fixtures" / "verl_prime_steps.jsonl"


def recipe_of(**changes: Any) -> SimpleNamespace:
    own = {"kl_coef": 0.0, "entropy_coef": 0.001, "batch_size": 8, "samples": 4, "steps": None}
    return SimpleNamespace(**{**own, **changes})


def logged(path: Path, *steps: tuple[int, dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps({"step": n, "data": data}) + "\n" for n, data in steps))
    return path


# What verl logged in a real run (PRIME, two CPU processes, one step of 32 responses).


def test_the_metrics_of_a_real_run_are_read_from_what_verl_logged():
    (row,) = read_metrics(PRIME_LOG, recipe_of())
    assert row["step"] == 1
    assert row["reward"] == 0.40625  # of all 64 responses drawn; 0.25 of those learned from
    assert row["response_length"] == 7.609375
    assert row["tokens"] == 231  # 32 responses of 7.21875 tokens
    assert row["lr"] == 0.001
    assert row["grad_norm"] == 0.61722
    assert row["grad_norm_masked"] == ""
    surrogate, entropy = -0.0001689596101641655, 4.324865564123376
    assert row["loss"] == pytest.approx(surrogate - 0.001 * entropy, rel=1e-6)


def test_a_kl_term_is_part_of_the_loss(tmp_path):
    data = {"rlsubnet/surrogate": -0.5, "rlsubnet/kl": 0.25, "actor/entropy": 4.0}
    log = logged(tmp_path / "log.jsonl", (1, data))
    (row,) = read_metrics(log, recipe_of(kl_coef=0.1, entropy_coef=0.0))
    assert row["loss"] == pytest.approx(-0.5 + 0.1 * 0.25)


def test_a_step_that_was_not_logged_is_an_error(tmp_path):
    data = {"rlsubnet/surrogate": 0.1}
    log = logged(tmp_path / "log.jsonl", (1, data), (3, data))
    with pytest.raises(ValueError, match=r"expected steps 1 to 2, found 2, the last \[3\]"):
        read_metrics(log, recipe_of())
    with pytest.raises(ValueError, match="expected steps 1 to 5, found 2"):
        read_metrics(log, recipe_of(steps=5))
    with pytest.raises(ValueError, match="no loss of step 1"):
        read_metrics(logged(log, (1, {"actor/lr": 0.1})), recipe_of())


# Saves and starts.


def test_a_start_is_in_bfloat16_and_the_mask_fits_it(tmp_path):
    folder = write_checkpoint(tmp_path / "single", make_weights(dtype=torch.float32))
    with pytest.raises(ValueError, match="is stored in F32; training in bfloat16 changes all"):
        check_start(folder, None)
    folder = write_checkpoint(tmp_path / "init", make_weights())
    check_start(folder, None)
    mask = tmp_path / "mask.safetensors"
    save_mask(mask, {"other.weight": np.ones((2, 2), bool)}, {})
    with pytest.raises(ValueError, match="other.weight"):
        check_start(folder, mask)


def test_a_config_whose_rotary_embeddings_verl_would_not_find_is_refused(tmp_path):
    of_5 = {"rope_parameters": {"rope_theta": 500000.0}}
    folder = write_checkpoint(tmp_path / "init", make_weights(), config=of_5)
    with pytest.raises(ValueError, match=r"rope_theta is 500000.0 in rope_parameters and None"):
        check_rotary(folder)
    check_rotary(write_checkpoint(tmp_path / "old", make_weights(), config={"rope_theta": 5e5}))


# The process.


def test_a_folder_is_not_free_before_the_last_process_that_stays_in_it_has_ended(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rlsubnet.backends.processes import stay_in\n"
        "stay_in(Path(sys.argv[1]))\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    with alone_in(tmp_path):  # two workers of its run; neither waits for the other
        workers = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
        assert all(worker.stdout and worker.stdout.readline() for worker in workers)
    for worker in workers:
        with pytest.raises(ValueError, match="training here .*staying"), alone_in(tmp_path, 0):
            pass
        worker.kill()
        worker.wait()
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize("other", [False, True], ids=["same file system", "another one"])
def test_what_is_placed_stays_where_it_was_too(tmp_path, other):
    memory = Path("/dev/shm")
    if other and not (memory.is_dir() and memory.stat().st_dev != tmp_path.stat().st_dev):
        pytest.skip("there is no other file system at /dev/shm")
    made = tmp_path / "final" / "inside"
    made.mkdir(parents=True)
    (made / "weights").write_text("weights")
    with TemporaryDirectory(dir=memory if other else tmp_path) as folder:
        target = Path(folder) / "run" / "final"
        link_copy(tmp_path / "final", target)
        found = target / "inside" / "weights"
        assert found.read_text() == (made / "weights").read_text() == "weights"
        assert found.samefile(made / "weights") != other, "no bytes are copied without need"
        assert [path.name for path in target.parent.iterdir()] == ["final"]


def test_rays_workers_find_this_package_and_nothing_asks_the_hub(tmp_path):
    places = Places(tmp_path / "init", tmp_path / "verl")
    variables = environment(SimpleNamespace(wandb={"mode": "offline"}), places)
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "verl" / "package")
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["WANDB_MODE"] == "offline"
    assert variables["VERL_FILE_LOGGER_PATH"] == str(places.log)


def test_an_environment_without_verl_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected verl 0.6.1 \(envs/verl.yaml\), found None"):
        read_report(Path(sys.executable), os.environ)
    with pytest.raises(ValueError, match="asking for versions failed"):
        read_report(Path(sys.executable), {**os.environ, "PYTHONHOME": str(tmp_path)})


# Groups and prompts.


def test_groups_keep_the_order_they_were_drawn_in_on_either_side_of_the_filter():
    # Twenty groups of four, every third of them half right: the first six of these, in order.
    right = [2.0 if group % 3 == 0 else 0.0 for group in range(20)]
    outcomes = torch.tensor([float(row < count) for count in right for row in range(4)])
    rows = preferred_rows(outcomes, torch.full((80,), 3), 4, 10, (0.2, 0.8), 10)
    groups = (rows.view(-1, 4)[:, 0] // 4).tolist()
    assert groups == [0, 3, 6, 9, 12, 15, 18, 1, 2, 4]
    assert rows.view(-1, 4).diff(dim=1).eq(1).all(), "the rows of a group stay together"
    with pytest.raises(ValueError, match="6 responses: expected at least 1 whole groups of 4"):
        preferred_rows(torch.ones(6), torch.full((6,), 3), 4, 1, (0.2, 0.8), 10)
    with pytest.raises(ValueError, match="outcomes: expected 0 or 1"):
        preferred_rows(torch.full((6,), 0.5), torch.full((6,), 3), 2, 1, (0.2, 0.8), 10)


def prompts_row(algorithm: str, batch_size: int, steps: int | None) -> Any:
    recipe = SimpleNamespace(batch_size=batch_size, oversample=2, epochs=3, steps=steps)
    return SimpleNamespace(algorithm=algorithm, recipe=recipe)


def test_prompts_that_end_before_the_run_does_are_found_before_it_starts(tmp_path):
    # Nine prompts: with two a step four steps an epoch, twelve in three; with four a step six.
    write_jsonl(tmp_path / "p.jsonl", [{}] * 9)
    for algorithm, steps in (("grpo", 12), ("prime", 6)):
        check_prompts(tmp_path / "p.jsonl", prompts_row(algorithm, 2, steps))
        with pytest.raises(ValueError, match=f"are {steps} steps in 3 epochs; expected at least"):
            check_prompts(tmp_path / "p.jsonl", prompts_row(algorithm, 2, steps + 1))
    with pytest.raises(ValueError, match="9 prompts, 10 of them a step, are 0 steps"):
        check_prompts(tmp_path / "p.jsonl", prompts_row("grpo", 10, None))


GOLDEN = Path(__file__).parent / "golden" / "verl"
MASK = Path("/w/masks/prime.safetensors")


def as_mapping(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def test_every_row_becomes_the_command_line_that_was_read_before():
    assert tuple(verl_runs.paper().runs_of("verl")) == verl_runs.ROWS
    for name in verl_runs.ROWS:
        golden, found = GOLDEN / f"{name}.txt", verl_runs.overrides_of(name)
        assert "".join(f"{line}\n" for line in found) == golden.read_text(), (
            f"if this is wanted, write it to {golden} and read the diff"
        )


ACTOR = "actor_rollout_ref.actor"


def test_two_rows_differ_by_what_tells_them_apart_alone():
    kl, coef, clip = (f"{ACTOR}.{key}" for key in ("use_kl_loss", "kl_loss_coef", "grad_clip"))
    differences: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
        ("prime", "prime_sub"): {"+actor_rollout_ref.subnetwork.mask": ("null", str(MASK))},
        # A term of the loss and the reference model, no part of the reward.
        ("grpo_kl", "grpo_nokl"): {kl: ("True", "False"), coef: ("0.001", "0.0")},
        # A bound that no gradient reaches.
        ("grpo_kl", "grpo_noclip"): {clip: ("1.0", str(NO_CLIP))},
    }
    own = ("trainer.experiment_name", "trainer.default_local_dir", "hydra.run.dir")
    for names, expected in differences.items():
        a, b = (as_mapping(verl_runs.overrides_of(name)) for name in names)
        keys = [key for key in {**a, **b} if key not in own and not key.endswith("_files")]
        assert {k: (a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)} == expected
        assert a["algorithm.use_kl_in_reward"] == b["algorithm.use_kl_in_reward"] == "False"


def test_more_settings_of_verl_come_last_and_so_win(tmp_path):
    own = {"batch_size": 64, "samples": 4, "lr": 5e-7}
    own["overrides"] = ["data.truncation=left", "+own.key=1"]
    row = checked_row(tmp_path, verl_runs.own_row("x", "prime", own))
    assert overrides(row, verl_runs.PLACES)[-2:] == ["data.truncation=left", "+own.key=1"]


def test_a_resumed_run_differs_in_the_save_that_it_goes_on_from_alone():
    row, save = verl_runs.paper_row("prime"), Path("/w/saves/global_step_42")
    begun = overrides(row, verl_runs.PLACES)
    resumed = overrides(row, verl_runs.PLACES._replace(resumed=save))
    assert [line for line in resumed if line not in begun] == [
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={save}",
    ]


def test_on_several_nodes_ray_is_the_launcher_s_and_the_processes_are_shared():
    row = verl_runs.paper_row("grpo_kl")
    words = command(row, verl_runs.PLACES, "python")
    assert words[:4] == ["python", "-m", "rlsubnet.backends.launch", "ray"]
    assert words[words.index("--") + 1 :][:2] == ["-m", "rlsubnet.backends.verl.grpo"]
    words = command(row, verl_runs.PLACES._replace(nodes=2), "python", threads=64)
    assert words[:2] == ["srun", "--nodes=2"]
    found = as_mapping([word for word in words if "=" in word and not word.startswith("-")])
    assert (found["trainer.nnodes"], found["trainer.n_gpus_per_node"]) == ("2", "4")
    assert found["+ray_kwargs.ray_init.address"] == "auto"
    # Of a Ray that runs already verl may not say how many CPUs it has.
    assert "ray_kwargs.ray_init.num_cpus" not in found


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
def test_a_bad_row_is_refused_before_anything_starts(tmp_path, algorithm, recipe, message):
    own = {"batch_size": 64, "samples": 4, "lr": 5e-7, **recipe}
    with pytest.raises(ValueError, match=message):
        checked_row(tmp_path, verl_runs.own_row("x", algorithm, own))
