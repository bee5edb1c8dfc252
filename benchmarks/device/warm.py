"""``rlsubnet`` without the ten seconds in which every job imports torch and transformers.

``python -m benchmarks.device.warm serve SOCKET`` imports them once and waits. ``warm.py run SOCKET
ARGUMENT...`` hands it the arguments of ``rlsubnet``, with its own folder, environment and outputs;
the server forks a child that does the work, and answers with its exit status. CUDA starts in the
children alone: a process forked behind its start cannot use it.
"""

import array
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# What jobs import, by the modules that their commands start from.
HEAVY = (
    "rlsubnet.training.run",
    "rlsubnet.evaluation.score",
    "rlsubnet.evaluation.score",
    "rlsubnet.evaluation.policy_data",
    "rlsubnet.measure.rank",
    "rlsubnet.checkpoints.structure",
    "rlsubnet.report.write",
    "transformers.models.qwen2.modeling_qwen2",
    "torch._dynamo",
)
# Asked through NVML, whether there is a GPU starts no CUDA in the server.
WITHOUT_CUDA = "PYTORCH_NVML_BASED_CUDA_CHECK"
OUTPUTS = (1, 2)
# Seconds that a command has to stop in, before it is killed.
PATIENCE = 5.0


def serve(path: str) -> None:
    """Fork a child for each connection until SIGTERM; then stop the children, too."""
    os.environ[WITHOUT_CUDA] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    # Under its name it is there at once, and listens.
    listener.bind(f"{path}.new")
    listener.listen(64)
    Path(f"{path}.new").rename(path)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    children = Children(listener)
    try:
        while True:
            children.wait()
    finally:
        children.stop()


class Children:
    """Processes that were forked, each with the connection of who asked for it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: dict[int, socket.socket] = {}
        self._stopping: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def wait(self) -> None:
        """Wait a little for whom to start, whom to stop, and who has ended."""
        for key, _ in self._selector.select(timeout=0.02):
            if key.data is None:
                self._start()
            else:  # nothing more is ever sent: who asked has gone
                self._selector.unregister(key.fileobj)
                self._stopping[key.data] = time.monotonic() + PATIENCE
                os.kill(key.data, signal.SIGTERM)
        for pid, end in self._stopping.items():
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
        while self._connections:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._answer(pid, os.waitstatus_to_exitcode(status))

    def stop(self) -> None:
        """Ask all that are left to stop."""
        for pid in self._connections:
            os.kill(pid, signal.SIGTERM)

    def _start(self) -> None:
        connection, _ = self._listener.accept()
        try:
            asked, outputs = _receive(connection)
        except (OSError, ValueError):  # killed while it asked
            connection.close()
            return
        pid = os.fork()
        if not pid:
            self._listener.close()
            _become(asked, outputs)
        for output in outputs:
            os.close(output)
        self._connections[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)

    def _answer(self, pid: int, code: int) -> None:
        connection = self._connections.pop(pid)
        self._stopping.pop(pid, None)
        with suppress(KeyError):
            self._selector.unregister(connection)
        with suppress(OSError):
            # As a shell has it: a signal is 128 and its number.
            connection.send(bytes([code if code >= 0 else 128 - code]))
        connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return what is asked, and the outputs of who asks."""
    size = array.array("i", OUTPUTS).itemsize * len(OUTPUTS)
    data, sent, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(size))
    outputs = array.array("i")
    for _, _, descriptors in sent:
        outputs.frombytes(descriptors)
    while not data.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more:
            raise ValueError("half a question")
        data += more
    return json.loads(data), list(outputs)


def _become(asked: dict[str, Any], outputs: list[int]) -> NoReturn:
    """Do in this forked process what ``rlsubnet`` would do, and end it."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for own, given in zip(OUTPUTS, outputs, strict=True):
            os.dup2(given, own)
            os.close(given)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["rlsubnet", *asked["arguments"]]
        from rlsubnet.cli import main

        code = main(asked["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(path: str, arguments: list[str]) -> int:
    """Return the exit status of ``rlsubnet``, run by the server; 1 where it has died."""
    asked = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    message = json.dumps(asked).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:  # no server: the same, with its imports
            os.execvp("python3", ["python3", "-m", "rlsubnet.cli", *arguments])
        descriptors = array.array("i", OUTPUTS)
        sent = connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        connection.sendall(message[sent:])
        answer = connection.recv(1)
    return answer[0] if answer else 1


if __name__ == "__main__":
    action, place, *words = sys.argv[1:]
    if action == "serve":
        serve(place)
    else:
        sys.exit(run(place, words))
