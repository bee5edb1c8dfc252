"""`make demo SAME_BITS=1`: one order of summation on CPUs of any make, here an emulated one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlsubnet.machine import processor
from tests.sheets_of_row import train_command
from tests.training.training_runs import ARCHITECTURE, bits, row

EMULATOR = shutil.which("qemu-x86_64")
# Of the make that this machine is not; both have AVX2.
OTHER_CPU = "EPYC-Rome" if "Intel" in processor() else "Haswell-noTSX"
# Wide enough for MKL to choose kernels by the make: unasked, the two CPUs give other bits.
WIDE = {**ARCHITECTURE, "hidden_size": 96, "intermediate_size": 256}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64 (Debian: qemu-user)"),
]


def train(folder: Path, data: Path, variables: dict[str, str], *emulator: str) -> tuple[bytes, str]:
    """Pretrain a small model in a process of its own and return its bits."""
    what = row("pretrain", steps=4).but(architecture=WIDE)
    words = train_command(folder, what.as_dict(), data)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [*emulator, sys.executable, "-m", "rlsubnet.cli", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return bits(folder)


def test_a_cpu_of_another_make_gives_the_same_bits(tmp_path, data, repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    block = makefile.split("ifdef SAME_BITS\n")[1].split("endif")[0]
    asked = dict(re.findall(r"export (\w+) := (\w+)", block))
    assert {"ATEN_CPU_CAPABILITY", "MKL_CBWR"} < set(asked)
    emulated = (str(EMULATOR), "-cpu", OTHER_CPU)
    here = train(tmp_path / "here", data["pretrain"], asked)
    there = train(tmp_path / "there", data["pretrain"], asked, *emulated)
    assert here == there
