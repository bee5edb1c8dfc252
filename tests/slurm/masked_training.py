"""What runs on each node: ``torchrun -m tests.slurm.masked_training FOLDER``.

Trains one masked case under FSDP2 with whoever torchrun says is there, and writes what came out
and where to FOLDER/{rank}.pt.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.backends.tiny import Case, write_masks
from tests.backends.worker import train_fsdp

CASE = Case("two_nodes", "fsdp2")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == 0:
        write_masks(folder)
    dist.barrier()
    result = {
        **train_fsdp(CASE, folder, rank),
        "world": dist.get_world_size(),
        "node": os.environ["SLURMD_NODENAME"],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()
    # torch 2.13 and gloo sometimes abort while the interpreter ends, after the work is done.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
