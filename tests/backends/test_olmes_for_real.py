"""The real olmes, on a CPU, where OLMES_ENVIRONMENT names the environment it is installed in.

Make it with envs/olmes.post-deploy.sh. OLMES_CACHE may name a folder that holds ``tiktoken``, for
machines without internet; AGIEval's questions come with the checkout.
"""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from rlsubnet.cli import main
from rlsubnet.suites import OLMES_SUITES, OlmesSuite, OlmesTask
from tests.backends.small_llama import write_model
from tests.sheets_of_row import write_config

# Two levels of invented problems, in the form of MATH-500's test file.
PROBLEMS = [
    {"problem": f"What is {n} + {n}?", "solution": rf"It is \boxed{{{2 * n}}}.", "level": 1 + n % 2}
    for n in range(6)
]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
GRADE = r"""
import json
from oe_eval.tasks.oe_eval_tasks import TASK_REGISTRY
task = TASK_REGISTRY["minerva_math_500"](task_name="minerva_math_500", task_config={})
grades = [
    task.process_results({"answer": "\\frac{3}{4}"}, [text])
    for text in (
        "So it is $\\boxed{\\frac{3}{4}}$.",
        "Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.",
        "So it is $\\boxed{3}$.",
    )
]
print(json.dumps([[g["exact_match"], g["exact_match_flex"]] for g in grades]))
"""


@pytest.fixture(scope="module")
def environment() -> Path:
    folder = os.environ.get("OLMES_ENVIRONMENT")
    if not folder:
        pytest.skip("OLMES_ENVIRONMENT names no environment with olmes")
    return Path(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("OLMES_CACHE")
    return Path(named) if named else tmp_path_factory.mktemp("cache")


def python(environment: Path, cache: Path, code: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"TIKTOKEN_CACHE_DIR": str(cache / "tiktoken")}
    command = [str(environment / "bin" / "python"), "-c", code]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_boxed_answer_is_right_by_exact_match_flex_alone(environment, cache):
    grades = json.loads(python(environment, cache, GRADE).splitlines()[-1])
    assert grades == [[0, 1], [1, 1], [0, 0]]


@pytest.mark.slow
def test_a_real_evaluation_from_requests_to_scores(environment, cache, tmp_path, monkeypatch):
    model, data = tmp_path / "model", tmp_path / "math"
    write_model(model)
    for name, key, value in (
        ("config.json", "max_position_embeddings", 4096),
        ("tokenizer_config.json", "chat_template", TEMPLATE),
    ):
        content = json.loads((model / name).read_text()) | {key: value}
        (model / name).write_text(json.dumps(content))
    data.mkdir()
    (data / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in PROBLEMS))
    (math,) = OLMES_SUITES["math500"].tasks
    few = {"generation_kwargs": {"max_gen_toks": 4}}
    short = {**few, "chat_overrides": few}
    own = {**math.overrides, **short, "dataset_path": str(data)}
    tasks = (
        OlmesTask("real_math", math.olmes, 6, 0, math.metric, {"1": 3, "2": 3}, overrides=own),
        OlmesTask("real_lsat_ar", OLMES_SUITES["table3a"].tasks[0].olmes, 230, overrides=short),
    )
    monkeypatch.setitem(OLMES_SUITES, "real", OlmesSuite(tasks))  # type: ignore[arg-type]

    def shared(**how: int) -> list[str]:
        block = {"backend": "olmes", "suites": ["real"]}
        block["olmes"] = {"environment": str(environment), **how}
        config = write_config(tmp_path, evaluation=block, resources={"evaluate": {"gpus": 1}})
        return ["--cache", str(cache), "--config", config]

    words = ["prefetch_olmes", *shared(), "--out", str(tmp_path / "p.json")]
    assert main(words) == 0
    fetched = json.loads((tmp_path / "p.json").read_text())["tasks"]
    assert {name: task["items"] for name, task in fetched.items()} == {
        "real_math": 6,
        "real_lsat_ar": 230,
    }

    # With the limit, AGIEval's questions are drawn with olmes's fixed seed.
    outputs = ["--scores", str(tmp_path / "s.csv"), "--answers", str(tmp_path / "a.csv.gz")]
    words = ["evaluate_olmes", str(model), *shared(limit=6), *outputs]
    assert main([*words, "--raw", str(tmp_path / "raw"), "--model-type", "hf"]) == 0
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["task"], row["level"], row["n"]) for row in rows] == [
        ("real_math", "1", "3"),
        ("real_math", "2", "3"),
        ("real_math", "all", "6"),
        ("real_lsat_ar", "all", "6"),
    ]
