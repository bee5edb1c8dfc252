"""A project on the cluster: its Snakemake as the user starts it, watched from outside."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.slurm.cluster import Cluster
from tests.workflow.projects import Project

PATIENCE = 900  # seconds for whatever a test waits for: a hung cluster fails, and does not hang
CONFIG = "config/micro/config.yaml"


class Under:
    """A command that runs in a project as from another terminal, its words in a file."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        number = len(list(folder.glob("said-*")))
        self.log = folder / f"said-{number}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"did not end within {PATIENCE} s:\n{self.said}") from None

    def end_and_words(self) -> str:
        return f"{self.wait()}\n{self.said}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class ClusterProject:
    """A project folder whose jobs go to the cluster."""

    def __init__(self, project: Project, cluster: Cluster, site: str) -> None:
        self.root, self.cluster = project.root, cluster
        (self.root / "config/site.yaml").write_text(site, encoding="utf-8")
        if not (self.root / "slurm").exists():
            (self.root / "slurm").symlink_to("profiles/slurm")

    def start(self, *words: str) -> Under:
        command = [sys.executable, "-m", *words]
        return Under(command, self.root, self.cluster.environment)

    def snakemake(self, *targets: str) -> Under:
        return self.start("snakemake", *targets, "--profile", "slurm", "--configfile", CONFIG)

    def training(self, run: str) -> psutil.Process | None:
        for process in self.cluster.job_processes():
            with suppress(psutil.Error):
                here = Path(process.cwd()) == self.root
                if here and process.cmdline()[2:4] == ["train", run]:
                    return process
        return None


def wait_for(condition: Callable[[], object], what: str, running: Under) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if running.process.poll() is not None or time.monotonic() > deadline:
            running.end()
            raise AssertionError(f"waited for {what}:\n{running.said}")
        time.sleep(0.1)


def digests(root: Path) -> dict[str, str]:
    found = [*root.glob("results/**/*"), *root.glob("work/*/runs/*/final/model.safetensors")]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
        if path.is_file()
    }
