"""A micro scale to break, and a project folder to plan and run it in."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import pytest

from rlsubnet.config import Scale, SheetError, load_config, load_scale

# What olmes is asked, instead of the micro scale's own evaluation.
OLMES = (
    "evaluation: {suites: [arith, mc], samples: 2, step_suites: [arith], step_samples: 2}",
    """evaluation:
  backend: olmes
  suites: [table3a, math500]
  step_suites: [math500, aime2024]
  olmes: {environment: /opt/olmes, max_length: 2048}
resources: {evaluate: {gpus: 2}}""",
)
SAVING = "dpo_seed123"  # the run that saves models along its way
MICRO = Path(__file__).parent / "micro"


class Sheets:
    """A copy of the micro scale whose files may be edited."""

    def __init__(self, root: Path, scale: str = "micro") -> None:
        self.root, self.folder = root, root / "config" / scale
        if not self.folder.exists():
            shutil.copytree(MICRO, self.folder)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        path = self.folder / name
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert after != before, "the edit changed nothing: the test could not fail"
        path.write_text(after, encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        self.edit(name, lambda text: text.replace(old, new, 1))

    def set_cell(self, name: str, row: str, column: str, value: str) -> None:
        """Put ``value`` into a column of the row whose first cell is ``row``."""

        def change(text: str) -> str:
            header, *rows = (line.split("\t") for line in text.splitlines() if line[:1] != "#")
            (cells,) = (cells for cells in rows if cells[0] == row)
            cells += [""] * (len(header) - len(cells))
            cells[header.index(column)] = value
            return "".join("\t".join(cells) + "\n" for cells in [header, *rows])

        self.edit(name, change)

    def add_row(self, name: str, *cells: str) -> None:
        self.edit(name, lambda text: text + "\t".join(cells) + "\n")

    def load(self) -> Scale:
        return load_scale(load_config([self.folder / "config.yaml"]), self.root)

    def refusal(self) -> str:
        """Return why the scale is refused."""
        with pytest.raises(SheetError) as caught:
            self.load()
        return str(caught.value)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def keep_runs(root: Path, config: dict[str, str], runs: Collection[str]) -> None:
    """Leave in a configuration's sheets ``runs`` and what is made of them."""
    pairs = _keep_rows(root / config["pairs"], ("init", "tuned"), runs)
    _keep_rows(root / config["runs"], ("run",), runs)
    _keep_rows(root / config["comparisons"], ("pair1", "pair2"), pairs)


def _keep_rows(sheet: Path, columns: tuple[str, ...], names: Collection[str]) -> list[str]:
    lines = sheet.read_text(encoding="utf-8").splitlines()
    header, *rows = (line.split("\t") for line in lines if line[:1] != "#")
    kept = [r for r in rows if all(r[header.index(column)] in names for column in columns)]
    text = "".join("\t".join(cells) + "\n" for cells in [header, *kept])
    sheet.write_text(text, encoding="utf-8")
    return [cells[0] for cells in kept]


class Job(NamedTuple):
    """One job of a dry run; files as Snakemake prints them."""

    rule: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]
    resources: dict[str, str]
    words: list[str]  # of its command


def plan_of(jobs: list[Job]) -> dict[str, set[str]]:
    """Return the jobs of each rule by their wildcards, ``""`` if there are none."""
    planned: dict[str, set[str]] = {}
    for job in jobs:
        planned.setdefault(job.rule, set()).add("".join(job.wildcards.values()))
    return planned


def job_of(jobs: list[Job], rule: str, name: str) -> Job:
    """Return the job of a rule for a run, pair or data set."""
    [found] = [job for job in jobs if job.rule == rule and name in job.wildcards.values()]
    return found


class Project:
    """A folder with the workflow and the micro scale, as a clone would have them."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root = root
        self.sheets = Sheets(root)
        shutil.copy(repository / "Snakefile", root)
        for folder in ("workflow/rules", "workflow/rlsubnet/report/captions", "profiles"):
            shutil.copytree(repository / folder, root / folder)
        (root / "slurm").symlink_to("profiles/slurm")
        for name in ("demo", "gpu", "paper"):
            shutil.copytree(repository / "config" / name, root / "config" / name)
        # Their content is provenance; the real ones would tie these tests to package versions.
        (root / "envs").mkdir()
        for path in (repository / "envs").glob("*.yaml"):
            (root / "envs" / path.name).write_text("dependencies: [python]\n", encoding="utf-8")

    def snakemake(self, *arguments: str, scale: str = "micro") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        whole = (self.root / "config" / scale).is_dir()
        command += ["--configfile", f"config/{scale}/config.yaml" if whole else f"config/{scale}"]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=1800
        )

    def jobs(self, *arguments: str, scale: str = "micro") -> list[Job]:
        """Return what a dry run would do, job by job."""
        result = self.snakemake("--dry-run", *arguments, scale=scale)
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        jobs = []
        for block in re.split(r"\n\n|\n(?=\[\w{3} \w{3})", output):
            if rule := re.search(r"^(?:local)?rule (\w+):$", block, flags=re.MULTILINE):
                lines = re.findall(r"^    (\w+): (.*)$", block, flags=re.MULTILINE)
                parts = {key: value.split(", ") for key, value in lines}
                command = re.search(r"^Shell command: (.*?)(?: > .*)?$", block, flags=re.MULTILINE)
                jobs.append(
                    Job(
                        rule[1],
                        dict(part.split("=", 1) for part in parts.get("wildcards", [])),
                        parts.get("input", []),
                        parts.get("output", []),
                        dict(part.split("=", 1) for part in parts.get("resources", [])),
                        shlex.split(command[1]) if command else [],
                    )
                )
        assert jobs or "Nothing to be done" in output, output
        return jobs

    def words(self, rule: str, *arguments: str, scale: str = "micro") -> list[str]:
        """Return the words of the command of a rule, the first in a dry run."""
        return next(job.words for job in self.jobs(*arguments, scale=scale) if job.rule == rule)

    def plan(self, *arguments: str, scale: str = "micro") -> dict[str, set[str]]:
        return plan_of(self.jobs(*arguments, scale=scale))

    @staticmethod
    def trained(plan: dict[str, set[str]]) -> set[str]:
        """Return the runs that a plan trains, with saved steps and without."""
        return plan.get("train", set()) | plan.get("train_with_steps", set())

    @classmethod
    def at(cls, root: Path) -> "Project":
        """Return the project that lies in a folder."""
        project = object.__new__(cls)
        project.root, project.sheets = root, Sheets(root)
        return project

    def copy_to(self, root: Path, *kept: str) -> "Project":
        """Return a copy that holds only what ``kept`` names beside the sources."""
        sources = ("Snakefile", "workflow", "profiles", "config", "envs")
        for name in (*sources, *kept):
            path = self.root / name
            if path.is_dir():
                shutil.copytree(path, root / name, copy_function=shutil.copy2)
            else:
                shutil.copy2(path, root / name)
        return Project.at(root)
