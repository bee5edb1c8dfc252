"""What can happen to a training on a cluster, done to real processes, jobs and nodes."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.slurm.projects import PATIENCE, ClusterProject, Under

Fault = Callable[[psutil.Process], None]


class Drill(ClusterProject):
    """A project in whose trainings faults happen."""

    def folder(self, run: str) -> Path:
        return self.root / "work/micro/runs" / run

    def state(self, run: str) -> Path:
        return self.folder(run) / "resume/state.pt"

    def inject(self, faults: dict[str, Fault], running: Under) -> None:
        """Suspend each run when it has saved its state, and let its fault happen.

        A suspended training neither ends before that nor takes a core.
        """
        deadline = time.monotonic() + PATIENCE
        waiting = dict(faults)
        while waiting:
            for run in [run for run in waiting if self.state(run).exists()]:
                if process := self.training(run):
                    process.suspend()
                    waiting.pop(run)(process)
            if running.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never held: {', '.join(waiting)}\n{running.said}")
            time.sleep(0.2)

    def cancel(self, process: psutil.Process) -> None:
        self.cluster.ask("scancel", job_of(process))

    def requeue(self, process: psutil.Process) -> None:
        """Have Slurm take its job back into the queue, as it does where others have precedence."""
        self.cluster.ask("scontrol", "requeue", job_of(process))

    def run_out_of_time(self, process: psutil.Process) -> None:
        """Move the end of its time limit to what is not yet past; Slurm looks every 30 seconds."""
        # A time that is past when the controller reads it, be it by a millisecond, is refused.
        self.cluster.ask("scontrol", "update", f"JobId={job_of(process)}", "EndTime=now+5")

    def tear(self, process: psutil.Process) -> None:
        file = self.state(process.cmdline()[3])
        os.truncate(file, file.stat().st_size // 2)
        process.kill()

    def jobs(self, rule: str, run: str) -> list[str]:
        logs = (self.root / "logs/slurm").glob(f"rule_{rule}/{run}/*.log")
        return sorted((log.stem for log in logs), key=int)

    def fact(self, job: str, name: str) -> str:
        text = self.cluster.ask("scontrol", "show", "job", job, "-o")
        found = re.search(rf"\b{name}=(\S+)", text)
        assert found, text
        return found[1]

    def ends(self, rule: str, run: str) -> list[str]:
        return [self.fact(job, "JobState") for job in self.jobs(rule, run)]

    def resumed_after(self, run: str) -> int:
        """Return the step from which a training went on, 0 where it did not, or not yet."""
        log = self.root / f"logs/micro/train/{run}.log"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        found = re.search(rf"^{run}: resumed after step (\d+) of", text, flags=re.MULTILINE)
        return int(found[1]) if found else 0

    def result(self, run: str) -> tuple[bytes, str]:
        weights = (self.folder(run) / "final/model.safetensors").read_bytes()
        return weights, (self.root / f"results/micro/metrics/{run}.csv").read_text()


def job_of(process: psutil.Process) -> str:
    return process.environ()["SLURM_JOB_ID"]


def node_of(process: psutil.Process) -> str:
    return process.environ()["SLURMD_NODENAME"]


class SmallDisk:
    """A file system of its own with little room, mounted on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "of somebody else"

    def mount(self) -> bool:
        """Mount it with 4 MB; return whether that is allowed here."""
        self.folder.mkdir(parents=True)
        if not shutil.which("mount"):
            return False
        words = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(self.folder)]
        return subprocess.run(words, capture_output=True).returncode == 0

    def fill(self, process: psutil.Process) -> None:
        """Let somebody else take all room that is left, and the training go on."""
        with self._filler.open("wb", buffering=0) as stream, suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        process.resume()

    def make_room(self) -> None:
        self._filler.unlink()

    def unmount(self) -> None:
        if self.folder.is_mount():
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
