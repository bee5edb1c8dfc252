"""What verl 0.6.1 needs to run without a GPU: for these tests only, never in the package.

``prepare`` runs at the start of every process of Ray (``worker_process_setup_hook``). What it wants
changed is changed when the module in question is first imported, since most of these processes
never load torch.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


class Afterwards(importlib.abc.MetaPathFinder):
    """Calls a function with a module once that is imported."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)  # by the other finders: this one no longer answers
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def change_torch(torch: ModuleType) -> None:
    import torch.distributed as dist
    import torch.distributed.fsdp._init_utils as fsdp

    missing = {
        **dict.fromkeys(("empty_cache", "ipc_collect", "reset_peak_memory_stats"), _nothing),
        **dict.fromkeys(("max_memory_allocated", "max_memory_reserved"), lambda *args: 0),
        **dict.fromkeys(("memory_allocated", "memory_reserved"), lambda *args: 0),
        "mem_get_info": lambda *args: (1, 1),
        "get_device_name": lambda *args: "CPU",
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
    }
    for name, function in missing.items():
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, function)
    start = dist.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        start("gloo", *args, **kwargs)  # verl asks for "cpu:gloo,cpu:nccl"

    dist.init_process_group = init_process_group
    dist.distributed_c10d.init_process_group = init_process_group
    # FSDP1 refuses sync_module_states for modules on a CPU.
    fsdp._check_module_states_for_sync_module_states = _nothing


def change_workers(workers: ModuleType) -> None:
    """Leave out pinned memory, and a timing function with a gather that gloo refuses."""
    workers.CPUOffloadPolicy = lambda pin_memory=True: None  # type: ignore[attr-defined]
    workers.topk_reduce_ratio_min_max = lambda time, k=10: (0.0, 0.0, 0.0)  # type: ignore[attr-defined]


def prepare() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.meta_path.insert(
        0, Afterwards({"torch": change_torch, "verl.workers.fsdp_workers": change_workers})
    )


def even_digit(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **other: Any
) -> float:
    """Return 1 if the first digit of the answer is even: what a random model does now and then."""
    digits = [character for character in solution_str if character.isdigit()]
    return float(bool(digits) and int(digits[0]) % 2 == 0)
