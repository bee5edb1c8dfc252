"""What can happen to a training on a cluster, done to real processes, jobs and nodes."""

import json
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


class Drill:
    """A project in whose trainings faults happen.

    Attributes:
        on: the project, on its cluster.
    """

    def __init__(self, on: ClusterProject) -> None:
        self.on = on

    # ----------------------------------------------------------------------------- the trainings
    def folder(self, run: str) -> Path:
        return self.on.root / "work/micro/runs" / run

    def state(self, run: str) -> Path:
        return self.folder(run) / "resume/state.pt"

    def held(self, run: str) -> psutil.Process | None:
        """Suspend the training of a run that has saved its state, and return it, or None yet.

        A suspended training neither ends before something happens to it nor takes a core.
        """
        process = self.on.training(run) if self.state(run).exists() else None
        if process is not None:
            process.suspend()
        return process

    def inject(self, faults: dict[str, Fault], running: Under) -> None:
        """Hold each run when it has saved its state, and let its fault happen.

        Raises:
            AssertionError: Snakemake ended, or too much time has gone, before all have happened.
        """
        deadline = time.monotonic() + PATIENCE
        waiting = dict(faults)
        while waiting:
            for run in list(waiting):
                process = self.held(run)
                if process is not None:
                    waiting.pop(run)(process)
            if running.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never held: {', '.join(waiting)}\n{running.said}")
            time.sleep(0.2)

    # -------------------------------------------------------------------------------- the faults
    def kill(self, process: psutil.Process) -> None:
        process.kill()

    def cancel(self, process: psutil.Process) -> None:
        self.on.cluster.ask("scancel", job_of(process))

    def requeue(self, process: psutil.Process) -> None:
        """Have Slurm take its job back into the queue, as it does where others have precedence."""
        self.on.cluster.ask("scontrol", "requeue", job_of(process))

    def run_out_of_time(self, process: psutil.Process) -> None:
        """Move the end of its time limit to what is not yet past; Slurm looks every 30 seconds."""
        # A time that is past when the controller reads it, be it by a millisecond, is refused.
        self.on.cluster.ask("scontrol", "update", f"JobId={job_of(process)}", "EndTime=now+5")

    def lose_node(self, process: psutil.Process) -> None:
        self.on.cluster.lose_node(node_of(process))

    def tear(self, run: str) -> Fault:
        def fault(process: psutil.Process) -> None:
            file = self.state(run)
            os.truncate(file, file.stat().st_size // 2)
            process.kill()

        return fault

    # ------------------------------------------------------------------------------ what was done
    def jobs(self, rule: str, run: str) -> list[str]:
        logs = (self.on.root / "logs/slurm").glob(f"rule_{rule}/{run}/*.log")
        return sorted((log.stem for log in logs), key=int)

    def fact(self, job: str, name: str) -> str:
        text = self.on.cluster.ask("scontrol", "show", "job", job, "-o")
        found = re.search(rf"\b{name}=(\S+)", text)
        assert found, text
        return found[1]

    def ends(self, rule: str, run: str) -> list[str]:
        return [self.fact(job, "JobState") for job in self.jobs(rule, run)]

    def has_ended(self, job: tuple[str, str]) -> bool:
        return self.ends(*job)[-1:] == ["COMPLETED"]

    def resumed_after(self, run: str) -> int:
        log = (self.on.root / f"logs/micro/train/{run}.log").read_text(encoding="utf-8")
        found = re.search(rf"^{run}: resumed after step (\d+) of", log, flags=re.MULTILINE)
        return int(found[1]) if found else 0

    def result(self, run: str) -> tuple[bytes, str]:
        weights = (self.folder(run) / "final/model.safetensors").read_bytes()
        return weights, (self.on.root / f"results/micro/metrics/{run}.csv").read_text()

    def status(self) -> dict:  # type: ignore[type-arg]
        asked = self.on.start("rlsubnet.cli", "status", "--json")
        assert asked.wait() == 0, asked.said
        report: dict = json.loads(asked.said)  # type: ignore[type-arg]
        return report


def job_of(process: psutil.Process) -> str:
    return process.environ()["SLURM_JOB_ID"]


def node_of(process: psutil.Process) -> str:
    return process.environ()["SLURMD_NODENAME"]


class SmallDisk:
    """A file system of its own with little room, mounted on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self) -> bool:
        """Mount it with 4 MB; return whether that is allowed here."""
        self.folder.mkdir(parents=True)
        if not shutil.which("mount"):
            return False
        words = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(self.folder)]
        return subprocess.run(words, capture_output=True).returncode == 0

    @property
    def _filler(self) -> Path:
        return self.folder / "of somebody else"

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
