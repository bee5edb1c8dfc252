"""What one cluster wants of every job: config/site.yaml, the only file that its user edits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.config.config import read_yaml
from rlsubnet.config.faults import SheetError
from rlsubnet.config.schemas import describe, first_error, load_schema

SITE = Path("config/site.yaml")
Site = dict[str, Any]
Resources = dict[str, Any]


def load_site(path: Path | str = SITE) -> Site:
    """Return the settings of the cluster, defaults filled; all defaults where there is no file.

    Raises:
        SheetError: the file is no YAML, or breaks its schema.
    """
    site = read_yaml(path) if Path(path).is_file() else {}
    error = first_error(site, load_schema("site"))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path)
        raise SheetError(f"{path}, {f'key {place}' if place else 'top level'}: {describe(error)}")
    return site


def job_resources(wanted: Mapping[str, Any], site: Mapping[str, Any], kind: str) -> Resources:
    """Return what a job of a kind asks of Snakemake and Slurm, beside memory.

    GPUs are counted on each node, and several nodes are one job in which the rule's command runs
    once, on the first; see :mod:`rlsubnet.backends.launch`.

    Args:
        wanted: the kind's entry of the config's ``resources``.
        site: see :func:`load_site`.
        kind: name of the kind.

    >>> wanted = {"mem_mb": 1000, "runtime": 60, "threads": 4, "gpus": 8, "nodes": 1}
    >>> job_resources(wanted, {"gpu_partition": "gpu", "gpu_type": "a100"}, "train")
    {'runtime': 60, 'gres': 'gpu:a100:8', 'gpu_slots': 8, 'slurm_partition': 'gpu'}
    >>> job_resources({"runtime": 9, "gpus": 0, "nodes": 2}, {"account": "me"}, "train_verl")
    {'runtime': 9, 'mpi': 'srun', 'nodes': 2, 'tasks': 2, 'slurm_account': 'me'}
    """
    chosen = {**site, **site.get("kinds", {}).get(kind, {})}
    return {
        "runtime": wanted["runtime"],
        **_disk(wanted),
        **_gpus(wanted, chosen),
        **_nodes(wanted),
        **_slurm(chosen, _partition(wanted, site, kind)),
    }


def _disk(wanted: Mapping[str, Any]) -> Resources:
    # Where it is not stated, Snakemake takes a guess of its own.
    size = wanted.get("disk_mb", 0)
    return {"disk_mb": size} if size else {}


def _gpus(wanted: Mapping[str, Any], chosen: Mapping[str, Any]) -> Resources:
    # `gres` counts on each node; the plugin makes of `gpu` a number without a node.
    count, of_type = wanted["gpus"], chosen.get("gpu_type")
    if not count:
        return {}
    return {"gres": f"gpu:{of_type}:{count}" if of_type else f"gpu:{count}", "gpu_slots": count}


def _nodes(wanted: Mapping[str, Any]) -> Resources:
    count = wanted.get("nodes", 1)
    if count == 1:
        return {}
    # `mpi` leaves it to the command to call srun. With GPUs the plugin would make of `tasks` a
    # number for each GPU, which `tasks_per_gpu` prevents.
    per_gpu = {"tasks_per_gpu": 0} if wanted["gpus"] else {}
    return {"mpi": "srun", "nodes": count, "tasks": count, **per_gpu}


def _partition(wanted: Mapping[str, Any], site: Mapping[str, Any], kind: str) -> str:
    of_kind = site.get("kinds", {}).get(kind, {}).get("partition")
    of_gpus = site.get("gpu_partition") if wanted["gpus"] else ""
    return of_kind or of_gpus or site.get("partition", "")


def _slurm(chosen: Mapping[str, Any], partition: str) -> Resources:
    named = {
        "slurm_account": chosen.get("account"),
        "slurm_partition": partition,
        "qos": chosen.get("qos"),
        "constraint": chosen.get("constraint"),
        "slurm_extra": chosen.get("extra"),
    }
    return {key: value for key, value in named.items() if value}
