"""A row of the sheet of runs as Hydra overrides of verl's ``ppo_trainer`` configuration."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsubnet.backends.launch import launched
from rlsubnet.backends.processes import PACKAGE, run_checked
from rlsubnet.backends.verl import VERSION
from rlsubnet.files import iterate_jsonl, read_jsonl, replacing
from rlsubnet.machine import describe_environment

if TYPE_CHECKING:
    from rlsubnet.config.model import Row, VerlRecipe

# verl refuses null: a bound that no gradient reaches clips nothing.
NO_CLIP = 1.0e9


class Places(NamedTuple):
    """Where one run finds and leaves its files; absolute paths, Ray's workers run elsewhere."""

    init: Path  # Hugging Face folder to start from
    scratch: Path  # of this run alone: what it needs to go on lies here; removed at the end
    mask: Path | None = None
    nodes: int = 1  # machines that train together, all of which see the same files
    resumed: Path | None = None  # folder of the save to go on from

    @property
    def package(self) -> Path:
        return self.scratch / PACKAGE

    @property
    def prompts(self) -> Path:
        return self.scratch / "prompts.parquet"

    @property
    def saves(self) -> Path:
        return self.scratch / "saves"

    @property
    def log(self) -> Path:
        return self.scratch / "steps.jsonl"

    @property
    def steps(self) -> Path:
        return self.scratch / "steps"


def hydra_value(value: Any) -> str:
    """Return a value as Hydra's grammar wants it.

    >>> [hydra_value(value) for value in (True, None, 5e-07, 1.0, "fsdp", [0.9, "a"])]
    ['True', 'null', '5e-07', '1.0', 'fsdp', '[0.9,a]']
    >>> hydra_value("runs/prime (2)/model")
    "'runs/prime (2)/model'"
    """
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    text = str(value)
    if text and all(letter.isalnum() or letter in "_./-" for letter in text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _policy(recipe: "VerlRecipe", init: Path, mask: Path | None, seed: int) -> dict[str, Any]:
    """Return what the policy's workers are told, below ``actor_rollout_ref``."""
    values: dict[str, Any] = {
        "model.path": init,
        "model.use_remove_padding": recipe.remove_padding,
        "model.enable_gradient_checkpointing": recipe.gradient_checkpointing,
        "actor.strategy": recipe.strategy,
        "actor.fsdp_config.use_orig_params": True,
        "actor.fsdp_config.param_offload": recipe.offload,
        "actor.fsdp_config.optimizer_offload": recipe.offload,
        "actor.optim.lr": recipe.lr,
        "actor.optim.weight_decay": recipe.weight_decay,
        "actor.grad_clip": NO_CLIP if recipe.clip is None else recipe.clip,
        "actor.entropy_coeff": recipe.entropy_coef,
        "actor.clip_ratio": recipe.clip_ratio,
        "actor.clip_ratio_low": recipe.clip_ratio,
        "actor.clip_ratio_high": recipe.clip_ratio,
        "actor.loss_agg_mode": "token-mean",
        "actor.ppo_mini_batch_size": recipe.batch_size // recipe.updates,
        "actor.ppo_micro_batch_size_per_gpu": recipe.per_process,
        # The divergence is a term of the loss or nothing; never a part of the reward.
        "actor.use_kl_loss": recipe.kl_coef > 0,
        "actor.kl_loss_coef": recipe.kl_coef,
        "actor.kl_loss_type": "low_var_kl",
        # What is loaded; a save holds this or the weights alone, 12 bytes a weight or 4.
        "actor.checkpoint.save_contents": ["model", "optimizer", "extra"],
        "ref.log_prob_micro_batch_size_per_gpu": recipe.scored_per_process,
        "ref.fsdp_config.param_offload": recipe.offload,
        "rollout.name": "vllm",
        "rollout.mode": "sync",
        "rollout.n": recipe.samples,
        "rollout.temperature": recipe.temperature,
        "rollout.tensor_model_parallel_size": 1,
        "rollout.gpu_memory_utilization": 0.6,
        "rollout.log_prob_micro_batch_size_per_gpu": recipe.scored_per_process,
    }
    # New keys, this project's own; verl reads neither.
    own = {"subnetwork.mask": mask, "subnetwork.seed": seed}
    return {
        **{f"actor_rollout_ref.{key}": value for key, value in values.items()},
        **{f"+actor_rollout_ref.{key}": value for key, value in own.items()},
    }


def _prime(recipe: "VerlRecipe", init: Path) -> dict[str, Any]:
    """Return what only PRIME is told: the accuracy filter and the implicit reward model."""
    clip = NO_CLIP if recipe.reward_clip is None else recipe.reward_clip
    return {
        "+data.gen_batch_size": recipe.batch_size * recipe.oversample,
        "reward_model.enable": True,
        "reward_model.micro_batch_size_per_gpu": recipe.per_process,
        "+prime.accuracy_low": recipe.accuracy_low,
        "+prime.accuracy_high": recipe.accuracy_high,
        "+prime.reward.path": init,
        "+prime.reward.updated": recipe.reward_update,
        "+prime.reward.beta": recipe.reward_beta,
        "+prime.reward.lr": recipe.reward_lr,
        "+prime.reward.clip": clip,
        "+prime.reward.batch": recipe.reward_batch,
    }


def overrides(row: "Row[VerlRecipe]", places: Places, threads: int | None = None) -> list[str]:
    """Return the overrides that make verl train one row."""
    recipe, algorithm = row.recipe, row.algorithm
    wandb = row.wandb
    values: dict[str, Any] = {
        # For PRIME only a name: its trainer computes the advantages itself.
        "algorithm.adv_estimator": "rloo" if algorithm == "prime" else "grpo",
        "algorithm.use_kl_in_reward": False,
        "data.train_files": [places.prompts],
        # verl does not start without prompts to validate on; they are not used.
        "data.val_files": [places.prompts],
        "data.val_max_samples": 64,
        "data.train_batch_size": recipe.batch_size,
        "data.max_prompt_length": recipe.max_prompt_tokens,
        "data.max_response_length": recipe.max_new_tokens,
        "data.filter_overlong_prompts": True,
        "data.truncation": "error",
        "data.seed": row.seed,
        **_policy(recipe, places.init, places.mask, row.seed),
        **(_prime(recipe, places.init) if algorithm == "prime" else {}),
        "trainer.critic_warmup": 0,
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.resume_mode": "resume_path" if places.resumed else "disable",
        "trainer.resume_from_path": places.resumed,
        "trainer.logger": ["console", "file", *([] if wandb["mode"] == "disabled" else ["wandb"])],
        "trainer.project_name": wandb["project"],
        "trainer.experiment_name": row.run,
        "trainer.default_local_dir": places.saves,
        "trainer.n_gpus_per_node": recipe.processes // places.nodes,
        "trainer.nnodes": places.nodes,
        # verl asks after every step; this project's trainer saves when its own keys say so.
        "trainer.save_freq": 1,
        "+saves.resumable_every": recipe.save_every,
        "+saves.model_every": recipe.checkpoint_every,
        "trainer.total_epochs": recipe.epochs,
        "trainer.total_training_steps": recipe.steps,
        **_ray(places.nodes, threads),
        # Hydra's own files would land in the folder that the command is started from.
        "hydra.run.dir": places.scratch / "hydra",
        "hydra.output_subdir": None,
    }
    if algorithm == "prime":
        # Sorting by length would tear the groups of a prompt apart.
        values["trainer.balance_batch"] = False
    return [f"{key}={hydra_value(value)}" for key, value in values.items()] + [
        str(override) for override in recipe.overrides
    ]


def _ray(nodes: int, threads: int | None) -> dict[str, Any]:
    if nodes > 1:
        # That of the launcher, which says where by RAY_ADDRESS.
        return {"+ray_kwargs.ray_init.address": "auto"}
    # A cluster of one's own, whatever else runs on this machine.
    own = {"+ray_kwargs.ray_init.address": "local"}
    return own if threads is None else {**own, "ray_kwargs.ray_init.num_cpus": threads}


def command(
    row: "Row[VerlRecipe]", places: Places, python: str, threads: int | None = None
) -> list[str]:
    """Return the command line of one row."""
    each = row.recipe.processes // places.nodes
    module = f"rlsubnet.backends.verl.{row.algorithm}"
    words = ["-m", module, *overrides(row, places, threads)]
    return launched(places.nodes, "ray", each, python, words)


def check_prompts(records: Path, row: "Row[VerlRecipe]") -> None:
    """Check that prompts are enough: verl drops what is left of an epoch after whole batches."""
    count = sum(1 for _ in iterate_jsonl(records))
    recipe = row.recipe
    drawn = recipe.batch_size * (recipe.oversample if row.algorithm == "prime" else 1)
    steps, wanted = count // drawn * recipe.epochs, recipe.steps
    if steps < (wanted or 1):
        raise ValueError(
            f"{records}: {count} prompts, {drawn} of them a step, are {steps} steps in "
            f"{recipe.epochs} epochs; expected at least {wanted or 1}"
        )


def write_parquet(records: Path, out: Path) -> None:
    """Write JSON lines as Parquet; needs pyarrow, which verl's environment has."""
    import pyarrow
    from pyarrow import parquet

    with replacing(out) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(read_jsonl(records)), temporary)


PACKAGES = ("verl", "torch", "transformers", "vllm", "flash-attn", "ray", "tensordict", "numpy")


def read_report(python: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return device and versions of verl's environment, which must hold the release of this one."""
    said = run_checked([str(python), "-m", __name__], f"{python}: asking for versions", variables)
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    if (found := report["packages"]["verl"]) != VERSION:
        raise ValueError(f"{python}: expected verl {VERSION} (envs/verl.yaml), found {found}")
    return report


if __name__ == "__main__":
    # By verl's interpreter: with two files it writes prompts, with none it says its versions.
    if sys.argv[1:]:
        write_parquet(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        print(json.dumps(describe_environment(PACKAGES)))
