"""The command line as a whole: help, errors, exit statuses."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlsubnet.cli import build_parser, main
from tests.checkpoints.checkpoint_files import write_checkpoint


def subcommands() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    [choices] = [a.choices for a in actions if isinstance(a, argparse._SubParsersAction)]
    return dict(choices)


def test_help_describes_every_option_and_ends_with_an_example():
    for name, parser in subcommands().items():
        assert parser.description, name
        assert f"rlsubnet {name}" in (parser.epilog or ""), name
        silent = [action.dest for action in parser._actions if not action.help]
        assert silent == [], name


def test_every_item_of_the_paper_has_a_subcommand():
    tables = {f"table{number}" for number in range(1, 7)}
    figures = {f"fig{number}" for number in range(1, 8)}
    assert tables | figures | {"section4"} <= set(subcommands())


def test_help_lists_every_command_once_in_five_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.partition("\nmeasure:\n")[2]
    assert re.findall(r"^(\w.*):$", listed, re.MULTILINE) == [
        *("delta", "train and evaluate", "paper items", "workflow")
    ]
    assert sorted(re.findall(r"^  (\w+) ", listed, re.MULTILINE)) == sorted(subcommands())


def test_a_command_imports_what_it_needs_and_nothing_else(tmp_path):
    def imported(*words):
        code = (
            "import sys; from rlsubnet.cli import main\n"
            f"try: main({list(words)})\nexcept SystemExit: pass\n"
            "print(*(name for name in sys.modules if name.startswith('rlsubnet')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return set(done.stdout.splitlines()[-1].split())

    modules = {"rlsubnet", "rlsubnet.cli", "rlsubnet.commands", "rlsubnet.items"}
    assert imported("--help") == modules
    weights = {"w": torch.zeros(2, 2, dtype=torch.bfloat16)}
    save_file(weights, tmp_path / "model.safetensors")
    assert len(imported("updates", str(tmp_path), str(tmp_path))) <= 20


def test_help_and_measuring_load_nothing_heavy(tmp_path):
    code = (
        "import sys; from rlsubnet.cli import build_parser, main; build_parser().format_help();"
        "status = main(['updates', *sys.argv[1:]]);"
        "heavy = {'torch', 'pydantic', 'matplotlib', 'yaml'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else status)"
    )
    weights = {"lm_head.weight": torch.ones(2, 3, dtype=torch.bfloat16)}
    folders = [str(write_checkpoint(tmp_path / name, weights)) for name in ("init", "tuned")]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_one_line_on_stderr_and_status_1(tmp_path, capsys):
    status = main(["updates", str(tmp_path / "nowhere"), str(tmp_path)])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.err.startswith("rlsubnet updates: error: ")
    assert "nowhere" in captured.err
    assert captured.err.count("\n") == 1


def test_a_full_gpu_is_one_line_that_says_what_to_change(monkeypatch, capsys):
    # As torch words it.
    message = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB "
        "of which 1.20 GiB is free. Process 7 has 77.90 GiB memory in use."
    )

    def full(paths):
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr("rlsubnet.config.load_config", full)
    assert main(["check", "--config", "any"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(
        "rlsubnet check: error: CUDA out of memory. Tried to allocate 2.50 GiB. In a recipe"
    )
    assert "accumulate" in printed
    assert printed.count("\n") == 1


def test_another_error_of_torch_keeps_its_traceback(monkeypatch):
    def broken(paths):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr("rlsubnet.config.load_config", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        main(["check", "--config", "any"])


def test_an_unknown_subcommand_is_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["no-such-command"])
    assert stopped.value.code == 2


def test_a_reader_that_stops_early_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m rlsubnet.cli check --config config/demo/config.yaml | true",
        shell=True,
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_a_terminated_command_leaves_no_half_written_file(tmp_path):
    code = """
import os, signal, sys, time
from rlsubnet import cli, config, files
def terminated(paths):
    with files.replacing("out.csv") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
config.load_config = terminated
cli.main(["check", "--config", "any"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=30)
    assert done.returncode == 128 + 15
    assert list(tmp_path.iterdir()) == []
