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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import rlsubnet
from rlsubnet.files import read_jsonl, read_object, write_json

# Seconds that a trainer has to end after it was asked to; accelerate gives its processes 30.
PATIENCE = 60
INTERVAL = 5.0  # seconds between two looks at what it has saved
# What any number of processes that write in a run's own folder lock besides, open until they end.
STAYING = "staying"
_staying: list[IO[str]] = []
# What a run's own folder is locked by.
LOCK = "lock"
# In a save, what it follows from; written last.
MARKER = "saved.json"
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
    """Remove a file, link or folder; first its marker and files, without which it is no save."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    (path / MARKER).unlink(missing_ok=True)
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
    """Make a folder and yield a descriptor; one process at a time has one, others are refused.

    Whoever inherits it, has it, too: where this process is killed and its trainer is not, the
    folder remains the trainer's. So it does while a process lives that called :func:`stay_in`. On a
    file system that cannot lock, nothing is checked.
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


def run_to_end(
    words: Sequence[str],
    name: str,
    environment: Mapping[str, str],
    meanwhile: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Run a program in a group of its own, of which nothing outlives this process.

    What it prints goes where ours goes, and ``meanwhile`` is called now and then. The group is
    first asked to end, then forced.

    Raises:
        ValueError: the program, which the message calls ``name``, ended with an error.
    """
    changed = [f"{key}={text}" for key, text in environment.items() if os.environ.get(key) != text]
    print(" ".join([*changed, *words]), flush=True)
    process = subprocess.Popen(words, env=environment, start_new_session=True, **options)
    status = None
    try:
        while status is None:
            meanwhile()
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(INTERVAL)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(PATIENCE)
    if status:
        raise ValueError(f"{name} ended with status {status}; its own messages stand above")


def end_with_parent() -> None:
    """Let this process be killed once the one that started it has ended, however; on Linux alone.

    torch's launcher ends its processes when it ends, unless it is killed. What they inherit from it
    is not the lock of :func:`alone_in`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def run_checked(
    words: Sequence[str], purpose: str, environment: Mapping[str, str] | None = None
) -> str:
    """Return what a command printed that takes minutes at most, by default in our environment."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise ValueError(f"{purpose} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def check_commit(folder: Path, commit: str, cure: str, *paths: str) -> None:
    """Check that a git checkout is at a commit, and all below it or these paths unmodified."""

    def git(*words: str) -> str:
        purpose = f"{folder}: expected a git checkout at {commit}, {cure}; git {words[0]}"
        return run_checked(["git", "-C", str(folder), *words], purpose).strip()

    if (found := git("rev-parse", "HEAD")) != commit:
        raise ValueError(f"{folder}: expected commit {commit}, found {found}; {cure}")
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", *paths):
        raise ValueError(f"{folder}: files differ from commit {commit}: {changed}")


def read_steps(log: Path, last: int | None) -> list[dict[str, Any]]:
    """Return the lines of a log that has one of each step, to ``last`` or as many as there are."""
    lines = read_jsonl(log)
    steps, last = [line["step"] for line in lines], len(lines) if last is None else last
    if not steps or steps != list(range(1, last + 1)):
        raise ValueError(
            f"{log}: expected steps 1 to {last}, found {len(steps)}, the last {steps[-1:]}"
        )
    return lines


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
    """Check that each file of a marked save has the size it was written with."""
    found = _sizes(folder)
    for name, size in sorted(read_marker(folder)["bytes"].items()):
        if found.get(name) != size:
            there = f"{found[name]} bytes" if name in found else "none"
            raise ValueError(
                f"{folder / name}: damaged: {size} bytes were saved, found {there}; "
                f"delete {scratch} to start from the beginning"
            )


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
