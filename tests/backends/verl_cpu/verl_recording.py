"""PRIME whose trainer writes down its first batch: what the policy learns from, and why."""

import os
from typing import Any

import torch
from verl import DataProto

from rlsubnet.backends.verl.trainer.task import PrimeTask, PrimeTrainer, main


class RecordingTrainer(PrimeTrainer):
    """Saves the batch of step 1 to $RECORDING."""

    def learn_policy(self, batch: DataProto) -> dict[str, Any]:
        if self.global_steps == 1:
            torch.save(dict(batch.batch), os.environ["RECORDING"])
        return super().learn_policy(batch)


class RecordingTask(PrimeTask):
    """PRIME with that trainer."""

    trainer_class = RecordingTrainer


if __name__ == "__main__":
    import verl_recording  # by name: Ray's workers import the task from its module

    main(verl_recording.RecordingTask)
