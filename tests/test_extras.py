"""A plain install without the extras: what still works, and what is said where it does not."""

import subprocess
import sys
import tomllib

import pytest

from rlsubnet.cli import build_parser
from rlsubnet.extras import EXTRAS

# Runs a command as where some modules are not installed.
WITHOUT = """
import importlib.abc, importlib.util, sys
missing = set(sys.argv.pop(1).split(","))
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
found = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name.split(".")[0] in missing else found(name, package)
importlib.util.find_spec = find_spec
from rlsubnet.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without(missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, missing, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def least_arguments(command: str) -> list[str]:
    """Return what ``argparse`` insists on, named so that nothing can be found there."""
    commands = next(a for a in build_parser()._actions if isinstance(a.choices, dict))
    arguments = []
    for action in commands.choices[command]._actions:
        if action.required:
            arguments += [*action.option_strings[:1], "nothing=nothing"]
    return arguments


@pytest.mark.parametrize(
    ("command", "missing", "extras"),
    [
        ("train", "torch", "train"),
        ("evaluate", "torch,transformers", "train"),
        ("table1", "pandas,matplotlib", "workflow"),
        ("fig1", "matplotlib", "workflow"),
        ("compare", "pandas", "workflow"),
        ("status", "psutil", "workflow"),
        ("resume", "psutil,snakemake", "workflow"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks_before_it_reads_anything(command, missing, extras):
    result = without(missing, command, *least_arguments(command))
    assert (result.returncode, result.stdout) == (1, "")
    names = missing.replace(",", ", ")
    assert result.stderr == (
        f"rlsubnet {command}: error: needs {names}; "
        f"in a clone of rlsubnet: pip install '.[{extras}]'\n"
    )


def test_every_module_is_brought_by_the_extra_that_is_named(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for module, extra in EXTRAS.items():
        brought = " ".join(project["optional-dependencies"][extra])
        assert module.replace("_", "-") in brought, module
    plain = " ".join(project["dependencies"])
    assert not [module for module in EXTRAS if module in plain]
