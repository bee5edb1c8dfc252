"""Whole processes: wall time, CPU seconds and peak memory of one from its start to its end.

ru_maxrss will not do for the peak: it survives fork and exec, so that a small program started by a
large one shows the memory of the large one. VmHWM belongs to the program itself.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds of wall and CPU (user and system), megabytes at its peak."""

    wall: float
    cpu: float
    peak: float


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024 / 1e6


def run(module: str, arguments: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run ``python -m module arguments`` and return what it took.

    Raises:
        ValueError: it failed; what it printed is in the message.
    """
    settings = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    # Threads that wait by spinning would count as CPU seconds of torch.
    settings |= {"OMP_WAIT_POLICY": "PASSIVE", **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder, "peak"), Path(folder, "output")
        command = [sys.executable, "-m", "benchmarks.process", str(report), module, *arguments]
        with output.open("w") as stream:
            begin = time.perf_counter()
            process = subprocess.Popen(command, env=settings, stdout=stream, stderr=stream)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ValueError(f"{module} {' '.join(arguments)}: failed: {output.read_text()}")
        return Cost(wall, usage.ru_utime + usage.ru_stime, json.loads(report.read_text()))


def main() -> None:
    """Run a module as ``python -m`` would, then write this process's peak memory."""
    report, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(report).write_text(json.dumps(peak_megabytes()))


if __name__ == "__main__":
    main()
