"""Arguments and environment of olmes: golden, and what they protect from."""

import json
from pathlib import Path

import pytest

from rlsubnet.backends.olmes.run import (
    olmes_arguments,
    olmes_environment,
    prefetch_arguments,
    visible_devices,
)
from rlsubnet.backends.olmes.suites import Settings

MODEL, OUT, CACHE = Path("/work/runs/dpo/final"), Path("/work/olmes/dpo"), Path("/work/cache")


def test_the_command_line_of_table_3a():
    words = olmes_arguments(MODEL, Settings(suites=("table3a",)), OUT, gpus=1)
    told = words.pop(words.index("--model-args") + 1)
    assert words == [
        "olmes",
        "--model",
        "rlsubnet",
        "--model-type",
        "vllm",
        "--model-args",
        "--task",
        "agi_eval_lsat-ar:0shot_cot::tulu3",
        "agi_eval_lsat-lr:0shot_cot::tulu3",
        "agi_eval_logiqa-en:0shot_cot::tulu3",
        "gpqa:0shot_cot::tulu3",
        "mmlu_pro_math:0shot_cot::tulu3",
        "--gpus",
        "1",
        "--num-workers",
        "1",
        "--batch-size",
        "10000",
        "--output-dir",
        "/work/olmes/dpo",
    ]
    assert json.loads(told) == {
        "dtype": "bfloat16",
        "max_length": 4096,
        "model_path": "/work/runs/dpo/final",
    }


def test_a_trial_without_a_gpu():
    settings = Settings(suites=("aime2024",), chat_template="tulu", max_length=2048, limit=20)
    words = olmes_arguments(MODEL, settings, OUT, gpus=0, model_type="hf")
    assert words[words.index("--limit") + 1] == "20"
    assert words[words.index("--model-type") + 1] == "hf"
    assert words[words.index("--batch-size") + 1] == "8"
    told = json.loads(words[words.index("--model-args") + 1])
    assert (told["chat_template"], told["max_length"]) == ("tulu", 2048)


def test_prefetching_names_the_same_tasks_and_no_model():
    settings = Settings(suites=("table3a", "math500"), limit=20)
    words = prefetch_arguments(settings, OUT)
    assert words == ["olmes", "--task", *(t.argument for t in settings.tasks), *words[-2:]]
    assert words[-2:] == ["--output-dir", "/work/olmes/dpo"]


def test_the_environment_of_a_job_without_network():
    base = {"PATH": "/usr/bin", "HF_TOKEN": "secret", "HF_HUB_CACHE": "/home/hub"}
    assert olmes_environment(base, CACHE, None, gpus=1, offline=True) == {
        "PATH": "/usr/bin",
        "HF_TOKEN": "secret",
        "HF_HOME": "/work/cache/huggingface",
        "TIKTOKEN_CACHE_DIR": "/work/cache/tiktoken",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "CUDA_VISIBLE_DEVICES": "0",
    }


def test_prefetching_has_the_network_and_no_devices():
    variables = olmes_environment({"PATH": "/usr/bin"}, CACHE, None, offline=False)
    absent = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "CUDA_VISIBLE_DEVICES"}
    assert not absent & set(variables)


def test_the_named_environment_s_python_comes_first_and_ours_is_not_seen():
    base = {"PATH": "/usr/bin", "PYTHONPATH": "/here", "VIRTUAL_ENV": "/venv"}
    variables = olmes_environment(base, CACHE, Path("/opt/olmes"), offline=True)
    assert variables["PATH"] == "/opt/olmes/bin:/usr/bin"
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(variables)


@pytest.mark.parametrize(
    ("given", "gpus", "message"),
    [
        ("0,1,2,3", 1, "expected 1 devices, found 4; olmes would use all of them"),
        ("3", 1, "olmes would move to device 0"),
        ("2", 2, "expected 2 devices, found 1"),
    ],
)
def test_devices_that_it_would_not_use_are_refused(given, gpus, message):
    with pytest.raises(ValueError, match=message):
        visible_devices(given, gpus)
