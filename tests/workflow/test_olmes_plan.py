"""What Snakemake plans where olmes evaluates: one prefetch, then every run."""

import shlex

import pytest

from rlsubnet.config import SheetError, item_files

EVALUATION = "evaluation: {suites: [arith, mc], samples: 2, step_suites: [arith], step_samples: 2}"
OLMES = """evaluation:
  backend: olmes
  suites: [table3a, math500]
  step_suites: [math500, aime2024]
  olmes: {environment: /opt/olmes, max_length: 2048}
resources: {evaluate: {gpus: 2}}"""


@pytest.fixture
def olmes(micro):
    micro.replace("config.yaml", EVALUATION, OLMES)
    return micro


@pytest.fixture
def olmes_project(project):
    project.sheets.replace("config.yaml", EVALUATION, OLMES)
    return project


def test_every_run_is_evaluated_by_olmes_after_one_prefetch(olmes_project):
    plan = olmes_project.plan()
    assert plan["evaluate_olmes"] == {"base", "sft", "dpo", "dpo_sub", "dpo_seed123"}
    assert plan["evaluate_steps_olmes"] == {"dpo_seed123"}
    assert plan["prefetch_olmes"] == {""}
    assert not {"evaluate", "evaluate_steps"} & set(plan)


def test_the_command_carries_settings_gpus_and_folders(olmes_project):
    output = olmes_project.snakemake("--dry-run", "results/micro/scores/dpo.csv").stdout
    line = next(line for line in output.splitlines() if "rlsubnet evaluate_olmes " in line)
    words = shlex.split(line.removeprefix("Shell command: "))
    assert words[2] == "work/micro/runs/dpo/final"
    assert words[words.index("--config") + 1] == "config/micro/config.yaml"
    assert words[words.index("--gpus") + 1] == "2"
    assert words[words.index("--raw") + 1] == "work/micro/olmes/runs/dpo"


def test_a_released_checkpoint_is_evaluated_where_a_gain_over_it_is_printed(olmes):
    def change(text):
        return text.replace("models:\n", "models:\n  released: {source: /models/released}\n", 1)

    olmes.edit("config.yaml", change)
    olmes.set_cell("pairs.tsv", "base_sft", "init", "released")
    olmes.set_cell("pairs.tsv", "base_sft", "items", "table1,gains")
    scale = olmes.load()
    assert "results/micro/scores/released.csv" in item_files(scale, "gains")
    assert "results/micro/scores/released.csv" not in item_files(scale, "table1")


def test_a_released_checkpoint_s_scores_have_a_rule(olmes_project):
    def change(text):
        return text.replace("models:\n", "models:\n  released: {source: /models/released}\n", 1)

    olmes_project.sheets.edit("config.yaml", change)
    plan = olmes_project.plan("results/micro/scores/released.csv")
    assert plan["evaluate_olmes"] == plan["download"] == {"released"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table3a, math500]", "table3b]", "evaluation.suites: unknown suite of olmes 'table3b'"),
        ("[math500, aime2024]", "[table3a]", "'table3a' is of kind choices, expected problems"),
        ("gpus: 2", "gpus: 0", "backend: olmes needs resources.evaluate.gpus, at least 1"),
        ("max_length: 2048", "limit: 1", "evaluation.olmes.limit: 1 is less than the minimum of 2"),
        ("max_length: 2048", "gpus: 8", "unknown key 'gpus'"),
        ("backend: olmes", "backend: olmo", "unknown value 'olmo' .did you mean 'olmes'"),
        ("max_length: 2048", "commit: main", "expected a commit of 40 hexadecimal digits"),
    ],
)
def test_a_mistake_in_the_block_is_named(olmes, old, new, message):
    olmes.replace("config.yaml", old, new)
    with pytest.raises(SheetError, match=message):
        olmes.load()
