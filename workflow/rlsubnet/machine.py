"""What the bits of a run depend on besides its row and inputs: device, arithmetic, versions."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlsubnet
from rlsubnet.columns import MachineRow, names

if TYPE_CHECKING:
    import torch

# Versions that a results folder keeps of each run; a checkpoint's manifest.json has more.
PACKAGES = ("rlsubnet", "torch", "transformers", "numpy")


def installed(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        # This one may be used from a copy of its files, which pip knows nothing of.
        return rlsubnet.__version__ if package == "rlsubnet" else None


def processor() -> str:
    """Return the model of this machine's CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    models = [x.split(":", 1)[1].strip() for x in text.splitlines() if x.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def arithmetic() -> str:
    """Return what decides the order of a CPU's summations: instructions, and MKL's own choice.

    MKL multiplies matrices by other kernels on each make of CPU, unless MKL_CBWR asks for those
    that all have (docs/LOG.md, "The same bits on two CPUs").
    """
    import torch

    asked = os.environ.get("MKL_CBWR")
    return torch.backends.cpu.get_cpu_capability() + (f", MKL_CBWR={asked}" if asked else "")


def describe_environment(
    packages: Iterable[str], device: "torch.device | None" = None
) -> dict[str, Any]:
    """Return device (the GPU, if there is one), arithmetic, and versions of what is installed."""
    import torch

    kind = device.type if device else "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name(device) if kind == "cuda" else processor()
    return {
        "device": f"{kind} ({name})",
        "arithmetic": arithmetic() if kind == "cpu" else "",
        "python": platform.python_version(),
        "packages": {package: installed(package) for package in packages},
    }


def machine_row(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a run was made, from its ``manifest.json``; a cell is empty if it is not said.

    >>> manifest = {"row": {"run": "dpo"}, "device": "cpu (Z80)", "packages": {"torch": "2.13.0"}}
    >>> row = machine_row(manifest)
    >>> row["run"], row["device"], row["torch"], row["numpy"]
    ('dpo', 'cpu (Z80)', '2.13.0', '')
    """
    found = {**manifest.get("packages", {}), **manifest, "run": manifest["row"]["run"]}
    return {column: found.get(column) or "" for column in names(MachineRow)}


def machine_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return where each of several runs was made, from the manifests in their model folders."""
    rows = []
    for folder in folders:
        file = folder / "manifest.json"
        try:
            rows.append(machine_row(json.loads(file.read_text(encoding="utf-8"))))
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: expected the manifest of a trained run ({error!r}); "
                "is this the folder `final` of a run?"
            ) from error
    return rows
