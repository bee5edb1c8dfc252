"""Ray's driver tasks, with this project's workers, and the loop of PRIME (Cui et al. 2025)."""

import uuid
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import ray
import verl
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from verl import DataProto
from verl.trainer import main_ppo
from verl.trainer.main_ppo import TaskRunner, run_ppo
from verl.trainer.ppo.ray_trainer import Role, compute_response_mask
from verl.trainer.ppo.reward import compute_reward
from verl.utils.metric import reduce_metrics
from verl.utils.profiler import marked_timer
from verl.utils.tracking import Tracking

from rlsubnet.backends.verl.trainer.saving import (
    SavingTrainer,
    prepare_driver,
    resumable_sampler,
)
from rlsubnet.backends.verl.trainer.workers import PolicyWorker, RewardWorker, reward_engine
from rlsubnet.objectives.policy_gradient import reference_kl
from rlsubnet.objectives.prime import preferred_rows, prime_advantages


class PrimeTrainer(SavingTrainer):
    """One PRIME step after the other; data, workers and checkpoints are handled as verl does.

    Differs from verl's own recipe: it runs as many updates as it was asked for (the recipe one
    less), sorts stably, scales the rewards of tokens by the maximum of the whole batch instead of
    one process's share, and grades with a reward manager that stops at an error instead of counting
    it as a wrong response.
    """

    def fit(self) -> None:
        """Train until the last step, from the first or from a save, and save on the way."""
        epochs = self.config.trainer.total_epochs
        steps = len(self.train_dataloader) * epochs
        if steps < self.total_training_steps:
            raise ValueError(
                f"{len(self.train_dataset)} prompts of at most {self.config.data.max_prompt_length}"
                f" tokens are {steps} steps in {epochs} epochs, expected at least "
                f"{self.total_training_steps}"
            )
        logger = Tracking(
            project_name=self.config.trainer.project_name,
            experiment_name=self.config.trainer.experiment_name,
            default_backend=self.config.trainer.logger,
            config=OmegaConf.to_container(self.config, resolve=True),
        )
        self.global_steps = 0
        self._load_checkpoint()  # without one to go on from this only offloads the policy
        # A resumed run needs fewer passes, and the first of them may be what is left of one.
        for _ in range(epochs):
            for prompts in self.train_dataloader:
                if self.global_steps == self.total_training_steps:
                    return
                self.global_steps += 1
                timing: dict[str, float] = {}
                with marked_timer("step", timing):
                    metrics = self.learn(DataProto.from_single_dict(prompts), timing)
                with marked_timer("save_checkpoint", timing):
                    self._save_checkpoint()
                seconds = {f"timing_s/{name}": value for name, value in timing.items()}
                logger.log(metrics | seconds, step=self.global_steps)

    def learn(self, prompts: DataProto, timing: dict[str, float]) -> dict[str, Any]:
        """Do one step and return what it measured."""
        settings = self.config.prime
        with marked_timer("gen", timing):
            drawn = self.respond(prompts)
        with marked_timer("reward", timing):
            scores, _ = compute_reward(drawn, self.reward_fn)
        outcomes, lengths = scores.sum(1), drawn.batch["response_mask"].sum(1)
        metrics: dict[str, Any] = {
            "prime/reward": outcomes.mean().item(),
            "prime/response_length": lengths.float().mean().item(),
        }
        drawn.batch["outcomes"] = outcomes
        rows = preferred_rows(
            outcomes,
            lengths,
            self.config.actor_rollout_ref.rollout.n,
            self.config.data.train_batch_size,
            (settings.accuracy_low, settings.accuracy_high),
            self.config.data.max_response_length,
        )
        batch = drawn.select_idxs(rows)
        batch.meta_info["global_token_num"] = batch.batch["attention_mask"].sum(1).tolist()
        metrics |= {
            "prime/reward_learned": batch.batch["outcomes"].mean().item(),
            "response_length/mean": batch.batch["response_mask"].sum(1).float().mean().item(),
        }
        mask = batch.batch["response_mask"].bool()
        with marked_timer("old_log_prob", timing):
            old = self.actor_rollout_wg.compute_log_prob(batch)
        entropies = old.batch.pop("entropys")
        metrics["actor/entropy"] = (entropies * mask).sum().item() / int(mask.sum())
        batch = batch.union(old)  # brings the temperature, too
        names = ("input_ids", "attention_mask", "position_ids", "responses", "response_mask")
        inputs = batch.select(
            batch_keys=[*names, "outcomes"], non_tensor_batch_keys=[], meta_info_keys=[]
        )
        with marked_timer("reward_model", timing):
            rewards = self.rm_wg.learn_and_score(inputs)
        metrics |= reduce_metrics(rewards.meta_info.pop("metrics"))
        reference: Tensor = rewards.batch["reference_logps"].float()
        batch.batch["advantages"] = prime_advantages(
            rewards.batch["reward_logps"].float(),
            reference,
            batch.batch["outcomes"],
            mask,
            self.config.actor_rollout_ref.rollout.n,
            settings.reward.beta,
        )
        # The reward model starts where the policy does: its frozen copy is the policy's reference.
        kl = reference_kl(old.batch["old_log_probs"].float(), reference, mask)
        metrics["rlsubnet/kl"] = kl.item() / int(mask.sum())
        with marked_timer("update_actor", timing):
            return metrics | self.learn_policy(batch.union(rewards))

    def learn_policy(self, batch: DataProto) -> dict[str, Any]:
        """Update the policy on a batch with ``advantages`` and return what it measured."""
        updated = self.actor_rollout_wg.update_actor(batch)
        return dict(reduce_metrics(updated.meta_info["metrics"]))

    def respond(self, prompts: DataProto) -> DataProto:
        """Return the policy's responses; those to one prompt stand side by side."""
        names = [str(uuid.uuid4()) for _ in range(len(prompts))]
        prompts.non_tensor_batch["uid"] = np.array(names, dtype=object)
        samples = self.config.actor_rollout_ref.rollout.n
        questions = self._get_gen_batch(prompts)
        questions.meta_info["global_steps"] = self.global_steps
        responses = self.actor_rollout_wg.generate_sequences(
            questions.repeat(repeat_times=samples, interleave=True)
        )
        responses.meta_info.pop("timing", None)
        drawn = prompts.repeat(repeat_times=samples, interleave=True).union(responses)
        drawn.batch["response_mask"] = compute_response_mask(drawn)
        return drawn


CONFIG = Path(verl.__file__).parent / "trainer" / "config"


class GrpoTask(TaskRunner):
    """verl's own PPO task; only the policy's worker is another, and the trainer."""

    trainer_class: type[SavingTrainer] = SavingTrainer

    def add_actor_rollout_worker(self, config: DictConfig) -> tuple[type, type]:
        """Set the policy's worker; the reference policy stays verl's own."""
        plain, group = super().add_actor_rollout_worker(config)
        self.role_worker_mapping[Role.ActorRollout] = ray.remote(PolicyWorker)
        return plain, group

    def run(self, config: DictConfig) -> None:
        prepare_driver()
        # verl's task names both itself.
        main_ppo.RayPPOTrainer = self.trainer_class
        main_ppo.create_rl_sampler = resumable_sampler
        super().run(config)


class PrimeTask(GrpoTask):
    """PRIME: a policy and an implicit reward model on the same processes."""

    trainer_class = PrimeTrainer

    def add_reward_model_worker(self, config: DictConfig) -> None:
        """Set the reward model's worker, where the policy's are, and its own configuration."""
        with open_dict(config):
            config.reward_model.engine = reward_engine(config)
        self.role_worker_mapping[Role.RewardModel] = ray.remote(RewardWorker)
        self.mapping[Role.RewardModel] = "global_pool"


def main(task: type[TaskRunner]) -> None:
    """Train what the command line says: Hydra overrides of verl's ``ppo_trainer``."""

    @hydra.main(config_path=str(CONFIG), config_name="ppo_trainer", version_base=None)
    def run(config: Any) -> None:
        run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(task))

    run()
