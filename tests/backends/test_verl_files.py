"""What surrounds verl: its saves, its output, the process it runs in. Needs no verl."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.backends.processes import started
from rlsubnet.backends.verl.groups import preferred_rows
from rlsubnet.backends.verl.keeper import Keeper
from rlsubnet.backends.verl.metrics import logged_steps, read_metrics
from rlsubnet.backends.verl.overrides import Places
from rlsubnet.backends.verl.prompts import check_prompts, check_record
from rlsubnet.backends.verl.report import read_report
from rlsubnet.backends.verl.resuming import find_package, go_on_or_begin
from rlsubnet.backends.verl.saves import Save, finished_saves, mark_saved, save_folder
from rlsubnet.backends.verl.training import check_start, environment
from rlsubnet.checkpoints.delta import PatchedCheckpoint
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.checkpoints.store import Checkpoint
from rlsubnet.files import write_jsonl
from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint

PRIME_LOG = Path(__file__).parent / "fixtures" / "verl_prime_steps.jsonl"
RECIPE = {"kl_coef": 0.0, "entropy_coef": 0.001, "batch_size": 8, "samples": 4, "steps": None}


def logged(path: Path, *steps: tuple[int, dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps({"step": n, "data": data}) + "\n" for n, data in steps))
    return path


# What verl logged in a real run (PRIME, two CPU processes, one step of 32 responses).


def test_the_metrics_of_a_real_run_are_read_from_what_verl_logged() -> None:
    (row,) = read_metrics(PRIME_LOG, RECIPE)
    assert row["step"] == 1
    assert row["reward"] == 0.40625  # of all 64 responses drawn; 0.25 of those learned from
    assert row["response_length"] == 7.609375
    assert row["tokens"] == 231  # 32 responses of 7.21875 tokens
    assert row["lr"] == 0.001
    assert row["grad_norm"] == 0.61722
    assert row["grad_norm_masked"] == ""
    surrogate, entropy = -0.0001689596101641655, 4.324865564123376
    assert row["loss"] == pytest.approx(surrogate - 0.001 * entropy, rel=1e-6)


def test_a_kl_term_is_part_of_the_loss(tmp_path: Path) -> None:
    data = {"rlsubnet/surrogate": -0.5, "rlsubnet/kl": 0.25, "actor/entropy": 4.0}
    log = logged(tmp_path / "log.jsonl", (1, data))
    (row,) = read_metrics(log, {**RECIPE, "kl_coef": 0.1, "entropy_coef": 0.0})
    assert row["loss"] == pytest.approx(-0.5 + 0.1 * 0.25)


def test_a_step_that_was_not_logged_is_an_error(tmp_path: Path) -> None:
    data = {"rlsubnet/surrogate": 0.1}
    log = logged(tmp_path / "log.jsonl", (1, data), (3, data))
    with pytest.raises(ValueError, match=r"expected steps 1 to 2, found 2, the last \[3\]"):
        read_metrics(log, RECIPE)
    with pytest.raises(ValueError, match="expected steps 1 to 5, found 2"):
        read_metrics(log, {**RECIPE, "steps": 5})
    with pytest.raises(ValueError, match="no loss of step 1"):
        read_metrics(logged(log, (1, {"actor/lr": 0.1})), RECIPE)


# Saves and starts.


def saved(scratch: Path, *steps: int, resumable: tuple[int, ...] = (), last: int = 0) -> None:
    """Save and log steps as a run does."""
    for step in steps:
        folder = save_folder(scratch / "saves", step)
        (folder / "actor").mkdir(parents=True)
        (folder / "actor" / "model.pt").write_text(f"weights of step {step}")
        mark_saved(folder, resumable=step in resumable, last=step == last)
    log(scratch, steps[-1])


def log(scratch: Path, count: int) -> None:
    lines = (json.dumps({"step": step, "data": {}}) + "\n" for step in range(1, count + 1))
    (scratch / "steps.jsonl").write_text("".join(lines))


def test_a_save_counts_once_it_is_marked_and_its_step_is_logged(tmp_path: Path) -> None:
    saves = tmp_path / "saves"
    assert finished_saves(saves, 200) == []
    saved(tmp_path, 20, 100, 120, resumable=(100,))
    (saves / "global_step_140" / "actor").mkdir(parents=True)  # killed while it was written
    found = finished_saves(saves, logged_steps(tmp_path / "steps.jsonl"))
    assert [(save.step, save.resumable) for save in found] == [(20, 0), (100, 1), (120, 0)]
    assert [save.step for save in finished_saves(saves, 119)] == [20, 100]


def test_a_line_that_was_cut_off_is_no_step_of_the_log(tmp_path: Path) -> None:
    log(tmp_path, 3)
    path = tmp_path / "steps.jsonl"
    path.write_text(path.read_text()[:-1])
    assert logged_steps(path) == 2
    assert logged_steps(tmp_path / "absent") == 0


# Going on.

ROW = {"run": "r", "seed": 42, "wandb": {"mode": "disabled"}, "recipe": {"save_every": 4}}


def begun(scratch: Path, belongs_to: dict[str, Any] = ROW) -> Save | None:
    """Start or resume a run in ``scratch``."""
    places = Places(scratch / "init", scratch)
    find_package(places)
    return go_on_or_begin(places, belongs_to)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_goes_on_from_its_newest_whole_save_and_forgets_what_came_later(
    tmp_path: Path,
) -> None:
    assert begun(tmp_path) is None
    saved(tmp_path, 3, 4, 6, 7, resumable=(4, 7))
    log(tmp_path, 6)  # killed between saving step 7 and logging it
    with (tmp_path / "steps.jsonl").open("a") as stream:
        stream.write('{"step": 7, "da')
    (tmp_path / "saves" / "global_step_1").mkdir()
    (tmp_path / "steps").mkdir()
    for name in ("step-000002.delta", "step-000006.delta", ".step-000003.delta.partial"):
        (tmp_path / "steps" / name).touch()
    for name in ("merged", ".final.partial", "huggingface"):
        (tmp_path / name).mkdir()
    save = begun(tmp_path)
    assert save is not None and (save.step, save.last) == (4, False)
    assert names(tmp_path / "saves") == {"global_step_3", "global_step_4"}, "3 is to be packed"
    assert names(tmp_path / "steps") == {"step-000002.delta"}
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 4
    assert names(tmp_path) == {"package", "saves", "steps", "steps.jsonl", "belongs_to.json"}


def test_a_run_whose_last_step_is_saved_is_only_to_be_completed(tmp_path: Path) -> None:
    begun(tmp_path)
    saved(tmp_path, 4, 8, resumable=(4,), last=8)
    save = begun(tmp_path)
    assert save is not None and (save.step, save.last) == (8, True)


def test_weights_alone_are_nothing_to_go_on_from(tmp_path: Path) -> None:
    begun(tmp_path)
    saved(tmp_path, 3, 6)
    assert begun(tmp_path) is None
    assert names(tmp_path) == {"package", "belongs_to.json"}


def test_saves_of_another_run_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    saved(tmp_path, 4, resumable=(4,))
    with pytest.raises(ValueError, match=r"seed was 42 and is 7; delete .* to start from the beg"):
        begun(tmp_path, {**ROW, "seed": 7})
    weights = tmp_path / "saves" / "global_step_4" / "actor" / "model.pt"
    weights.write_text("weights")
    with pytest.raises(ValueError, match=r"model.pt: damaged: 17 bytes .* 7; delete .* to start"):
        begun(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.pt: damaged: 17 bytes were saved, found None"):
        begun(tmp_path)


def start_row(mask: str = "") -> dict[str, str]:
    return {"run": "r", "mask": mask}


def test_a_start_that_is_not_bfloat16_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "init", make_weights(dtype=torch.float32))
    with pytest.raises(ValueError, match="is stored in F32; training in bfloat16 changes all"):
        check_start(start_row(), folder, None)


def test_a_config_whose_rotary_embeddings_verl_would_not_find_is_refused(tmp_path: Path) -> None:
    of_5 = {"rope_parameters": {"rope_theta": 500000.0}}
    folder = write_checkpoint(tmp_path / "init", make_weights(), config=of_5)
    with pytest.raises(ValueError, match=r"rope_theta is 500000.0 in rope_parameters and None"):
        check_start(start_row(), folder, None)
    folder = write_checkpoint(tmp_path / "old", make_weights(), config={"rope_theta": 500000.0})
    check_start(start_row(), folder, None)


def test_mask_and_row_must_agree_and_the_mask_must_fit_the_start(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "init", make_weights())
    mask = tmp_path / "mask.safetensors"
    save_mask(mask, {"other.weight": np.ones((2, 2), bool)}, {})
    with pytest.raises(ValueError, match="run r: the row's mask is '', --mask is"):
        check_start(start_row(), folder, mask)
    with pytest.raises(ValueError, match="the row's mask is 'p', --mask is absent"):
        check_start(start_row("p"), folder, None)
    with pytest.raises(ValueError, match="other.weight"):
        check_start(start_row("p"), folder, mask)


def keeper_of(tmp_path: Path, every: int) -> tuple[Checkpoint, Keeper]:
    weights = make_weights()
    init = Checkpoint(write_checkpoint(tmp_path / "init", weights))

    def merge(actor: Path, out: Path) -> None:
        write_checkpoint(out, nudge(weights, seed=int(actor.parent.name.rpartition("_")[2])))

    places = Places(init.path, tmp_path)
    steps = places.steps if every else None
    return init, Keeper(StoredWeights(init.path), places.saves, places.log, steps, every, merge)


def test_saves_become_deltas_and_disappear_while_the_newest_stays(tmp_path: Path) -> None:
    init, keeper = keeper_of(tmp_path, every=2)
    saves, steps = tmp_path / "saves", tmp_path / "steps"
    saved(tmp_path, 2, 4)
    keeper.keep_finished()
    assert names(steps) == {"step-000002.delta"}
    assert names(saves) == {"global_step_4"}
    saved(tmp_path, 7, last=7)
    assert keeper.finish(tmp_path / "final") == 7
    assert names(steps) == {f"step-00000{step}.delta" for step in (2, 4, 7)}
    assert names(saves) == {"global_step_7"}, "so that it can be completed again"
    last = PatchedCheckpoint(init, steps / "step-000007.delta")
    assert last.digest() == Checkpoint(tmp_path / "final").digest()
    middle = PatchedCheckpoint(init, steps / "step-000004.delta")
    expected = nudge(make_weights(), seed=4)["lm_head.weight"].view(torch.int16).numpy()
    assert (middle.read("lm_head.weight") == expected.view("uint16")).all()
    # Killed after its delta was written, the run is completed with the same model.
    assert keeper.finish(tmp_path / "again") == 7
    assert Checkpoint(tmp_path / "again").digest() == last.digest()


def test_the_newest_save_to_go_on_from_stays_and_is_packed_if_it_is_wanted(tmp_path: Path) -> None:
    _, keeper = keeper_of(tmp_path, every=4)
    saves, steps = tmp_path / "saves", tmp_path / "steps"
    saved(tmp_path, 2, 4, 6, resumable=(2, 4))
    for _ in range(2):
        keeper.keep_finished()
        assert names(saves) == {"global_step_4", "global_step_6"}
        assert names(steps) == {"step-000004.delta"}, "2 was saved to go on from, not to keep"
    saved(tmp_path, 8, resumable=(8,))
    keeper.keep_finished()
    assert names(saves) == {"global_step_8"}


def test_a_run_that_did_not_save_its_last_step_is_an_error(tmp_path: Path) -> None:
    _, keeper = keeper_of(tmp_path, every=0)
    with pytest.raises(ValueError, match="verl ended well and did not save its last step"):
        keeper.finish(tmp_path / "final")
    saved(tmp_path, 2, resumable=(2,))
    with pytest.raises(ValueError, match="verl ended well and did not save its last step"):
        keeper.finish(tmp_path / "final")


# The process.


def test_whatever_happens_the_process_and_its_children_end(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "Path('new').write_text(str(child.pid)); Path('new').rename('pid')\n"
        "time.sleep(60)\n"
    )
    with (
        pytest.raises(KeyError),
        started([sys.executable, "-c", script], tmp_path, {}) as process,
    ):
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        raise KeyError
    assert process.returncode is not None
    child = (tmp_path / "pid").read_text()
    for _ in range(100):  # ended with its parent's group; nobody here waits for it
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True)
        if not state.stdout.strip() or state.stdout.strip().startswith(b"Z"):
            break
        time.sleep(0.02)
    else:
        pytest.fail(f"process {child} is still there")


def test_rays_workers_find_this_package_and_nothing_asks_the_hub(tmp_path: Path) -> None:
    places = Places(tmp_path / "init", tmp_path / "verl")
    variables = environment({"wandb": {"mode": "offline"}}, places)
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "verl" / "package")
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["WANDB_MODE"] == "offline"
    assert variables["VERL_FILE_LOGGER_PATH"] == str(places.log)


def test_an_environment_without_verl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected verl 0.6.1 \(envs/verl.yaml\), found None"):
        read_report(Path(sys.executable), {})
    with pytest.raises(ValueError, match="asking for versions failed"):
        read_report(Path(sys.executable), {"PYTHONHOME": str(tmp_path)})


# Groups and prompts.


def test_groups_keep_the_order_they_were_drawn_in_on_either_side_of_the_filter() -> None:
    # Twenty groups of four, every third of them half right: the first six of these, in order.
    right = [2.0 if group % 3 == 0 else 0.0 for group in range(20)]
    outcomes = torch.tensor([float(row < count) for count in right for row in range(4)])
    rows = preferred_rows(outcomes, torch.full((80,), 3), 4, 10, (0.2, 0.8), 10)
    groups = (rows.view(-1, 4)[:, 0] // 4).tolist()
    assert groups == [0, 3, 6, 9, 12, 15, 18, 1, 2, 4]
    assert rows.view(-1, 4).diff(dim=1).eq(1).all(), "the rows of a group stay together"


def test_the_filter_refuses_torn_groups_and_parts_of_a_point() -> None:
    lengths = torch.full((6,), 3)
    with pytest.raises(ValueError, match="6 responses: expected at least 1 whole groups of 4"):
        preferred_rows(torch.ones(6), lengths, 4, 1, (0.2, 0.8), 10)
    with pytest.raises(ValueError, match="outcomes: expected 0 or 1"):
        preferred_rows(torch.full((6,), 0.5), lengths, 2, 1, (0.2, 0.8), 10)


RECORD: dict[str, Any] = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "2+2?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 0, "level": None},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "2+2?"}, "prompt: expected a list of messages"),
        ({"reward_model": {"style": "rule", "ground_truth": 4}}, "expected a text ground_truth"),
    ],
)
def test_a_prompt_that_verl_could_not_grade_is_named_by_its_line(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    check_record(RECORD)
    write_jsonl(tmp_path / "p.jsonl", [RECORD, {**RECORD, **changes}])
    with pytest.raises(ValueError, match=f"p.jsonl, line 2: .*{message}"):
        check_prompts(tmp_path / "p.jsonl", prompts_row("grpo", 1, None))


def prompts_row(algorithm: str, batch_size: int, steps: int | None) -> dict[str, Any]:
    recipe = {"batch_size": batch_size, "oversample": 2, "epochs": 3, "steps": steps}
    return {"algorithm": algorithm, "recipe": recipe}


def test_prompts_that_end_before_the_run_does_are_found_before_it_starts(tmp_path: Path) -> None:
    # Nine prompts: with two a step four steps an epoch, twelve in three; with four a step six.
    write_jsonl(tmp_path / "p.jsonl", [RECORD] * 9)
    for algorithm, steps in (("grpo", 12), ("prime", 6)):
        check_prompts(tmp_path / "p.jsonl", prompts_row(algorithm, 2, steps))
        with pytest.raises(ValueError, match=f"are {steps} steps in 3 epochs; expected at least"):
            check_prompts(tmp_path / "p.jsonl", prompts_row(algorithm, 2, steps + 1))
    with pytest.raises(ValueError, match="9 prompts, 10 of them a step, are 0 steps"):
        check_prompts(tmp_path / "p.jsonl", prompts_row("grpo", 10, None))
