"""Running another project's trainer: its interpreter, this package for it, and an end to it."""

import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import rlsubnet

# Seconds that a trainer has to end after it was asked to; accelerate gives its processes 30.
PATIENCE = 60
# What any number of processes that write in a run's own folder lock besides, open until they end.
STAYING = "staying"
_staying: list[IO[str]] = []
# What a run's own folder is locked by.
LOCK = "lock"
# Of Linux: which signal a process gets once the one that started it has ended.
PR_SET_PDEATHSIG = 1


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
def alone_in(folder: Path, patience: float = PATIENCE) -> Iterator[int]:
    """Make a folder and yield a descriptor; one process at a time has one for it.

    Whoever inherits it, has it, too: where this process is killed and its trainer is not, the
    folder remains the trainer's. So it does while a process lives that called :func:`stay_in`. On a
    file system that cannot lock, nothing is checked.

    Args:
        folder: in which a run is trained.
        patience: seconds that another process has to end, which may have been killed just now.

    Raises:
        ValueError: another process has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with (folder / LOCK).open("w") as stream:
        _lock(stream, deadline)
        if (folder / STAYING).exists():
            with (folder / STAYING).open("w") as staying:
                _lock(staying, deadline)
        yield stream.fileno()


def _lock(file: IO[str], deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{Path(file.name).parent}: another process is training here "
                    f"(`fuser {file.name}` names it); wait for its end, or end it"
                ) from error
            time.sleep(0.2)
        else:
            return


def stay_in(folder: Path) -> None:
    """Let :func:`alone_in` wait for the end of this process, which may outlive its trainer.

    Ray's workers do, for a moment, and write on.
    """
    staying = (folder / STAYING).open("w")
    with suppress(OSError):
        fcntl.flock(staying, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _staying.append(staying)


@contextmanager
def started(
    words: Sequence[str], folder: Path, variables: Mapping[str, str], inherited: Sequence[int] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process in a group of its own; nothing of the group outlives the block.

    Args:
        words: the command.
        folder: where it is run.
        variables: of the environment, beside those that are set.
        inherited: descriptors that it has, too.
    """
    print(" ".join([f"{key}={value}" for key, value in variables.items()] + [*words]), flush=True)
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **variables},
        start_new_session=True,
        pass_fds=inherited,
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


def end_with_parent() -> None:
    """Let this process be killed once the one that started it has ended, however; on Linux alone.

    torch's launcher ends its processes when it ends, unless it is killed. What they inherit from it
    is not the lock of :func:`alone_in`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


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
