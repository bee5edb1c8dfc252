"""The paper's rows for verl; and a tiny model, its prompts, and rows for two CPU processes."""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.backends.verl.command import Places, overrides
from rlsubnet.config import load_config, load_scale
from rlsubnet.config.model import Row
from rlsubnet.config.scale import Scale
from rlsubnet.files import write_jsonl

NEEDS_VERL = [
    pytest.mark.verl,
    pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: make test-verl"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
PRIME = ("prime", "prime_sub", "prime_steps")
ROWS = (*PRIME, "grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip")
PLACES = Places(Path("/w/models/start"), Path("/w/runs/run/verl"))
PROCESSES = 2
RAY_FILES = Path(__file__).parent / "verl_cpu"
CHARACTERS = "0123456789+-*=? #.abcdefghijklmnopqrstuvwxyz:\nABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What replaces vLLM, flash-attention, compilation and GPUs; see verl_cpu/.
ON_CPU = (
    "actor_rollout_ref.model.external_lib=verl_rollout",
    "+actor_rollout_ref.model.override_config.attn_implementation=eager",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.ref.use_torch_compile=False",
    "actor_rollout_ref.rollout.name=hf_cpu",
    "actor_rollout_ref.rollout.load_format=auto",
    "actor_rollout_ref.rollout.top_k=0",
    "data.dataloader_num_workers=0",
    f"custom_reward_function.path={RAY_FILES / 'verl_shim.py'}",
    "custom_reward_function.name=even_digit",
    f"+ray_kwargs.ray_init.num_gpus={PROCESSES}",
    "+ray_kwargs.ray_init.include_dashboard=False",
    "+ray_kwargs.ray_init.runtime_env.worker_process_setup_hook=verl_shim.prepare",
)


@cache
def paper() -> Scale:
    config = load_config([REPOSITORY / "config" / "paper" / "config.yaml"])
    return load_scale(config, REPOSITORY)


def paper_row(name: str) -> Row:
    return paper().row(name)


def overrides_of(name: str) -> list[str]:
    given = paper_row(name)
    mask = Path(f"/w/masks/{given.mask}.safetensors") if given.mask else None
    return overrides(given, PLACES._replace(mask=mask), threads=64)


def own_row(run: str, algorithm: str, recipe: dict[str, Any], mask: str = "") -> dict[str, Any]:
    return {
        **{"run": run, "backend": "verl", "algorithm": algorithm, "init": "start"},
        **{"data": "math", "recipe": recipe, "seed": 42, "mask": mask},
    }


def save_model(folder: Path) -> None:
    """Write a Qwen2 model of 23,584 weights, with a tokenizer of characters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {text: number for number, text in enumerate([*special, *CHARACTERS])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    ).bfloat16()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    model.save_pretrained(folder)


def save_prompts(path: Path, count: int = 64) -> None:
    numbers = random.Random(0)

    def record(index: int) -> dict[str, Any]:
        a, b = numbers.randint(0, 9), numbers.randint(0, 9)
        return {
            "data_source": "toy",
            "prompt": [{"role": "user", "content": f"{a}+{b}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(a + b)},
            "extra_info": {"split": "train", "index": index, "level": None},
        }

    write_jsonl(path, map(record, range(count)))


def row(run: str, algorithm: str, mask: str = "", **recipe: Any) -> dict[str, Any]:
    extra = recipe.pop("overrides", [])
    values = {
        "processes": PROCESSES,
        "per_process": 8,
        "scored_per_process": 8,
        "offload": False,
        "remove_padding": False,
        "gradient_checkpointing": False,
        "epochs": 4,
        "steps": 4,
        "batch_size": 8,
        "samples": 4,
        "lr": 5e-5,
        "max_prompt_tokens": 8,
        "max_new_tokens": 8,
        **({"oversample": 2, "reward_batch": 16} if algorithm == "prime" else {}),
        "overrides": [*ON_CPU, *extra],
        **recipe,
    }
    return own_row(run, algorithm, values, mask)


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(RAY_FILES), os.environ.get("PYTHONPATH"))))
    ray = {"RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0"}  # workers wait for all else at 15
    return {**os.environ, **ray, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start_rlsubnet(log: Path, *words: object) -> "subprocess.Popen[bytes]":
    """Start a subcommand in a session of its own; what it prints is added to a file."""
    with log.open("a") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "rlsubnet.cli", *map(str, words)],
            env=environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def rlsubnet(log: Path, *words: object) -> None:
    assert start_rlsubnet(log, *words).wait() == 0, log.read_text()[-6000:]


def kill_all(process: "subprocess.Popen[bytes]", workers: bool) -> None:
    """Kill a process of :func:`start_rlsubnet` and its trainer, all at once.

    Ray's workers end with the trainer, and write on for a moment; ``workers`` kills them, too, as
    Slurm does at the end of a job.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    leaders = {process.pid, *map(int, children)}
    of = os.getsid if workers else os.getpgid
    for number in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        with suppress(ProcessLookupError):
            if of(number) in leaders:
                os.kill(number, signal.SIGKILL)
    process.wait()
