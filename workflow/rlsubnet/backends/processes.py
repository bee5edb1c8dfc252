"""Running another project's trainer: its interpreter, this package for it, and an end to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import rlsubnet

# Seconds that a trainer has to end after it was asked to; accelerate gives its processes 30.
PATIENCE = 60


def find_python(option: Path | None, variable: str) -> Path:
    """Return the trainer's interpreter: the option, else the environment variable, else our own.

    Links are not followed: what an environment holds is found from the path.
    """
    return (option or Path(os.environ.get(variable, sys.executable))).absolute()


def link_package(folder: Path) -> None:
    """Make a folder that holds a link to this package, for ``PYTHONPATH``, and nothing else.

    The folder that it is installed in may hold another torch than the trainer's environment.
    """
    folder.mkdir()
    (folder / "rlsubnet").symlink_to(Path(rlsubnet.__file__).resolve().parent)


@contextmanager
def started(
    words: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process in a group of its own; nothing of the group outlives the block.

    Args:
        words: the command.
        folder: where it is run.
        variables: of the environment, beside those that are set.
    """
    print(" ".join([f"{key}={value}" for key, value in variables.items()] + [*words]), flush=True)
    process = subprocess.Popen(
        words, cwd=folder, env={**os.environ, **variables}, start_new_session=True
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(PATIENCE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def run_checked(words: Sequence[str], variables: Mapping[str, str], purpose: str) -> str:
    """Run a command that takes seconds or minutes and return what it printed.

    Args:
        words: the command.
        variables: of the environment, beside those that are set.
        purpose: what it does, for the message.

    Raises:
        ValueError: it ended with an error; its last words are in the message.
    """
    done = subprocess.run(
        words,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise ValueError(f"{purpose} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout
