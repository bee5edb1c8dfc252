"""From row to files around a stand-in for accelerate: what is checked, kept, moved and removed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsubnet.backends.open_instruct.training import SCRIPT, OpenInstruct, find_checkout
from rlsubnet.backends.processes import alone_in, mark_saved
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.cli import main
from rlsubnet.config.layout import RunFiles
from tests.backends.programs import checkout, script
from tests.backends.small_llama import write_model, write_pairs
from tests.sheets_of_row import checked_row, train_command

# Does what accelerate, our launchers and the script do to files: nothing is trained, every weight
# that is not 0 doubles.
STAND_IN = """#!{python}
import json, os, sys, time
from pathlib import Path

words = sys.argv[1:]
value = lambda flag: words[words.index(flag) + 1]
behave = os.environ.get("STAND_IN", "")
assert words[:3] == ["-m", "rlsubnet.backends.launch", "accelerate"], words
assert Path("open_instruct/dpo_tune_cache.py").is_file(), "not in the checkout"
if behave == "fail":
    sys.exit(3)
if behave == "sleep":
    child = os.fork()
    Path(value("--records"), "pid" if child else "child").write_text(str(os.getpid()))
    time.sleep(60)
records, steps = Path(value("--records")), 3
out = Path(value("--output_dir"), "__".join([value("--exp_name"), value("--seed")]))
with open(records / "steps.jsonl", "w") as stream:
    for step in range(1, steps + (behave != "lose")):
        line = dict(step=step, loss=0.5, reward=0.1, grad_norm=2.0, grad_norm_masked=None, lr=1e-3)
        stream.write(json.dumps(line) + "\\n")
report = {{"steps": steps, "engine": {{"zero_stage": 3}}, "packages": {{"torch": "0"}}}}
(records / "report.json").write_text(json.dumps(report))
if behave == "lose":
    sys.exit()
import torch
from safetensors.torch import load_file
out.mkdir(parents=True, exist_ok=True)
state = load_file(Path(value("--model_name_or_path")) / "model.safetensors")
state = {{name: 2 * tensor for name, tensor in state.items()}}
names, shards = sorted(state), [f"pytorch_model-0000{{i}}-of-00002.bin" for i in (1, 2)]
for shard, part in zip(shards, (names[:5], names[5:])):
    torch.save({{name: state[name] for name in part}}, out / shard)
weight_map = {{name: shards[0 if name in names[:5] else 1] for name in names}}
(out / "pytorch_model.bin.index.json").write_text(json.dumps({{"weight_map": weight_map}}))
(out / "config.json").write_text('{{"written by": "another version"}}')
(out / "tokenizer.json").write_text("{{}}")
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "init"
    write_model(folder)
    return folder


class Bench:
    """A checkout, an interpreter, data and a model; and the command on them."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.init = root, model
        self.checkout = root / "open-instruct"
        config = "configs/ds_configs/stage3_no_offloading_accelerate.conf"
        files = {SCRIPT: "pass\n", config: '{"gradient_clipping": "auto"}'}
        self.commit = checkout(self.checkout, files)
        self.python = script(root / "python", STAND_IN.format(python=sys.executable))
        self.data = root / "pairs.jsonl"
        write_pairs(self.data, 8)
        self.run = root / "run"
        self.scratch, self.out = self.run / "open_instruct", self.run / "final"
        self.metrics = self.run / "metrics.csv"

    def words(self, checkout: str = "", **recipe: Any) -> list[str]:
        settings = {"commit": self.commit, "lr": 1e-3, "beta": 5.0, "processes": 2, "accumulate": 2}
        row = {
            **{"run": "dpo", "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"},
            **{"data": "pairs", "recipe": settings | recipe, "seed": 42},
        }
        where = {"checkout": checkout or str(self.checkout), "python": str(self.python)}
        backends = {"open_instruct": where}
        return train_command(self.run, row, self.data, self.init, backends=backends)


@pytest.fixture
def bench(tmp_path: Path, model: Path) -> Bench:
    return Bench(tmp_path, model)


@pytest.fixture
def refused(bench: Bench, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(**options: Any) -> str:
        assert main(bench.words(**options)) == 1
        assert not bench.out.exists()
        assert not bench.metrics.exists()
        return capfd.readouterr().err

    return run


def test_a_run_becomes_a_folder_that_differs_from_its_start_in_the_weights_alone(bench):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stale = bench.scratch / "output" / "dpo__42__1"  # of a killed run, and no whole save
    stale.mkdir(parents=True)
    (stale / "pytorch_model.bin").write_text("old")
    assert main(bench.words()) == 0
    assert not bench.scratch.exists()
    start, tuned = Checkpoint(bench.init), Checkpoint(bench.out)
    assert list(tuned.tensors) == list(start.tensors)
    for name in start.tensors:
        before, after = (
            torch.from_numpy(c.read(name).copy()).view(torch.bfloat16) for c in (start, tuned)
        )
        assert torch.equal(after, 2 * before), name
    kept = {path.name for path in bench.init.iterdir()}
    assert {path.name for path in bench.out.iterdir()} == kept | {"manifest.json"}
    for name in kept - {"model.safetensors"}:
        assert (bench.out / name).read_bytes() == (bench.init / name).read_bytes(), name
    AutoModelForCausalLM.from_pretrained(bench.out)
    assert AutoTokenizer.from_pretrained(bench.out)("ab").input_ids == [64, 65]
    with bench.metrics.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    first = {key: value for key, value in rows[0].items() if value}
    expected = {"step": "1", "loss": "0.5", "reward": "0.1", "grad_norm": "2.0", "lr": "0.001"}
    assert first == expected
    manifest = json.loads((bench.out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["row"]["recipe"]["commit"] == bench.commit
    assert (manifest["steps"], manifest["batch_size"]) == (3, 4)
    assert manifest["packages"] == {"torch": "0"}
    assert manifest["inputs_sha256"]["init"] == start.digest()


def test_a_checkout_that_is_none_or_another_or_modified_is_refused(bench, refused, monkeypatch):
    message = refused(commit="c35cd715f75931dc9b8bc5888b9f8f8fc53a144a")
    assert "expected commit c35cd715f75931dc9b8bc5888b9f8f8fc53a144a" in message
    assert f"found {bench.commit}; run git checkout c35cd715" in message
    (bench.checkout / "open_instruct" / "dpo_tune_cache.py").write_text("fail\n")
    assert "differ from commit" in refused()
    assert f"{bench.root}: not a checkout of open-instruct" in refused(checkout=str(bench.root))
    monkeypatch.delenv("OPEN_INSTRUCT_DIR", raising=False)
    with pytest.raises(ValueError, match="no checkout of open-instruct: set .* OPEN_INSTRUCT_DIR"):
        find_checkout("")


def test_a_run_that_is_not_whole_leaves_no_result(refused, monkeypatch):
    monkeypatch.setenv("STAND_IN", "lose")
    assert "expected steps 1 to 3, found 2" in refused()


def test_less_than_a_batch_of_pairs_is_refused_before_anything_starts(bench, refused):
    write_pairs(bench.data, 3)
    assert "3 pairs, expected a batch of 4" in refused()
    assert not bench.scratch.exists()


def test_a_run_with_another_clip_has_a_configuration_of_its_own_which_stays_if_it_fails(
    bench, refused, monkeypatch
):
    monkeypatch.setenv("STAND_IN", "fail")
    assert "run dpo: open-instruct ended with status 3" in refused(clip=None)
    written = json.loads((bench.scratch / "deepspeed.json").read_text(encoding="utf-8"))
    assert written == {"gradient_clipping": 0.0}


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def sleeping(bench: Bench) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    environment = {**os.environ, "STAND_IN": "sleep"}
    command = [sys.executable, "-m", "rlsubnet.cli", *bench.words()]
    trainer: list[int] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        notes = [bench.scratch / "records" / name for name in ("pid", "child")]
        deadline = time.monotonic() + 180
        try:
            while not all(note.exists() and note.read_text() for note in notes):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
            trainer = [int(note.read_text()) for note in notes]
            yield process, trainer
        finally:
            process.kill()
            for number in filter(runs, trainer):
                os.kill(number, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to find processes in")


@needs_proc
def test_a_terminated_run_leaves_no_process(bench):
    with sleeping(bench) as (process, trainer):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert list(filter(runs, trainer)) == []


@needs_proc
def test_a_run_does_not_go_on_while_the_trainer_of_the_killed_one_is_at_work(bench):
    busy = pytest.raises(ValueError, match="another process is training here")
    with sleeping(bench) as (process, _):
        process.kill()
        process.wait()
        with busy, alone_in(bench.scratch, patience=0):
            pass
    with alone_in(bench.scratch):  # the trainer's end is waited for
        pass


BELONGS_TO = {"seed": 42, "recipe": {"lr": 1e-3}, "inputs_sha256": {"data": "2b"}}


@pytest.fixture
def trainer(tmp_path: Path) -> OpenInstruct:
    own = {"run": "dpo", "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"}
    own |= {"data": "pairs", "recipe": {"lr": 1e-3, "beta": 5.0}, "seed": 42}
    checkout = tmp_path / "checkout"
    (checkout / SCRIPT).parent.mkdir(parents=True)
    (checkout / SCRIPT).touch()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "lock").touch()  # as whoever goes on has done
    files = RunFiles(*(tmp_path / name for name in ("data", "scratch", "final", "m")), tmp_path)
    return OpenInstruct(checked_row(tmp_path, own), files, str(checkout))


def leave(trainer: OpenInstruct, step: int, marked: bool = True) -> None:
    """Leave a save of a step, marked or not, as a killed run does."""
    folder = trainer.output / f"step_{step}"
    (folder / "pytorch_model").mkdir(parents=True)
    (folder / "pytorch_model" / "rank_0.pt").write_bytes(b"moments")
    if marked:
        mark_saved(folder, {"step": step, "metrics": []})
    else:
        (folder / "COMPLETED").write_text("COMPLETED")  # the script's word alone


def left(trainer: OpenInstruct) -> set[str]:
    scratch = trainer.places.scratch
    return {str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file()}


def test_without_a_save_that_is_whole_nothing_is_kept(trainer):
    assert trainer.resume_or_start(BELONGS_TO) == 0
    leave(trainer, 2, marked=False)
    (trainer.places.scratch / "tokenized").mkdir()
    (trainer.places.scratch / "tokenized" / "pairs.arrow").write_text("half")
    assert trainer.resume_or_start(BELONGS_TO) == 0
    assert left(trainer) == {"lock", "belongs_to.json"}


def test_the_newest_save_that_is_whole_is_all_that_is_kept_of_the_output(trainer):
    assert trainer.resume_or_start(BELONGS_TO) == 0
    for step, marked in ((8, True), (10, True), (12, False)):
        leave(trainer, step, marked)
    for name in ("output/dpo__42/pytorch_model.bin", "records/report.json", "tokenized/a.arrow"):
        (trainer.places.scratch / name).parent.mkdir(exist_ok=True)
        (trainer.places.scratch / name).write_text("left")
    (trainer.places.output / "dpo__42__1747340000").mkdir()
    assert trainer.resume_or_start(BELONGS_TO) == 10
    save = "output/dpo__42/step_10"
    kept = {f"{save}/pytorch_model/rank_0.pt", f"{save}/saved.json", f"{save}/COMPLETED"}
    assert left(trainer) == {"lock", "belongs_to.json", "tokenized/a.arrow", *kept}
    assert [path.name for path in trainer.places.output.iterdir()] == ["dpo__42"]
    # Once more: a run may be killed before it saves again.
    assert trainer.resume_or_start(BELONGS_TO) == 10
    message = f"sha256.data was '2b' and is '3c'; delete {trainer.places.scratch} to"
    with pytest.raises(ValueError, match=message):
        trainer.resume_or_start({**BELONGS_TO, "inputs_sha256": {"data": "3c"}})
    assert f"{save}/saved.json" in left(trainer)
