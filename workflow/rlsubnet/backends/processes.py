"""Running another project's trainer: its interpreter, this package for it, and an end to it."""

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import rlsubnet
from rlsubnet.files import read_object, write_json

# Seconds that a trainer has to end after it was asked to; accelerate gives its processes 30.
PATIENCE = 60
# What any number of processes that write in a run's own folder lock besides, open until they end.
STAYING = "staying"
_staying: list[IO[str]] = []
# What a run's own folder is locked by.
LOCK = "lock"
# Where in it this package is found by the trainer.
PACKAGE = "package"
# Of Linux: which signal a process gets once the one that started it has ended.
PR_SET_PDEATHSIG = 1


def find_python(option: str, variable: str) -> Path:
    """Return the trainer's interpreter: the option, else the environment variable, else our own.

    Links are not followed: what an environment holds is found from the path.
    """
    return Path(option or os.environ.get(variable, sys.executable)).absolute()


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; its files first, without which the rest is no save."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for file in [entry for entry in path.iterdir() if not entry.is_dir()]:
        file.unlink()
    shutil.rmtree(path)


def link_package(folder: Path) -> None:
    """Make a folder that holds a link to this package, for ``PYTHONPATH``, and nothing else.

    The folder that it is installed in may hold another torch than the trainer's environment.
    """
    remove(folder)
    folder.mkdir()
    (folder / "rlsubnet").symlink_to(Path(rlsubnet.__file__).resolve().parent)


@contextmanager
def alone_in(folder: Path, patience: float = PATIENCE) -> Iterator[int]:
    """Make a folder and yield a descriptor; one process at a time has one for it.

    Whoever inherits it, has it, too: where this process is killed and its trainer is not, the
    folder remains the trainer's. So it does while a process lives that called :func:`stay_in`. On a
    file system that cannot lock, nothing is checked.

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
    """Yield a process in a group of its own; nothing of the group outlives the block."""
    print(" ".join([f"{key}={value}" for key, value in variables.items()] + [*words]), flush=True)
    environment = {**os.environ, **variables}
    with in_a_group(words, cwd=folder, env=environment, pass_fds=inherited) as process:
        yield process


@contextmanager
def in_a_group(words: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process that leads a group: when the block ends, it is first asked, then forced."""
    process = subprocess.Popen(words, start_new_session=True, **options)
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
    """Run a command that takes seconds or minutes and return what it printed."""
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


MARKER = "saved.json"


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def mark_saved(folder: Path, told: Mapping[str, Any]) -> None:
    """Mark a save as whole, once all of its files are written."""
    write_json(folder / MARKER, {**told, "bytes": _sizes(folder)})


def is_marked(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def read_marker(folder: Path) -> dict[str, Any]:
    return read_object("a save's marker", f"@{folder / MARKER}")


def check_whole(folder: Path, scratch: Path) -> None:
    """Check that each file of a marked save has the size it was written with.

    Raises:
        ValueError: one has not; the message names it.
    """
    found = _sizes(folder)
    for name, size in sorted(read_marker(folder)["bytes"].items()):
        if found.get(name) != size:
            there = f"{found[name]} bytes" if name in found else "none"
            raise ValueError(
                f"{folder / name}: damaged: {size} bytes were saved, found {there}; "
                f"delete {scratch} to start from the beginning"
            )


def remove_save(folder: Path) -> None:
    """Remove a save; interrupted, it no longer counts as one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


CURE = (
    "copy config.json, generation_config.json and all tokenizer files of the checkpoint that "
    "training started from over it"
)


def rotary_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield where transformers 4 would take other rotary embeddings than config.json means.

    >>> list(rotary_faults({"rope_theta": 500000.0}))
    []
    >>> list(rotary_faults({"rope_parameters": {"rope_theta": 5.0}}))
    ['config.json: rope_theta is 5.0 in rope_parameters and None beside it, ...']
    """
    rope = config.get("rope_parameters")
    if rope is None:
        return
    rope = rope if isinstance(rope, Mapping) else {}
    theta, scaled = rope.get("rope_theta"), rope.get("rope_type", "default") != "default"
    if config.get("rope_theta") is None or config["rope_theta"] != theta:
        yield (
            f"config.json: rope_theta is {theta} in rope_parameters and "
            f"{config.get('rope_theta')} beside it, where transformers 4 reads it; {CURE}"
        )
    if scaled and not config.get("rope_scaling"):
        yield (
            f"config.json: rope_type {rope['rope_type']} stands in rope_parameters and there is no "
            f"rope_scaling, which transformers 4 reads; {CURE}"
        )
