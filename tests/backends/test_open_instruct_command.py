"""The command lines of config/paper, word by word, and what leads to other ones."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlsubnet.backends.launch import Node, command_on
from rlsubnet.backends.open_instruct.training import (
    Places,
    command,
    environment,
    script_arguments,
)
from rlsubnet.config import Scale, load_config, load_scale
from rlsubnet.config.model import OpenInstructRecipe, Row

GOLDEN = Path(__file__).parent / "golden" / "open_instruct"
RUNS = ("dpo", "dpo_sub", "dpo_b32", "dpo_b32_seed123", "dpo_b32_rollouts", "eurus2_dpo")


@pytest.fixture(scope="module")
def paper(repository: Path) -> Scale:
    return load_scale(load_config([repository / "config/paper/config.yaml"]), repository)


def places_of(row: Row[OpenInstructRecipe]) -> Places:
    work = Path("/project/paper")
    return Places(
        checkout=Path("/open-instruct"),
        python=Path("/envs/open-instruct/bin/python"),
        init=work / "models" / row.init,
        data=work / "data" / f"{row.data}.jsonl",
        scratch=work / "runs" / row.run / "open_instruct",
        mask=work / "masks" / f"{row.mask}.safetensors" if row.mask else None,
    )


def in_lines(row: Row[OpenInstructRecipe]) -> str:
    places = places_of(row)
    variables = [f"{key}={value}" for key, value in environment(row, places).items()]
    return "\n".join([*variables, *command(row, places)]) + "\n"


# To accept a change: read the difference, then write in_lines(row) to the file.
def test_the_command_of_every_run_of_the_paper_is_the_golden_one(paper):
    assert paper.runs_of("open_instruct") == list(RUNS)
    for run in RUNS:
        assert in_lines(paper.row(run)) == (GOLDEN / f"{run}.txt").read_text(encoding="utf-8")


def test_a_masked_run_differs_from_its_full_run_by_the_mask_alone(paper):
    full, sub = (command(row, places_of(row)) for row in map(paper.row, ("dpo", "dpo_sub")))
    renamed = [word.replace("dpo_sub", "dpo") for word in sub]
    start = renamed.index("--mask")
    assert renamed[start : start + 4] == [
        *("--mask", "/project/paper/masks/dpo.safetensors", "--mask_at", "post_clip")
    ]
    assert renamed[:start] + renamed[start + 4 :] == full


def changed(row: Row[OpenInstructRecipe], **recipe: object) -> Row[OpenInstructRecipe]:
    return row.but(recipe=row.recipe.but(**recipe))


def test_another_clip_brings_a_configuration_of_its_own(paper):
    row = changed(paper.row("dpo"), clip=None)
    words = command(row, places_of(row))
    config = words[words.index("--deepspeed_config_file") + 1]
    assert config == "/project/paper/runs/dpo/open_instruct/deepspeed.json"
    # The launcher demands of the engine what the recipe says; DeepSpeed writes none as 0.
    assert json.loads(words[words.index("--engine") + 1])["clip"] == 0.0


def test_several_nodes_share_the_processes_of_the_recipe(paper):
    row = paper.row("dpo")
    words = command(row, replace(places_of(row), nodes=2))
    assert words[:3] == ["srun", "--nodes=2", "--ntasks=2"]
    assert words[words.index("--processes") + 1] == "4"
    # The engine counts those of all nodes.
    assert json.loads(words[words.index("--engine") + 1])["processes"] == 8


def test_the_tokenizer_s_own_template_has_a_name_that_the_script_does_not_know(paper):
    row = paper.row("eurus2_dpo")
    assert "--chat_template_name" not in script_arguments(row, places_of(row))
    own = script_arguments(changed(row, chat_template="own"), places_of(row))
    assert own[own.index("--chat_template_name") + 1] == "own"


@pytest.mark.parametrize(("mode", "besides"), [("online", []), ("offline", ["offline"])])
def test_tracking_follows_the_mode(paper, mode, besides):
    row = paper.row("dpo").but(wandb={"mode": mode, "project": "p"})
    words = script_arguments(row, places_of(row))
    told = words[words.index("--with_tracking") : words.index("--logging_steps")]
    assert told[1:5] == ["--report_to", "wandb", "--wandb_project_name", "p"]
    assert told[5:] == [word for name in besides for word in ("--wandb_entity", name)]
    assert environment(row, places_of(row))["WANDB_MODE"] == mode


@pytest.fixture(scope="module")
def checkout() -> Path:
    if not os.environ.get("OPEN_INSTRUCT_DIR"):
        pytest.skip("no checkout of open-instruct in OPEN_INSTRUCT_DIR")
    return Path(os.environ["OPEN_INSTRUCT_DIR"])


# Reads lists of arguments, one JSON line each; prints what the script would see.
PARSE = """
import json, runpy, sys
sys.path.insert(0, ".")
module = runpy.run_path("open_instruct/dpo_tune_cache.py")
parser = module["ArgumentParserPlus"]((module["FlatArguments"], module["TokenizerConfig"]))
for line in sys.stdin:
    args, tokenizer = parser.parse_args_into_dataclasses(json.loads(line))
    print("PARSED", json.dumps({**vars(args), **vars(tokenizer)}, default=str))
"""


@pytest.mark.slow
def test_open_instruct_s_own_parser_understands_every_command(paper, checkout):
    python = os.environ.get("OPEN_INSTRUCT_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import deepspeed, peft, ray"], capture_output=True)
    if found.returncode:
        pytest.skip(f"{python} is no environment of open-instruct; set OPEN_INSTRUCT_PYTHON")
    rows = [paper.row(run) for run in RUNS]
    done = subprocess.run(
        [python, "-c", PARSE],
        input="\n".join(json.dumps(script_arguments(row, places_of(row))) for row in rows),
        cwd=checkout,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("PARSED ")]
    for row, line in zip(rows, lines, strict=True):
        parsed = json.loads(line.removeprefix("PARSED "))
        assert parsed["learning_rate"] == row.recipe.lr == 5e-7
        assert parsed["gradient_accumulation_steps"] == row.recipe.accumulate
        assert (parsed["dpo_loss_type"], parsed["dpo_beta"]) == ("dpo_norm", 5.0)
        assert parsed["dataset_mixer_list"] == [str(places_of(row).data), "1.0"]
        assert (parsed["seed"], parsed["max_seq_length"]) == (row.seed, 2048)
        assert (parsed["use_flash_attn"], parsed["gradient_checkpointing"]) == (True, True)
        assert (parsed["chat_template_name"], parsed["weight_decay"]) == ("tulu", 0.0)
        off = ("push_to_hub", "try_launch_beaker_eval_jobs", "try_auto_save_to_beaker")
        assert [parsed[key] for key in (*off, "with_tracking")] == [False] * 4


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="no accelerate here")
def test_accelerate_s_own_parser_understands_the_command(paper):
    from accelerate.commands.launch import launch_command_parser

    row = paper.row("dpo_sub")
    words = command(row, places_of(row))
    node = Node(count=2, rank=1, address="10.0.0.1", port=20007)
    told = command_on(node, "accelerate", 4, words[words.index("--") + 1 :])
    options = launch_command_parser().parse_args(told[3:])
    assert (options.use_deepspeed, options.num_processes, options.module) == (True, 8, True)
    assert (options.num_machines, options.machine_rank) == (2, 1)
    assert (options.main_process_ip, options.main_process_port) == ("10.0.0.1", 20007)
    assert options.training_script == "rlsubnet.backends.open_instruct.launcher"
    assert options.training_script_args[:2] == ["--mask", "/project/paper/masks/dpo.safetensors"]
