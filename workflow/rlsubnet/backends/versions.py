"""What the bits of another trainer's run depend on beside its inputs, told from inside of it."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def installed(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_environment(packages: Iterable[str]) -> dict[str, Any]:
    """Return device, version of Python, and versions of ``packages``."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
        "python": platform.python_version(),
        "packages": {package: installed(package) for package in packages},
    }
