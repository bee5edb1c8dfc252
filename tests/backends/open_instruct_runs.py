"""Runs of the real open-instruct on CPUs: what they start from, and how they are called.

They need OPEN_INSTRUCT_DIR, a checkout at the pinned commit, and OPEN_INSTRUCT_PYTHON, the
interpreter of an environment with its packages; docs/BACKENDS.md says how to make one for CPUs.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.checkpoints.pair import check_frozen, pair_checkpoints
from tests.backends.programs import script
from tests.backends.small_llama import write_model, write_pairs, write_random_mask
from tests.sheets_of_row import train_command

WHERE_IT_IS = pytest.mark.skipif(
    not (os.environ.get("OPEN_INSTRUCT_DIR") and os.environ.get("OPEN_INSTRUCT_PYTHON")),
    reason="needs OPEN_INSTRUCT_DIR and OPEN_INSTRUCT_PYTHON",
)

# Imported by every process. torch after 2.6 zips learning rates strictly, while DeepSpeed 0.15
# drops the group of parameters without decay, which is empty for a Llama; and a process stops in
# the middle of the file that CUT_OFF names.
SITE = """
import builtins, os, time
import torch
torch.optim.lr_scheduler.zip = lambda *a, strict=False: builtins.zip(*a)
save = torch.save
def cut_off(state, file, *arguments, **options):
    save(state, file, *arguments, **options)
    if str(file) == os.environ.get("CUT_OFF"):
        os.truncate(file, os.path.getsize(file) // 2)
        open(f"{file}.cut", "w").close()
        time.sleep(600)
torch.save = cut_off
"""
# DeepSpeed 0.15 asks numactl for the cores of this machine.
NUMACTL = '#!/bin/sh\necho "available: 1 nodes (0)"\necho "node 0 cpus: 0 1"\n'
PYTHON = '#!/bin/sh\nPYTHONPATH="{shims}:$PYTHONPATH" exec {python} "$@"\n'


def make_bench(root: Path) -> Path:
    write_model(root / "init")
    for pairs in (100, 32):
        write_pairs(root / f"{pairs}.jsonl", pairs)
    write_random_mask(root / "mask.safetensors", root / "init")
    script(root / "shims" / "sitecustomize.py", SITE)
    script(root / "shims" / "numactl", NUMACTL)
    python = os.environ["OPEN_INSTRUCT_PYTHON"]
    script(root / "python", PYTHON.format(shims=root / "shims", python=python))
    return root


@dataclass(frozen=True)
class Case:
    """A run of 6 updates of 16 pairs on two processes."""

    run: str
    mask: str = ""  # name of the run that its mask is of
    pairs: int = 100  # of which 4 are left over, or 32
    epochs: int = 1


FULL, SUB = Case("dpo"), Case("dpo_sub", mask="dpo")
EPOCHS = Case("dpo_epochs", mask="dpo", pairs=32, epochs=3)


def arguments(root: Path, case: Case, folder: str, save_every: int, nodes: int = 1) -> list[str]:
    recipe = {"lr": 5e-4, "beta": 5.0, "processes": 2, "accumulate": 8, "epochs": case.epochs}
    recipe |= {"max_length": 64, "flash_attention": False, "save_every": save_every}
    row = {
        **{"run": case.run, "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"},
        **{"data": "pairs", "recipe": recipe, "seed": 42, "mask": case.mask},
    }
    return train_command(
        root / folder,
        row,
        root / f"{case.pairs}.jsonl",
        root / "init",
        root / "mask.safetensors" if case.mask else None,
        backends={"open_instruct": {"python": str(root / "python")}},
        resources={"train_open_instruct": {"nodes": nodes}},
    )


def variables(root: Path) -> dict[str, str]:
    return {
        **{"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        "PATH": f"{root / 'shims'}{os.pathsep}{os.environ['PATH']}",
    }


def changes(bench: Path, run: Path) -> tuple[int, int]:
    pair = pair_checkpoints(Checkpoint(bench / "init"), Checkpoint(run / "final"))
    counts = [c for _, c in check_frozen(pair, Mask(bench / "mask.safetensors"))]
    return sum(c.frozen_changed for c in counts), sum(c.subnetwork_changed for c in counts)
