"""The installed olmes: the right one is found, old outputs go, and a stopped job leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlsubnet.backends.olmes.run import check_program, remove_outputs, run_program


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Return the variables under which a made olmes, in a git checkout, is found."""
    checkout = tmp_path / "checkout"
    script(checkout / "oe_eval" / "__init__.py", "")
    for name, version in (("transformers", "4.50.3"), ("vllm", "0.8.2")):
        metadata = checkout / f"{name}-{version}.dist-info" / "METADATA"
        script(metadata, f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "olmes")
    bin_folder = tmp_path / "bin"
    script(bin_folder / "olmes", "#!/bin/sh\n")
    script(bin_folder / "python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    return {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}


def test_the_program_tells_its_versions_and_commit(installed):
    checkout = Path(installed["PYTHONPATH"])
    found = check_program(installed, git(checkout, "rev-parse", "HEAD"))
    assert found["folder"] == str(checkout / "oe_eval")
    assert (found["versions"]["vllm"], found["versions"]["transformers"]) == ("0.8.2", "4.50.3")


def test_another_commit_or_a_changed_checkout_is_refused(installed):
    checkout = Path(installed["PYTHONPATH"])
    head = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(ValueError, match=f"olmes is at commit {head}, expected 4f04"):
        check_program(installed, "4f04")
    (checkout / "oe_eval" / "__init__.py").write_text("changed = True\n")
    with pytest.raises(ValueError, match=r"was changed after commit .*oe_eval/__init__\.py"):
        check_program(installed, head)
    check_program(installed, None)


def test_an_install_that_is_no_checkout_is_refused(installed, tmp_path):
    checkout = Path(installed["PYTHONPATH"])
    (checkout / ".git").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="not in a git checkout"):
        check_program({**installed, "GIT_CEILING_DIRECTORIES": str(tmp_path)}, "4f04")


def test_transformers_5_is_refused(installed):
    checkout = Path(installed["PYTHONPATH"])
    metadata = checkout / "transformers-4.50.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("4.50.3", "5.2.0"))
    with pytest.raises(ValueError, match=r"transformers is 5\.2\.0, expected a version below 5"):
        check_program(installed, None)


def test_a_missing_program_and_a_foreign_python_are_told_apart(installed, tmp_path):
    with pytest.raises(ValueError, match="olmes: no such program; install it"):
        check_program({"PATH": "/nowhere"}, None)
    with pytest.raises(ValueError, match="has no package oe_eval"):
        check_program({"PATH": installed["PATH"]}, None)


def test_old_outputs_are_removed_and_nothing_else(tmp_path):
    raw = tmp_path / "raw"
    remove_outputs(raw)  # nothing there: nothing to do
    for name in ("metrics.json", "metrics-all.jsonl", "task-000-gpqa-predictions.jsonl"):
        script(raw / name, "{}")
    remove_outputs(raw)
    assert not raw.exists()
    script(raw / "metrics.json", "{}")
    script(raw / "thesis.tex", "")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, which olmes does not write"):
        remove_outputs(raw)
    assert len(list(raw.iterdir())) == 2


def test_a_failure_is_told_by_its_status(tmp_path):
    fail = script(tmp_path / "fail", "#!/bin/sh\nexit 3\n")
    with pytest.raises(ValueError, match="olmes ended with status 3"):
        run_program([str(fail)], dict(os.environ))


def test_a_stopped_job_ends_what_the_program_had_started(tmp_path):
    # olmes is a Python that starts a shell that starts a Python: the last must not be left behind.
    inner = (
        f"{sys.executable} -S -c 'import time; time.sleep(60)' & echo $! > {tmp_path}/inner; wait"
    )
    outer = script(tmp_path / "olmes", f"#!/bin/sh\n{inner}\n")
    code = (
        "import os, signal, sys; from rlsubnet.backends.olmes.run import run_program; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        f"run_program(['{outer}'], dict(os.environ))"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (tmp_path / "inner").exists() and (tmp_path / "inner").read_text().strip())
    inner_id = int((tmp_path / "inner").read_text())
    os.kill(inner_id, 0)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 143
    wait_for(lambda: not Path(f"/proc/{inner_id}").exists())


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 20 seconds"
        time.sleep(0.05)
