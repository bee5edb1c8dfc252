"""Run checks or limits, each in a process of its own, and write what they find as it comes.

usage: python -m benchmarks.device.parts {checks,limits} --out FILE [--device cuda] [--seconds 75]

All are forked behind the imports and before CUDA starts. One that fails, hangs or breaks its CUDA
context takes no other along, and one that is cut off keeps what it has found. FILE has a line of
JSON for each finding, and one for the end of each part: ``ok``, ``seconds``, ``error``.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # which the first cache of fixed size would import in every process

Finding = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where parts run.

    Attributes:
        device: a GPU, or a CPU that tries the code.
        miniature: whether to take sizes for a CPU; what is found then says nothing of a GPU.
    """

    device: torch.device
    miniature: bool

    @property
    def is_gpu(self) -> bool:
        """Return whether there is a GPU to find anything out about."""
        return self.device.type == "cuda"


Part = Callable[[Place], Iterator[Finding]]


def parts_of(what: str) -> dict[str, Part]:
    """Return the checks or the limits by name, most telling first."""
    from benchmarks.device import kernels, limits, training

    checks: tuple[Part, ...] = (
        kernels.attention,
        training.compiled,
        training.whole_runs,
        kernels.drawing,
        training.waiting,
        kernels.counts,
        kernels.probabilities,
        training.memory,
    )
    chosen = checks if what == "checks" else limits.LIMITS
    return {part.__name__: part for part in chosen}


def say(out: int, part: str, finding: Finding) -> None:
    """Write one line, whole, beside those of other processes."""
    shown = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in finding.items()}
    os.write(out, (json.dumps({"part": part, **shown}) + "\n").encode())


def run_part(name: str, part: Part, place: Place, out: int) -> NoReturn:
    """Write what a part finds, and how it ended; ends this forked process."""
    begin, error = time.monotonic(), ""
    try:
        for finding in part(place):
            say(out, name, finding)
    except BaseException as fault:
        traceback.print_exc()
        frame = traceback.extract_tb(fault.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        error = f"{type(fault).__name__}: {str(fault)[:1000]} ({where})"
    say(out, name, {"ok": not error, "seconds": time.monotonic() - begin, "error": error})
    os._exit(0)


def run_parts(
    parts: dict[str, Part], place: Place, out: Path, jobs: int, seconds: float
) -> list[str]:
    """Run parts, ``jobs`` at a time, and return those that time was too short for."""
    end = time.monotonic() + seconds
    waiting, running = list(parts.items()), dict[int, str]()
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < jobs:
            name, part = waiting.pop(0)
            pid = os.fork()
            if not pid:
                run_part(name, part, place, file)
            running[pid] = name
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid:
            running.pop(pid)
        else:
            time.sleep(0.02)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    late = [*running.values(), *(name for name, _ in waiting)]
    for name in late:
        say(file, name, {"ok": False, "seconds": seconds, "error": f"not done in {seconds:.0f} s"})
    return late


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write and print; exit status 1 where a part failed or time was too short."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.parts")
    parser.add_argument("what", choices=("checks", "limits"))
    parser.add_argument("names", nargs="*", metavar="PART")
    parser.add_argument("--device", default="cuda", help="cpu: a miniature that tries the code")
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, added to")
    options = parser.parse_args(arguments)
    parts = parts_of(options.what)
    parts = {name: parts[name] for name in options.names or parts}
    device = torch.device(options.device)
    place = Place(device, miniature=device.type != "cuda")
    assert not torch.cuda.is_initialized(), "CUDA starts in each part's own process"
    run_parts(parts, place, options.out, options.jobs, options.seconds)
    lines = options.out.read_text(encoding="utf-8").splitlines()
    print(*lines, sep="\n")
    sys.exit(not all(json.loads(line).get("ok", True) for line in lines))


if __name__ == "__main__":
    main()
