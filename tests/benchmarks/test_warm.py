"""The warm server gives a caller what ``rlsubnet`` itself would: status, output, folder, end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

# A server without torch, whose `rlsubnet` does what these tests ask.
SERVER = """
import os, signal, sys, time
from pathlib import Path
from benchmarks.device import warm
import rlsubnet.cli

def main(arguments):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    what, *rest = arguments
    if what == "say":
        print(os.getcwd(), os.environ.get("SAID"), *rest)
        print("fault", file=sys.stderr)
    if what == "exit":
        sys.exit(int(rest[0]))
    if what == "raise":
        raise KeyError(rest[0])
    if what == "sleep":
        Path(rest[0]).write_text(str(os.getpid()))
        try:
            while True:
                try:
                    time.sleep(60)
                except SystemExit:
                    if not rest[2:]:
                        raise
        finally:
            Path(rest[1]).write_text("ended")
    return 0

rlsubnet.cli.main = main
warm.HEAVY, warm.PATIENCE = (), 0.5
warm.serve(sys.argv[1])
"""

Call = Callable[..., subprocess.Popen[str]]


def appears(path: Path, seconds: float = 60) -> bool:
    """Wait for a file and for what is in it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.is_socket() or (path.exists() and path.stat().st_size):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "socket")], cwd=repository, text=True
    )
    assert appears(tmp_path / "socket")
    yield process
    process.terminate()
    process.wait()


@pytest.fixture
def call(server: subprocess.Popen[str], repository: Path, tmp_path: Path) -> Call:
    program = [sys.executable, "-S", "-I", str(repository / "benchmarks/device/warm.py"), "run"]

    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*program, str(tmp_path / "socket"), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "SAID": "x" * 100_000},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_output_folder_environment_and_arguments_are_the_callers(call: Call, tmp_path: Path):
    process = call("say", "two words", "ü")
    out, fault = process.communicate(timeout=60)
    assert (out, fault) == (f"{tmp_path} {'x' * 100_000} two words ü\n", "fault\n")
    assert process.returncode == 0
    assert call("exit", 3).wait(timeout=60) == 3
    process = call("raise", "here")
    assert "KeyError: 'here'" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_caller_takes_its_command_along(call: Call, tmp_path: Path, how: int):
    process = call("sleep", tmp_path / "begun", tmp_path / "ended")
    assert appears(tmp_path / "begun")
    process.send_signal(how)
    process.communicate(timeout=60)
    assert appears(tmp_path / "ended")
    # The server still serves.
    assert call("exit", 5).wait(timeout=60) == 5


def test_a_command_that_will_not_stop_is_killed(call: Call, tmp_path: Path):
    process = call("sleep", tmp_path / "begun", tmp_path / "ended", "whatever is asked")
    assert appears(tmp_path / "begun")
    running = psutil.Process(int((tmp_path / "begun").read_text()))
    process.kill()
    process.communicate(timeout=60)
    running.wait(timeout=60)
    assert not (tmp_path / "ended").exists()


def test_a_stopped_server_stops_what_it_started(
    call: Call, server: subprocess.Popen[str], tmp_path: Path
):
    process = call("sleep", tmp_path / "begun", tmp_path / "ended")
    assert appears(tmp_path / "begun")
    server.terminate()
    assert appears(tmp_path / "ended")
    process.communicate(timeout=60)
    assert process.returncode != 0


def test_without_a_server_the_command_runs_all_the_same(repository: Path, tmp_path: Path):
    program = [sys.executable, str(repository / "benchmarks/device/warm.py"), "run"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*program, str(tmp_path / "none"), "--version"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("rlsubnet ")
