"""The command lines of the paper's rows, read by verl's own configuration: no Ray, no model."""

from pathlib import Path
from typing import Any

import pytest

from rlsubnet.tasks.published import GRADERS, graded_prompts, last_boxed
from tests.backends import verl_runs

pytestmark = verl_runs.NEEDS_VERL


def composed(name: str) -> Any:
    import verl
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from verl.utils.config import validate_config

    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        # Settings of Hydra itself are for its own command line.
        lines = [line for line in verl_runs.overrides_of(name) if not line.startswith("hydra.")]
        config = compose("ppo_trainer", overrides=lines)
    OmegaConf.resolve(config)
    uses_kl = config.actor_rollout_ref.actor.use_kl_loss
    validate_config(config, use_reference_policy=uses_kl, use_critic=False)
    return config


@pytest.mark.parametrize("name", verl_runs.ROWS)
def test_verl_takes_every_row_of_the_paper(name):
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(name)
    recipe = verl_runs.paper_row(name).recipe
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert actor.optim.lr == recipe.lr
    assert actor.optim.weight_decay == 0
    assert actor.use_kl_loss == (recipe.kl_coef > 0)
    assert actor.grad_clip == (1e9 if recipe.clip is None else recipe.clip)
    assert actor.ppo_mini_batch_size * recipe.updates == recipe.batch_size
    assert (rollout.mode, rollout.n) == ("sync", recipe.samples)
    assert config.trainer.n_gpus_per_node == recipe.processes
    assert (config.actor_rollout_ref.subnetwork.mask is None) == (name != "prime_sub")


def test_the_reward_model_has_settings_of_its_own_and_the_policy_keeps_its():
    from verl.utils.config import omega_conf_to_dataclass

    from rlsubnet.backends.verl.trainer.workers import reward_engine

    config = composed("prime_sub")
    engine = reward_engine(config)
    assert engine.actor.grad_clip == 10.0
    assert engine.actor.optim.lr == 1e-6
    assert engine.actor.optim.weight_decay == 0.0
    assert list(engine.actor.optim.betas) == [0.9, 0.999]
    assert engine.actor.ppo_mini_batch_size * engine.rollout.n == 64, "responses, not prompts"
    assert engine.reward_beta == 0.05
    omega_conf_to_dataclass(engine.actor)  # verl builds its workers from this
    assert config.actor_rollout_ref.actor.grad_clip == 1.0
    assert config.actor_rollout_ref.actor.optim.lr == 5e-7
    assert config.actor_rollout_ref.rollout.n == 4


# What verl's graders make of the data.


def score(record: dict[str, Any], response: str) -> float:
    from verl.utils.reward_score import default_compute_score

    truth = record["reward_model"]["ground_truth"]
    return float(default_compute_score(record["data_source"], response, truth))


def test_verl_accepts_the_worked_answer_of_every_gsm8k_problem(shared):
    from rlsubnet.files import read_jsonl

    path = shared / "data" / "gsm8k" / "train.jsonl"
    rows = read_jsonl(path)
    records = list(graded_prompts(((path.name, row) for row in rows), "gsm8k", "train"))
    assert len(records) == 7473
    for record, row in zip(records, rows, strict=True):
        assert score(record, row["answer"]) == 1.0
        assert score(record, "#### 123456789") == 0.0


def test_verl_accepts_the_worked_answer_of_a_math_problem_and_no_other():
    from verl.utils.reward_score.math_reward import last_boxed_only_string, remove_boxed

    solutions = [
        r"Then $x=\boxed{\frac{1}{2}}$.",
        r"so $\boxed{3}$ is too small, hence $\boxed{(-\infty, 2\sqrt{3}]}$.",
        r"There are $\boxed 5$ of them.",
    ]
    rows = [{"problem": "?", "level": "Level 3", "solution": text} for text in solutions]
    places = ((f"row {number}", row) for number, row in enumerate(rows))
    for record, text in zip(graded_prompts(places, "math", "train"), solutions, strict=True):
        assert record["extra_info"]["level"] == 3
        assert last_boxed(text) == remove_boxed(last_boxed_only_string(text))
        assert score(record, text) == 1.0
        assert score(record, r"It is $\boxed{17}$.") == 0.0


def test_prompts_survive_the_way_into_parquet_and_verls_own_data_set(tmp_path):
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from rlsubnet.backends.verl.command import write_parquet
    from rlsubnet.files import write_jsonl

    rows = [
        ("row 1", {"problem": "x?", "level": "Level 5", "solution": r"\boxed{2}"}),
        ("row 2", {"problem": "y?", "level": "Level ?", "solution": r"\boxed{3}"}),
    ]
    records = list(graded_prompts(rows, "math", "train"))
    write_jsonl(tmp_path / "prompts.jsonl", records)
    write_parquet(tmp_path / "prompts.jsonl", tmp_path / "prompts.parquet")
    verl_runs.save_model(tmp_path / "model")
    settings = OmegaConf.create(
        {"max_prompt_length": 128, "filter_overlong_prompts_workers": 1, "return_raw_chat": True}
    )
    found = RLHFDataset(
        [str(tmp_path / "prompts.parquet")],
        AutoTokenizer.from_pretrained(tmp_path / "model"),
        settings,
    )
    assert len(found) == 2
    for number, record in enumerate(records):
        item = found[number]
        assert item["reward_model"] == record["reward_model"]
        assert item["extra_info"] == record["extra_info"]
        assert item["data_source"] == GRADERS["math"][0]
        assert list(item["raw_prompt"]) == record["prompt"]


def test_prompts_that_are_too_few_once_long_ones_are_left_out_end_the_run_at_once():
    from rlsubnet.backends.verl.trainer.task import PrimeTrainer

    config = composed("prime")
    trainer = object.__new__(PrimeTrainer)  # before Ray, workers and models
    trainer.config, trainer.total_training_steps = config, config.trainer.total_training_steps
    # 14,591 of the 14,973 prompts: 56 whole batches of 256, in place of 58.
    trainer.train_dataset, trainer.train_dataloader = range(14_591), range(56)
    with pytest.raises(ValueError, match="14591 prompts of at most 1024 tokens are 840 steps in"):
        trainer.fit()
