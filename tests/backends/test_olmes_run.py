"""The installed olmes: its checks, its command line and environment, and the models it can read."""

import json
import os
import sys
from pathlib import Path

import pytest

from rlsubnet.backends.olmes import (
    check_model,
    check_program,
    olmes_arguments,
    olmes_environment,
    remove_outputs,
    visible_devices,
)
from rlsubnet.backends.olmes_outputs import Settings
from tests.backends.programs import checkout, git, script
from tests.evaluation.tiny_models import save_folder, tiny_model


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    told = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
    files = {
        f"{name}-{version}.dist-info/METADATA": told.format(name, version)
        for name, version in (("transformers", "4.50.3"), ("vllm", "0.8.2"))
    }
    checkout(tmp_path / "checkout", {"oe_eval/__init__.py": "", **files})
    bin_folder = tmp_path / "bin"
    script(bin_folder / "olmes", "#!/bin/sh\n")
    script(bin_folder / "python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    return {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path / "checkout")}


def test_the_program_is_at_its_commit_and_unchanged(installed, tmp_path, monkeypatch):
    folder = Path(installed["PYTHONPATH"])
    head = git(folder, "rev-parse", "HEAD")
    found = check_program(installed, head)
    assert found["folder"] == str(folder / "oe_eval")
    assert (found["versions"]["vllm"], found["versions"]["transformers"]) == ("0.8.2", "4.50.3")
    with pytest.raises(ValueError, match=f"expected commit 4f04, found {head}; install olmes"):
        check_program(installed, "4f04")
    (folder / "oe_eval" / "__init__.py").write_text("changed = True\n")
    with pytest.raises(ValueError, match=r"files differ from commit .*oe_eval/__init__\.py"):
        check_program(installed, head)
    check_program(installed, None)
    (folder / ".git").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(ValueError, match="expected a git checkout at 4f04, install olmes from a"):
        check_program(installed, "4f04")


def test_a_missing_program_a_foreign_python_and_transformers_5_are_told_apart(installed):
    with pytest.raises(ValueError, match="olmes: no such program; install it"):
        check_program({"PATH": "/nowhere"}, None)
    with pytest.raises(ValueError, match="has no package oe_eval"):
        check_program({"PATH": installed["PATH"]}, None)
    metadata = Path(installed["PYTHONPATH"]) / "transformers-4.50.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("4.50.3", "5.2.0"))
    with pytest.raises(ValueError, match=r"transformers is 5\.2\.0, expected a version below 5"):
        check_program(installed, None)


def test_old_outputs_are_removed_and_nothing_else(tmp_path):
    raw = tmp_path / "raw"
    remove_outputs(raw)  # nothing there: nothing to do
    for name in ("metrics.json", "metrics-all.jsonl", "task-000-gpqa-predictions.jsonl"):
        script(raw / name, "{}")
    remove_outputs(raw)
    assert not raw.exists()
    script(raw / "metrics.json", "{}")
    script(raw / "thesis.tex", "")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, which olmes does not write"):
        remove_outputs(raw)
    assert len(list(raw.iterdir())) == 2


MODEL, OUT, CACHE = Path("/work/runs/dpo/final"), Path("/work/olmes/dpo"), Path("/work/cache")


def test_the_command_line_of_table_3a():
    words = olmes_arguments(MODEL, Settings(suites=("table3a",)), OUT, gpus=1)
    told = json.loads(words.pop(words.index("--model-args") + 1))
    assert " ".join(words) == (
        "olmes --model rlsubnet --model-type vllm --model-args --task "
        "agi_eval_lsat-ar:0shot_cot::tulu3 agi_eval_lsat-lr:0shot_cot::tulu3 "
        "agi_eval_logiqa-en:0shot_cot::tulu3 gpqa:0shot_cot::tulu3 mmlu_pro_math:0shot_cot::tulu3 "
        "--gpus 1 --num-workers 1 --batch-size 10000 --output-dir /work/olmes/dpo"
    )
    assert told == {"dtype": "bfloat16", "max_length": 4096, "model_path": "/work/runs/dpo/final"}
    # And of a trial without a GPU.
    settings = Settings(suites=("aime2024",), chat_template="tulu", max_length=2048, limit=20)
    words = olmes_arguments(MODEL, settings, OUT, gpus=0, model_type="hf")
    for flag, value in {"--limit": "20", "--model-type": "hf", "--batch-size": "8"}.items():
        assert words[words.index(flag) + 1] == value
    told = json.loads(words[words.index("--model-args") + 1])
    assert (told["chat_template"], told["max_length"]) == ("tulu", 2048)


def test_the_environment_of_a_job_has_no_network_and_that_of_prefetching_no_devices():
    base = {"PATH": "/usr/bin", "HF_TOKEN": "secret", "HF_HUB_CACHE": "/home/hub"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    always = {
        **{"PATH": "/usr/bin", "HF_TOKEN": "secret", "HF_HOME": "/work/cache/huggingface"},
        **{"TIKTOKEN_CACHE_DIR": "/work/cache/tiktoken", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"},
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert olmes_environment(base, CACHE, None, gpus=1, offline=True) == {**always, **offline}
    assert olmes_environment(base, CACHE, None, offline=False) == always
    # The Python of an environment that is named comes first, and ours is not seen.
    base = {"PATH": "/usr/bin", "PYTHONPATH": "/here", "VIRTUAL_ENV": "/venv"}
    variables = olmes_environment(base, CACHE, Path("/opt/olmes"), offline=True)
    assert variables["PATH"] == "/opt/olmes/bin:/usr/bin"
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(variables)


def test_devices_that_it_would_not_use_are_refused():
    with pytest.raises(ValueError, match="expected 1 devices, found 4; olmes would use all"):
        visible_devices("0,1,2,3", 1)
    with pytest.raises(ValueError, match="olmes would move to device 0"):
        visible_devices("3", 1)


SETTINGS = Settings(suites=("table3a",))
SCALING = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
# As Llama-3.1's config.json has them.
CONFIG = {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": SCALING}
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}


@pytest.fixture(scope="module")
def saved_by_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama of a few weights as transformers 5 saves it, with Llama 3.1's rotations."""
    folder = save_folder(tiny_model("llama"), tmp_path_factory.mktemp("olmes") / "saved")
    rope = {**SCALING, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500000.0}
    edit(folder / "config.json", rope_parameters=rope, max_position_embeddings=8192)
    return folder


@pytest.fixture
def folder(saved_by_5: Path, tmp_path: Path) -> Path:
    """Return its weights with config and tokenizer as transformers 4 saves them."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(saved_by_5 / name)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_what_transformers_5_saves_is_refused_with_all_faults_and_the_cure(saved_by_5):
    with pytest.raises(ValueError) as error:
        check_model(saved_by_5, SETTINGS)
    message = str(error.value)
    assert message.startswith(f"{saved_by_5}: olmes cannot evaluate this checkpoint: ")
    assert "rope_theta is 500000.0 in rope_parameters and None beside it" in message
    assert "rope_type llama3 stands in rope_parameters and there is no rope_scaling" in message
    assert "tokenizer_class TokenizersBackend is unknown to transformers 4" in message
    assert "copy config.json, generation_config.json and all tokenizer files" in message
    assert "no chat template" in message
    assert len(message.split("; ")) >= 4


def test_the_start_s_config_and_tokenizer_over_the_trained_weights_are_accepted(folder):
    for name in (None, "Qwen2Tokenizer", "LlamaTokenizerFast", "GPT2Tokenizer"):
        if name is not None:
            edit(folder / "tokenizer_config.json", tokenizer_class=name)
        check_model(folder, SETTINGS)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config", {"max_position_embeddings": 2048}, "embeddings is 2048, .* max_length 4096"),
        ("config", {"max_position_embeddings": None}, "embeddings is None"),
        ("tokenizer_config", {"chat_template": None}, "no chat template: .* evaluation.olmes.chat"),
        # transformers 4.50 ends with: 'list' object has no attribute 'keys'.
        ("tokenizer_config", {"extra_special_tokens": ["<tool>"]}, "special_tokens is a list"),
    ],
)
def test_a_model_that_does_not_fit_what_is_asked_is_refused(folder, file, changes, message):
    edit(folder / f"{file}.json", **changes)
    with pytest.raises(ValueError, match=message):
        check_model(folder, SETTINGS)


def test_what_olmes_is_told_or_finds_elsewhere_may_lack(folder):
    edit(folder / "config.json", max_position_embeddings=2048)
    edit(folder / "tokenizer_config.json", chat_template=None)
    check_model(folder, Settings(suites=("table3a",), max_length=2048, chat_template="tulu"))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    check_model(folder, Settings(suites=("table3a",), max_length=2048))


def test_theta_in_two_places_must_be_the_same(folder):
    edit(folder / "config.json", rope_theta=1e6, rope_parameters={"rope_theta": 1e6})
    check_model(folder, SETTINGS)
    edit(folder / "config.json", rope_theta=1e4)
    with pytest.raises(ValueError, match="rope_theta is 1000000.0 in .* 10000.0 beside it"):
        check_model(folder, SETTINGS)


def test_an_incomplete_folder_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer: none of tokenizer.json"):
        check_model(folder, SETTINGS)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="1 missing: model-00001-of-00002.safetensors"):
        check_model(folder, SETTINGS)
