"""docs/ARCHITECTURE.md names the files of two trails in the order in which they are called."""

import inspect
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import rlsubnet
from rlsubnet.cli import main
from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint
from tests.workflow.projects import Sheets

PACKAGE = Path(rlsubnet.__file__).parent


def called(run: Callable[[], object]) -> list[str]:
    """Return the package's files in the order in which their functions are first called."""
    files: dict[str, None] = {}

    def look(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # The body of a module or class is no function: it runs where the file is imported.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:
            path = Path(code.co_filename)
            if path.is_relative_to(PACKAGE):
                files.setdefault(path.relative_to(PACKAGE).as_posix())

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(files)


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def trail(page: str, heading: str) -> list[str]:
    """Return the files of the package that a section names, in its order."""
    section = page.split(f"\n## {heading}")[1].split("\n## ")[0]
    return list(dict.fromkeys(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", section)))


def test_the_trail_of_a_pair_is_the_order_of_its_calls(page, tmp_path, capsys):
    weights = make_weights()
    pair = [write_checkpoint(tmp_path / "init", weights)]
    pair += [write_checkpoint(tmp_path / "tuned", nudge(weights))]
    command = ["updates", *map(str, pair)]
    assert main(command) == 0  # what is imported now is not called in the trail
    found = called(lambda: main(command))
    named = trail(page, "One pair")
    assert [file for file in found if file in named] == named
    assert len(found) <= 20


def test_the_trail_of_a_run_is_the_order_of_its_calls(
    page, base, data, mask, tmp_path, monkeypatch
):
    for name in ("imports", "trail"):
        root = tmp_path / name
        Sheets(root)
        work = root / "work" / "micro"
        shutil.copytree(base, work / "runs/sft/final")
        for source, target in ((data["dpo"], "data/pairs.jsonl"), (mask, "masks/dpo.safetensors")):
            (work / target).parent.mkdir()
            shutil.copy(source, work / target)
        monkeypatch.chdir(root)
        found = called(lambda: main(["train", "dpo_sub", "--config", "config/micro/config.yaml"]))
        assert (work / "runs/dpo_sub/final/manifest.json").exists()
    named = trail(page, "One run")
    # Named where it runs, though only a run with responses of its own calls it.
    named.remove("training/online.py")
    assert [file for file in found if file in named] == named


def test_every_file_that_is_named_exists_and_rules_stand_in_their_order(page, repository):
    names = re.findall(r"`([\w./-]+\.(?:py|smk|tsv|yaml))`", page)
    tree = page.split("```")[1]
    for line in tree.splitlines():
        prefix = "workflow/rlsubnet/" if line.startswith("  ") else ""
        words = re.findall(r"[\w./-]*(?:/|\.py|file)(?=\s|,|$)", line[:30])
        names += [prefix + word for word in words]
    assert len(names) > 30
    roots = (repository, repository / "workflow" / "rlsubnet")
    missing = [name for name in names if not any((root / name).exists() for root in roots)]
    # Made by a run, and not committed.
    assert set(missing) <= {"work/"}
    rules = re.findall(r"`(workflow/rules/\w+\.smk)`", page)
    included = re.findall(r'include: "(.*)"', (repository / "Snakefile").read_text())
    assert rules == [file for file in included if file in rules] and len(rules) == 3
