"""Going on after Snakemake was killed: nothing of the old run may write into the new one."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from rlsubnet.config.read import load_config
from rlsubnet.running.run_log import Run, runs_here, unknown_run
from rlsubnet.running.workers import Queued, cancel, directors_here, has_slurm, workers_here

DEMO = "config/demo/config.yaml"
PATIENCE = 300.0  # seconds for cancelled jobs to end


def config_files(arguments: Sequence[str]) -> list[str]:
    """Return the config files of a Snakemake command line; the demo's where it names none.

    >>> config_files(["--profile", "slurm", "--configfile", "a.yaml", "b.yaml", "--jobs", "2"])
    ['a.yaml', 'b.yaml']
    >>> config_files(["--configfile=a.yaml", "table1"]), config_files(["--cores", "all"])
    (['a.yaml'], ['config/demo/config.yaml'])
    """
    files: list[str] = []
    taking = False
    for word in arguments:
        if word.startswith("-"):
            taking = word.split("=")[0] in ("--configfile", "--configfiles")
            files += word.split("=")[1:] if taking else []
        elif taking and word.endswith((".yaml", ".yml", ".json")):
            files.append(word)
        else:
            taking = False
    return files or [DEMO]


def check_alone(runs: Sequence[Run], ended_elsewhere: bool) -> None:
    """Check that no Snakemake is at work in this folder, as far as this machine can tell.

    Raises:
        ValueError: one is, or the last one was started on another machine and may be.
    """
    for process in directors_here():
        raise ValueError(
            f"snakemake (process {process.pid}) is at work here; let it go on, or end it by "
            f"`kill -INT {process.pid}`, which cancels its jobs"
        )
    last = runs[-1] if runs else None
    here = platform.node()
    if last and last.host not in ("", here) and not last.ended and not ended_elsewhere:
        raise ValueError(
            f"{last.file}: started on {last.host}, this is {here}, and it did not say that it "
            f"ended; resume on {last.host}, or, if it was killed there, add --ended-elsewhere"
        )


def cancel_orphans(runs: Sequence[Run], patience: float = PATIENCE) -> list[Queued]:
    """Cancel the Slurm jobs that runs of this folder left behind, and wait until they have ended.

    Raises:
        ValueError: a killed run used Slurm and Slurm does not answer or is not known here.
    """
    if not any(run.slurm_id and not run.ended for run in runs):
        return []
    if not has_slurm():
        raise ValueError(
            "a run of this folder left jobs to Slurm, and there is no squeue on this machine; "
            "resume where Slurm's commands are"
        )
    return cancel([run.slurm_id for run in runs if run.slurm_id], patience)


def kill_strays(runs: Sequence[Run]) -> None:
    """Kill processes on this machine whose Slurm jobs, of these runs, have left the queue.

    Where Slurm follows processes by their parents (``proctrack/linuxproc``), it loses those whose
    parent ended first, and a job's Snakemake then waits for ever for what Slurm has killed.
    """
    ended = {job.slurm for run in runs for job in run.jobs.values() if job.slurm}
    for process, words in workers_here():
        with suppress(psutil.Error):
            job = process.environ().get("SLURM_JOB_ID")
            if job in ended:
                process.kill()
                process.wait()
                print(f"killed process {process.pid}, which Slurm left of job {job}: {words}")


def wait_for_workers() -> None:
    """Wait for jobs on this machine that outlived their Snakemake."""
    for process, words in workers_here():
        print(f"waiting for process {process.pid}, left by a run that was killed: {words}")
        process.wait()


def remove_partial(folders: Sequence[Path]) -> list[Path]:
    """Remove what killed jobs left half-written, and return it; it never has a result's name."""
    found = sorted(path for folder in folders for path in folder.rglob(".*.partial"))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


def snakemake(*arguments: str) -> list[str]:
    """Return the command line of the Snakemake that belongs to this Python."""
    return [sys.executable, "-m", "snakemake", *arguments]


def unlock(arguments: Sequence[str]) -> None:
    """Unlock the folder, if a killed Snakemake left it locked.

    Raises:
        ValueError: Snakemake could not, with its last words.
    """
    if not any(Path(".snakemake/locks").glob("*.lock")):
        return
    done = subprocess.run(snakemake("--unlock", *arguments), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"snakemake --unlock failed: {(done.stdout + done.stderr).strip()[-500:]}")
    print("unlocked the folder")


def resume(arguments: Sequence[str], ended_elsewhere: bool = False) -> int:
    """Clear up after a killed Snakemake in this folder and go on; return Snakemake's status.

    Args:
        arguments: of Snakemake; none repeat those of the last run.
        ended_elsewhere: the last run was started on another machine and has ended there.

    Raises:
        ValueError: a Snakemake is at work here, the jobs of the last run are not known, or old jobs
            do not end.
    """
    runs = [run for run in runs_here() if run.jobs]
    words = list(arguments) or (runs[-1].arguments if runs else [])
    if not words:
        raise ValueError("no run to resume in this folder; name the arguments of Snakemake")
    check_alone(runs, ended_elsewhere)
    if log := unknown_run():
        raise ValueError(
            f"{log}: this run was started without `logger: rlsubnet` of profiles/default, so its "
            "jobs are not known; cancel those that Slurm still has, delete this file, resume again"
        )
    config = load_config(config_files(words))
    for job in cancel_orphans(runs):
        print(f"cancelled Slurm job {job.number} ({job.state.lower()}), left by run {job.name}")
    kill_strays(runs)
    wait_for_workers()
    for path in remove_partial([Path(config[key]) for key in ("work", "results")]):
        print(f"removed {path}, half-written by a job that was killed")
    unlock(words)
    command = snakemake(*words, *([] if "--rerun-incomplete" in words else ["--rerun-incomplete"]))
    print("going on:", " ".join(command[2:]), flush=True)
    return subprocess.call(command)
