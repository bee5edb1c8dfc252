"""A real Slurm cluster on loopback: munged, slurmctld and two slurmd; root is not needed.

Nothing outside its own folder is written, every daemon is a child of this process, and ``stop``
ends them, and whatever a job left behind, by process id.
"""

import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2")
GPUS = 2
PATIENCE = 60  # seconds for the cluster to come up, or for jobs to go
# Jobs inherit it; by its value a process is known to belong to one cluster.
MARK = "LOOPBACK_CLUSTER"
# Debian's daemons lie where an ordinary user does not look.
SEARCH_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
)
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def missing_programs() -> list[str]:
    return [name for name in NEEDED if shutil.which(name, path=SEARCH_PATH) is None]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


class Cluster:
    """Two nodes of 8 CPUs and 2 pretended GPUs each.

    ``root`` holds configuration, state and logs of the daemons; with ``environment`` a process
    talks to this cluster.
    """

    def __init__(self) -> None:
        # A short path: the path of a socket has at most 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # Jobs find the package and these tests; Python reads ``sitecustomize`` when it starts.
        modules = map(str, (self.root / "python", REPOSITORY / "workflow", REPOSITORY))
        before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "SLURM_CONF": str(self.root / "slurm.conf"),
            MARK: str(self.root),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PATH": f"{self.root / 'bin'}{os.pathsep}{SEARCH_PATH}",
            "PYTHONPATH": os.pathsep.join(filter(None, [*modules, *before])),
        }

    def start(self) -> None:
        self._write_files()
        munge = self.root / "munge"
        words = ["munged", "--foreground", "--force", f"--socket={munge}/socket"]
        words += [f"--key-file={munge}/key", f"--seed-file={munge}/seed"]
        words += [f"--pid-file={self.root}/run/munged.pid"]
        words += [f"--log-file={self.root}/log/munged.log"]
        self._start("munged", words)
        self._wait(lambda: (munge / "socket").exists(), "munged to listen")
        self._start("slurmctld", ["slurmctld", "-D", "-c", "-f", self.environment["SLURM_CONF"]])
        for node in NODES:
            self.start_node(node)
        self._wait(lambda: set(self.node_states().values()) == {"IDLE"}, "idle nodes")

    def start_node(self, node: str) -> None:
        self._start(node, ["slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"]])

    def stop(self) -> None:
        try:
            if "slurmctld" in self._daemons:
                self.ask("scancel", "--user", getpass.getuser())
                self._wait(lambda: not self.job_states(), "jobs to end")
        finally:
            for name in reversed(list(self._daemons)):
                _end(self._daemons.pop(name))
            for process in self.leftovers():
                _kill(process)
            psutil.wait_procs(self.leftovers(), timeout=10)
            left = [process.cmdline() for process in self.leftovers()]
            shutil.rmtree(self.root, ignore_errors=True)
        assert not left, f"still running: {left}"

    def lose_node(self, node: str) -> None:
        """Take a node away with all that runs on it, and tell the controller.

        Left alone it would find out by itself after ``SlurmdTimeout``.
        """
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for step in self._steps():
            if f"slurmd.{node}.log" in _open_files(step):
                _kill(step)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def return_node(self, node: str) -> None:
        self.start_node(node)
        self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._wait(lambda: self.node_states()[node] in ("IDLE", "MIXED"), f"node {node}")

    def ask(self, *words: str) -> str:
        return subprocess.run(
            words, env=self.environment, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def node_states(self) -> dict[str, str]:
        try:
            lines = self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
        except subprocess.CalledProcessError:  # the controller is not up yet
            return {}
        return {name: state.upper() for name, state in map(str.split, lines)}

    def job_states(self) -> dict[str, str]:
        lines = self.ask("squeue", "-h", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def leftovers(self) -> list[psutil.Process]:
        return [*self._steps(), *self.job_processes()]

    def job_processes(self) -> list[psutil.Process]:
        # Daemons and whoever talks to them have the mark, too, but no job.
        found = ((process, _variables(process)) for process in psutil.process_iter())
        marked = ((p, variables) for p, variables in found if variables.get(MARK) == str(self.root))
        return [process for process, variables in marked if "SLURM_JOB_ID" in variables]

    def _steps(self) -> list[psutil.Process]:
        found = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "slurmstepd"]
        return [p for p in found if any(str(self.root) in path for path in _open_files(p))]

    def _write_files(self) -> None:
        spools = (f"spool.{node}" for node in NODES)
        for name in ("state", "log", "run", "bin", "dev", "python", *spools):
            (self.root / name).mkdir()
        shutil.copy(HERE / "often.py", self.root / "python" / "sitecustomize.py")
        (self.root / "munge").mkdir(mode=0o711)
        self.root.chmod(0o755)
        key = self.root / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        controller, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={port}"
            for node, port in zip(NODES, ports, strict=True)
        )
        values = {"root": self.root, "user": getpass.getuser(), "controller_port": controller}
        values |= {"gpus": GPUS, "nodes": nodes, "names": ",".join(NODES)}
        text = (HERE / "slurm.conf").read_text(encoding="utf-8").format_map(values)
        (self.root / "slurm.conf").write_text(text)
        # A link to a device counts as a GPU; a job finds its number in CUDA_VISIBLE_DEVICES.
        for number in range(GPUS):
            (self.root / "dev" / f"gpu{number}").symlink_to("/dev/null")
        (self.root / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(NODES)} Name=gpu Flags=nvidia_gpu_env "
            f"File={self.root}/dev/gpu[0-{GPUS - 1}]\n"
        )
        # Snakemake's plugin drops SLURM_CONF before it starts a job's step. Where it lies in
        # /etc/slurm that does no harm; here it must be named again.
        for name in ("srun", "scontrol", "squeue", "scancel"):
            shim = self.root / "bin" / name
            program = shutil.which(name, path=SEARCH_PATH)
            shim.write_text(
                f'#!/bin/sh\nexport SLURM_CONF={self.root}/slurm.conf\nexec {program} "$@"\n'
            )
            shim.chmod(0o755)

    def _start(self, name: str, words: Sequence[str]) -> None:
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"waited for {what}; ended: {ended}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the last words of all daemons."""
        tails = []
        for path in sorted((self.root / "log").iterdir()):
            lines = path.read_text(errors="replace").splitlines()
            tails.append("\n".join([f"--- {path.name}", *lines[-15:]]))
        return "\n".join(tails)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _kill(process: psutil.Process) -> None:
    """Kill a process and all that it started; some of them may end by themselves meanwhile."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _open_files(process: psutil.Process) -> set[str]:
    try:
        paths = [Path(file.path) for file in process.open_files()]
    except psutil.Error:
        return set()
    return {str(path) for path in paths} | {path.name for path in paths}


def _variables(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}
