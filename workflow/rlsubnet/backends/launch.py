"""One training on one node or several: what starts on each of them, by torchrun, accelerate or Ray.

    python -m rlsubnet.backends.launch torchrun --processes 8 --nodes 2 -- train.py ARGUMENTS
    python -m rlsubnet.backends.launch accelerate --processes 8 --nodes 2 -- --use_deepspeed ...
    python -m rlsubnet.backends.launch ray --nodes 2 -- -m trainer ARGUMENTS

On one node nothing else is needed. On several, a rule's command runs once, on the first, and puts
:func:`srun_arguments` in front of this: then it runs on every node, learns from Slurm which one it
is, and starts that node's part. With Ray the first node also runs the program, once all others have
joined, and theirs end with it.

Standard library only: it is also run by the interpreters of other projects' environments.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE = "rlsubnet.backends.launch"
MODULES = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.launch"}
# Between the ports that a system hands out by itself, in most configurations from 32,768 on, and
# those of well-known services.
FIRST_PORT, PORTS = 20_000, 10_000
RAY_PATIENCE = 300  # seconds for all nodes to join


@dataclass(frozen=True)
class Node:
    """One of the nodes that train together."""

    count: int = 1
    rank: int = 0
    # Of the first node, where the processes meet; another port for another job.
    address: str = "127.0.0.1"
    port: int = FIRST_PORT


def srun_arguments(nodes: int) -> list[str]:
    """Return what starts a command once on each node of a job, nothing for one node.

    Everything is said explicitly: Snakemake's plugin takes Slurm's variables away, and a bare
    ``srun`` then means one node. When one part fails, the others are ended.

    >>> srun_arguments(1)
    []
    >>> srun_arguments(2)
    ['srun', '--nodes=2', '--ntasks=2', '--ntasks-per-node=1', '--kill-on-bad-exit=1']
    """
    if nodes == 1:
        return []
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
    ]


def launched(
    nodes: int, launcher: str, processes: int, python: Path | str, words: Sequence[str]
) -> list[str]:
    """Return the command that starts a program on all nodes of a job.

    >>> " ".join(launched(1, "torchrun", 8, "python", ["train.py", "--lr", "1e-6"]))
    'python -m rlsubnet.backends.launch torchrun --processes 8 --nodes 1 -- train.py --lr 1e-6'
    """
    options = [launcher, "--processes", str(processes), "--nodes", str(nodes)]
    return [*srun_arguments(nodes), str(python), "-m", MODULE, *options, "--", *words]


def this_node(nodes: int, variables: Mapping[str, str], ask: Callable[..., str]) -> Node:
    """Return which of a job's nodes this is; asks Slurm where the first one is."""
    port = FIRST_PORT + int(variables.get("SLURM_JOB_ID") or 0) % PORTS
    if nodes == 1:
        return Node(port=port)
    found = variables.get("SLURM_STEP_NUM_NODES", "none")
    if found != str(nodes):
        raise ValueError(f"SLURM_STEP_NUM_NODES: expected a step of {nodes} nodes, found {found}")
    names = ask(["scontrol", "show", "hostnames", variables["SLURM_STEP_NODELIST"]]).split()
    facts = ask(["scontrol", "show", "node", names[0], "-o"]).split()
    address = next((fact[9:] for fact in facts if fact.startswith("NodeAddr=")), names[0])
    return Node(nodes, int(variables["SLURM_NODEID"]), address, port)


def ray_arguments(node: Node) -> list[str]:
    """Return what ``ray start`` is told on a node.

    >>> " ".join(ray_arguments(Node(2, 0, "10.0.0.1", 20007)))
    '--block --disable-usage-stats --head --node-ip-address 10.0.0.1 --port 20007'
    >>> " ".join(ray_arguments(Node(2, 1, "10.0.0.1", 20007)))
    '--block --disable-usage-stats --address 10.0.0.1:20007'
    """
    head = ["--head", "--node-ip-address", node.address, "--port", str(node.port)]
    joining = ["--address", f"{node.address}:{node.port}"]
    return ["--block", "--disable-usage-stats", *(joining if node.rank else head)]


def command_on(node: Node, launcher: str, processes: int, words: Sequence[str]) -> list[str]:
    """Return the command of one node; with Ray that of the only one, where the program starts it.

    accelerate counts the processes of all nodes.

    >>> " ".join(command_on(Node(), "torchrun", 8, ["train.py"])[1:])
    '-m torch.distributed.run --standalone --nproc-per-node 8 train.py'
    >>> second = Node(2, 1, "10.0.0.1", 20007)
    >>> " ".join(command_on(second, "torchrun", 8, [])[3:])
    '--nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 20007 --nproc-per-node 8'
    >>> " ".join(command_on(second, "accelerate", 8, [])[3:7])
    '--num_machines 2 --num_processes 16'
    """
    if launcher == "ray":
        return [sys.executable, *words]
    count, rank, port = str(node.count), str(node.rank), str(node.port)
    if launcher == "torchrun":
        places = ["--nnodes", count, "--node-rank", rank]
        places += ["--master-addr", node.address, "--master-port", port]
        options = places if node.count > 1 else ["--standalone"]
        options += ["--nproc-per-node", str(processes)]
    else:
        options = ["--num_machines", count, "--num_processes", str(node.count * processes)]
        if node.count > 1:
            options += ["--machine_rank", rank, "--main_process_ip", node.address]
            options += ["--main_process_port", port]
    return [sys.executable, "-m", MODULES[launcher], *options, *words]


def ask_program(words: Sequence[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _first_listens(node: Node) -> bool:
    try:
        socket.create_connection((node.address, node.port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + RAY_PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ValueError(f"Ray: waited {RAY_PATIENCE} s for {what}")
        time.sleep(2)


def _all_joined(node: Node) -> bool:
    count = "import ray; ray.init('auto', log_to_driver=False); print(len(ray.nodes()))"
    asked = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True)
    return asked.returncode == 0 and asked.stdout.split()[-1:] == [str(node.count)]


def run_under_ray(node: Node, words: Sequence[str]) -> int:
    """Run this node's part of Ray and, on the first, the program; return the program's status."""
    if node.rank:
        _wait(lambda: _first_listens(node), f"the first node, {node.address}:{node.port}")
    # The program `ray` of this interpreter's environment, whatever stands first on the path.
    program = Path(sys.executable).with_name("ray")
    ray = subprocess.Popen([str(program), "start", *ray_arguments(node)])
    try:
        if node.rank:
            while ray.poll() is None and _first_listens(node):
                time.sleep(5)
            return ray.poll() or 0
        _wait(lambda: _all_joined(node), f"{node.count} nodes to join")
        address = {"RAY_ADDRESS": f"{node.address}:{node.port}"}
        return subprocess.call([sys.executable, *words], env={**os.environ, **address})
    finally:
        # Not `ray stop`, which would end the Ray of other jobs on this machine, too.
        ray.terminate()
        ray.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Start this node's part and return its status."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("launcher", choices=["torchrun", "accelerate", "ray"])
    parser.add_argument("--processes", type=int, default=1, help="on each node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("words", nargs="+", help="after --: the program and its arguments")
    options = parser.parse_args(arguments)
    try:
        node = this_node(options.nodes, os.environ, ask_program)
        if options.launcher == "ray" and node.count > 1:
            return run_under_ray(node, options.words)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"{MODULE}: error: {error}", file=sys.stderr)
        return 1
    words = command_on(node, options.launcher, options.processes, options.words)
    # In place of this process: whoever ends it ends the training.
    os.execv(words[0], words)
    return 1


if __name__ == "__main__":
    sys.exit(main())
