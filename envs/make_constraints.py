"""Print exact versions of what rlsubnet and its extras need, as installed here.

usage: .venv/bin/python envs/make_constraints.py > envs/constraints.txt
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

HEADER = """\
# Versions that were installed and tested together; `make` passes this file to pip as constraints.
# It holds what the dependencies and extras of pyproject.toml need, and what those need.
#
# To renew: install with new versions (.venv/bin/pip install -U -e '.[train,workflow,dev]'), run
# `make test` and `make demo`, then
#     .venv/bin/python envs/make_constraints.py > envs/constraints.txt
#
# Without a GPU: on Linux, PyPI's torch is the CUDA build and brings gigabytes of libraries.
# The CPU build has the same version and comes from PyTorch's own index:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
# or, before the first `make`,
#     python3 -m venv .venv
#     .venv/bin/pip install -c envs/constraints.txt torch \\
#       --index-url https://download.pytorch.org/whl/cpu
"""

# The extra `dev` holds what `fast`, `words` and `paper` do.
EVERYTHING = "rlsubnet[train,workflow,dev]"


def normalized(name: str) -> str:
    """Return a package name as the index compares it.

    >>> normalized("Jupyter_Core")
    'jupyter-core'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(requirement: Requirement, seen: dict[tuple[str, str], str]) -> None:
    """Add to ``seen`` the version of a requirement and of all it needs, by name and extra."""
    installed = distribution(requirement.name)
    name = installed.metadata["Name"]
    for extra in ("", *requirement.extras):
        if (normalized(name), extra) in seen:
            continue
        # The CPU build calls itself 2.13.0+cpu; the pin must fit both builds.
        seen[normalized(name), extra] = f"{name}=={installed.version.split('+')[0]}"
        for line in installed.requires or ():
            child = Requirement(line)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                needed(child, seen)


def constraints(project: str) -> list[str]:
    """Return one pin for each package that ``project`` needs, without the project itself."""
    seen: dict[tuple[str, str], str] = {}
    needed(Requirement(project), seen)
    own = normalized(Requirement(project).name)
    pins = {name: pin for (name, _), pin in seen.items() if name != own}
    return [pins[name] for name in sorted(pins)]


if __name__ == "__main__":
    try:
        print(HEADER + "\n".join(constraints(EVERYTHING)))
    except PackageNotFoundError as error:
        sys.exit(f"not installed here: {error.name}; first: pip install -e '.[train,workflow,dev]'")
