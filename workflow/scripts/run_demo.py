"""Run the demo: one line for each job, then the HTML report, then where everything is.

Snakemake's own log says all of this at length; it is kept in .snakemake/log.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rlsubnet.running.runs import directors_here, is_locked, snakemake, unlock, wait_for_workers

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/demo")
REPORT = RESULTS / "report.html"
# Instead of Snakemake's own words, a line for each job, with the time left.
PROGRESS = ("--logger", "rlsubnet", "--logger-rlsubnet-progress", "config/demo/config.yaml")
RUNS = Path("work/demo/runs")
COMPARED = Path("logs/demo/compare.log")


def clear_stale_lock() -> None:
    """Remove the lock that a killed Snakemake left behind; wait for jobs that outlived it.

    Raises:
        SystemExit: another Snakemake is at work in this folder.
    """
    if not is_locked():
        return
    for process in directors_here():
        sys.exit(f"another snakemake (process {process.pid}) is at work in {Path.cwd()}")
    wait_for_workers()
    print("a run was killed here; going on from where it was")
    unlock()


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
    """Run a Snakemake command line whose logger prints its jobs, return its status."""
    process = subprocess.Popen(command)
    # Ctrl-C reaches Snakemake too: it stops its jobs and unlocks, and we wait for that. SIGTERM
    # lets running jobs end first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: process.terminate())
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
    status = follow(snakemake("--cores", "all", *arguments, *PROGRESS))
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
