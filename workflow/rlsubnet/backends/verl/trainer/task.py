"""Ray's driver task: verl's, with this project's workers."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import ray
import verl
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.single_controller.ray import RayWorkerGroup
from verl.trainer.main_ppo import (
    TaskRunner,
    create_rl_dataset,
    run_ppo,
)
from verl.trainer.ppo.ray_trainer import Role
from verl.trainer.ppo.reward import load_reward_manager
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils import hf_tokenizer
from verl.utils.config import validate_config
from verl.utils.dataset.rl_dataset import collate_fn

from rlsubnet.backends.processes import stay_in
from rlsubnet.backends.verl import VERSION
from rlsubnet.backends.verl.trainer.prime_trainer import PrimeTrainer
from rlsubnet.backends.verl.trainer.saving import (
    log_path,
    resumable_sampler,
    use_saving_trainer,
    use_step_log,
)
from rlsubnet.backends.verl.trainer.workers import PolicyWorker, RewardWorker, reward_engine

CONFIG = Path(verl.__file__).parent / "trainer" / "config"


class GrpoTask(TaskRunner):
    """verl's own PPO task; only the policy's worker is another, and what saves."""

    def add_actor_rollout_worker(self, config: DictConfig) -> tuple[type, type]:
        """Set the policy's worker; the reference policy stays verl's own."""
        plain, group = super().add_actor_rollout_worker(config)
        self.role_worker_mapping[Role.ActorRollout] = ray.remote(PolicyWorker)
        return plain, group

    def run(self, config: DictConfig) -> None:
        """Train."""
        stay_in(log_path().parent)
        use_step_log()
        use_saving_trainer()
        super().run(config)


class PrimeTask(TaskRunner):
    """PRIME: a policy and an implicit reward model on the same processes."""

    trainer_class: type[PrimeTrainer] = PrimeTrainer

    def run(self, config: DictConfig) -> None:
        """Set up the trainer and train."""
        stay_in(log_path().parent)
        use_step_log()
        OmegaConf.resolve(config)
        print(OmegaConf.to_yaml(config))
        with open_dict(config):
            config.reward_model.engine = reward_engine(config)
        self.role_worker_mapping = {
            Role.ActorRollout: ray.remote(PolicyWorker),
            Role.RewardModel: ray.remote(RewardWorker),
        }
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(self.role_worker_mapping),
            use_critic=need_critic(config),
        )
        pool = self.init_resource_pool_mgr(config)
        pool.mapping[Role.RewardModel] = pool.mapping[Role.ActorRollout]
        tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
        train, validation = (
            create_rl_dataset(
                config.data[f"{name}_files"],
                config.data,
                tokenizer,
                None,
                is_train=name == "train",
                max_samples=config.data[f"{name}_max_samples"],
            )
            for name in ("train", "val")
        )
        trainer = self.trainer_class(
            config=config,
            tokenizer=tokenizer,
            role_worker_mapping=self.role_worker_mapping,
            resource_pool_manager=pool,
            ray_worker_group_cls=RayWorkerGroup,
            reward_fn=load_reward_manager(config, tokenizer, num_examine=0),
            train_dataset=train,
            val_dataset=validation,
            collate_fn=collate_fn,
            train_sampler=resumable_sampler(config.data, train),
        )
        trainer.init_workers()
        trainer.fit()


def check_version() -> None:
    """Raise ValueError unless verl is the release whose classes are extended here."""
    found = version("verl")
    if found != VERSION:
        raise ValueError(f"verl {found} is installed, expected {VERSION}")


def main(task: type[TaskRunner]) -> None:
    """Train what the command line says: Hydra overrides of verl's ``ppo_trainer``."""
    check_version()

    @hydra.main(config_path=str(CONFIG), config_name="ppo_trainer", version_base=None)
    def run(config: Any) -> None:
        run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(task))

    run()
