import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from rlsubnet.files import sha256
from rlsubnet.training.runlog import git_commit
from tests.training.training_runs import row


def test_the_manifest_names_everything_a_run_follows_from(train, base, data, mask):
    what = row("dpo", mask="quarter")
    text = (train(what, mask=mask) / "final" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["row"] == json.loads(json.dumps(what.as_dict()))
    assert manifest["steps"] == what.recipe.steps
    assert manifest["inputs_sha256"]["data"] == sha256(data["dpo"])
    assert manifest["inputs_sha256"]["mask"] == sha256(mask)
    assert re.fullmatch("[0-9a-f]{64}", manifest["inputs_sha256"]["init"])
    assert manifest["threads"] == 1
    assert manifest["device"].startswith("cpu")
    assert {"torch", "transformers", "rlsubnet"} < set(manifest["packages"])
    assert socket.gethostname() not in text.split('"')


def test_the_commit_is_that_of_the_checkout_or_what_a_variable_says(repository, tmp_path):
    head = None
    if (repository / ".git").exists():
        command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    assert git_commit() in (head, None)  # None until this file is tracked
    shutil.copytree(repository / "workflow" / "rlsubnet", tmp_path / "rlsubnet")
    code = "from rlsubnet.training.runlog import git_commit; print(git_commit())"
    for said, expected in (({}, "None"), ({"RLSUBNET_COMMIT": "4f04122"}, "4f04122")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), **said},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_without_wandb_it_is_not_imported(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    train(row("sft", steps=1))


@pytest.mark.slow
def test_offline_logging_needs_no_account(train, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(row("sft", steps=2, wandb={"mode": "offline", "project": "tests"}))
    (log,) = (tmp_path / "run" / "wandb").glob("wandb/offline-run-*/run-*.wandb")
    assert b"grad_norm" in log.read_bytes()
