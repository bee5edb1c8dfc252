"""Run the demo: one line for each job, then the HTML report, then where everything is.

Snakemake's own log says all of this at length; it is kept in .snakemake/log. What Snakemake says
beside jobs that start and end, an error above all, is passed on.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

from time_left import TimeLeft, Training, said, training

from rlsubnet.config import Scale, SheetError, load_config, load_scale
from rlsubnet.config.scale import resolved_recipe
from rlsubnet.running.resume import snakemake
from rlsubnet.running.workers import workers_here

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/demo")
REPORT = RESULTS / "report.html"
CONFIG = Path("config/demo/config.yaml")
RUNS = Path("work/demo/runs")
COMPARED = Path("logs/demo/compare.log")

Clock = Callable[[], float]

CHATTER = (
    r"Using (workflow specific profile|shell)",
    r"Assuming unrestricted shared filesystem",
    r"(Rules claiming more|Conda environments|Building DAG|Select jobs|Execute \d+)",
    r"(Config file\(s\)|Config MD5):",
    r"(Touching output file|Config file .* is extended)",
    r"(Complete log|Elapsed time)",
    r"\[\w{3} \w{3} +\d+ ",
)
JOB_LINE = re.compile(r"(?:local)?rule (\w+):$")


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(83.4)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def job_lines(
    lines: Iterable[str], left: TimeLeft | None = None, now_is: Clock = time.monotonic
) -> Iterator[str]:
    """Yield one line per job that starts or ends, and every line that is not about jobs.

    Args:
        lines: what Snakemake prints.
        left: estimates the time left, for each job that ends.
        now_is: the clock, in seconds.

    >>> list(job_lines(["rule train:", "    jobid: 2", "    wildcards: run=dpo", "",
    ...                 "Finished jobid: 2 (Rule: train)", "1 of 9 steps (11%) done"]))
    ['  0:00           train dpo ...', '  0:00  [  1/9]  train dpo: done in 0:00']
    """
    started = now_is()
    left = left or TimeLeft()
    names: dict[str, str] = {}
    begun: dict[str, float] = {}
    rule, job, finished = "", "", ""
    header = False
    for line in lines:
        now = now_is() - started
        if match := JOB_LINE.match(line):
            rule, job = match[1], ""
        elif rule and line.startswith("    jobid: "):
            job = line.split()[1]
            names[job], begun[job] = rule, now
        elif rule and line.startswith("    wildcards: "):
            values = [part.split("=", 1)[-1] for part in line.split(": ", 1)[1].split(", ")]
            names[job] = f"{rule} {''.join(values)}"
        elif rule and line.startswith("    "):
            continue
        elif rule:
            name = names.get(job, rule)
            left.start(job, rule, name.removeprefix(rule).strip(), now)
            if rule not in ("all", "tables", "figures"):
                yield f"{clock(now):>6}           {name} ..."
            rule = ""
        elif match := re.match(r"Finished jobid: (\d+)", line):
            finished = match[1]
            left.finish(finished, now)
        elif match := re.match(r"(\d+) of (\d+) steps", line):
            took = clock(now - begun.get(finished, now))
            count = f"[{match[1]:>3}/{match[2]}]"
            words = said(left.seconds(now))
            words = f"{words:<18} " if words else ""
            yield f"{clock(now):>6}  {count}  {words}{names.get(finished, '')}: done in {took}"
        elif line in ("SNAKEMAKE", "Job stats:"):
            header = True
        elif header:
            header = bool(line.strip())
            if (match := re.match(r"(\w+) +(\d+)$", line)) and match[1] != "total":
                left.waiting[match[1]] = int(match[2])
        elif match := re.match(r"Provided cores: (\d+)", line):
            left.cores = int(match[1])
        elif line.strip() and not line.startswith("Shell command: ") and not _is_chatter(line):
            yield line


def _is_chatter(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in CHATTER)


def expected_trainings(scale: Scale, there: Container[str] = ()) -> dict[str, Training]:
    """Return what is expected of each run of a scale that is not ``there`` yet.

    A run that at least half of the others start from, directly or not, is one they wait for.
    """
    found = {}
    starts = {name: set(_starts(scale, name)) for name in scale.runs}
    for name, run in scale.runs.items():
        waiting = sum(name in others for others in starts.values())
        recipe = resolved_recipe(scale.config["recipes"][run.recipe], run.set)
        serial = 2 * waiting >= len(scale.runs) - 1 and waiting > 0
        if name not in there:
            found[name] = training(run.algorithm, recipe["steps"], serial)
    return found


def _starts(scale: Scale, name: str) -> Iterator[str]:
    while (name := scale.runs[name].init) in scale.runs:
        yield name


def time_left() -> TimeLeft:
    """Return an estimate that knows the demo's runs; what is wrong in a sheet Snakemake says."""
    try:
        scale = load_scale(load_config([CONFIG]))
    except (SheetError, OSError):
        return TimeLeft()
    runs = Path(scale.config["work"]) / "runs"
    return TimeLeft(expected_trainings(scale, {p.parent.name for p in runs.glob("*/final")}))


def clear_stale_lock() -> None:
    """Remove the lock that a killed Snakemake left behind; wait for jobs that outlived it.

    Raises:
        SystemExit: another Snakemake is at work in this folder.
    """
    if not any(Path(".snakemake/locks").glob("*.lock")):
        return
    for process, words in workers_here():
        if "snakemake" in words:
            sys.exit(f"another snakemake (process {process.pid}) is at work in {Path.cwd()}")
        print(f"waiting for process {process.pid}, left by a run that was killed: {words}")
        process.wait()
    print("a run was killed here; going on from where it was")
    subprocess.run(snakemake("--unlock"), check=True, capture_output=True)


def set_aside() -> None:
    """Move results away that none of the checkpoints here belongs to: a run would replace them.

    They were made elsewhere, or an earlier version of the project kept them in git.
    """
    if any(RUNS.glob("*/final")) or not any(RESULTS.rglob("*.csv")):
        return
    kept = RESULTS.with_name(f"{RESULTS.name}-{time.strftime('%Y-%m-%d-%H%M%S')}")
    RESULTS.rename(kept)
    print(
        f"{RESULTS} held results of an earlier version or of another machine: {RUNS} has no model "
        f"of theirs, and this run would replace them. They are in {kept} now, complete."
    )


def follow(command: list[str]) -> int:
    """Run a Snakemake command line, print its jobs as they start and end, return its status."""
    left = time_left()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    # Ctrl-C reaches Snakemake too: it stops its jobs and unlocks, and we wait for that. SIGTERM
    # lets running jobs end first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: process.terminate())
    assert process.stdout is not None
    for line in job_lines((line.rstrip("\n") for line in process.stdout), left):
        print(line, flush=True)
    return process.wait()


def report_is_due() -> bool:
    """Return whether a file of the results is newer than the report."""
    if not REPORT.is_file():
        return True
    made = REPORT.stat().st_mtime
    return any(path.stat().st_mtime > made for path in RESULTS.rglob("*") if path.is_file())


def main(arguments: Sequence[str]) -> int:
    """Run the whole demo and its report, or Snakemake with ``arguments``; return its status."""
    os.chdir(ROOT)
    clear_stale_lock()
    whole = not arguments
    if whole:
        set_aside()
        print("rate and time left of a training: tail -f logs/demo/train/*.log", flush=True)
    status = follow(snakemake("--cores", "all", *arguments))
    if status:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return status
    if whole and report_is_due():
        print("writing the report ...", flush=True)
        command = snakemake("--quiet", "all", "--report", str(REPORT))
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            print(made.stdout + made.stderr, file=sys.stderr)
            return made.returncode
    if whole:
        print(f"tables   {RESULTS}/tables/*.md (also .csv, .tex)")
        print(f"figures  {RESULTS}/figures/*.png (also .pdf)")
        print(f"report   {REPORT}")
        if COMPARED.is_file():
            print(COMPARED.read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
