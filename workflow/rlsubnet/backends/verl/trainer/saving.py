"""Saves that a run can go on from, for both of verl's loops."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler
from verl.trainer import main_ppo
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.utils import tracking

from rlsubnet.backends.processes import mark_saved, stay_in
from rlsubnet.backends.verl.saves import due, save_folder

# verl's names of what a save of a policy holds.
WEIGHTS = ("model",)
WHOLE = ("model", "optimizer", "extra")
REWARD = "reward"


class SavingTrainer(RayPPOTrainer):
    """verl's trainer with saves of two kinds, of which a marker says that they are whole.

    verl asks for a save after every step (``trainer.save_freq``). ``saves.resumable_every`` says
    when one is written that the run can go on from, with the reward model if there is one;
    ``saves.model_every`` when the policy's weights are wanted. After the last step they are all
    that is saved.
    """

    def _save_checkpoint(self) -> None:
        settings, step = self.config.saves, self.global_steps
        last = step >= self.total_training_steps
        resumable = due(step, settings.resumable_every) and not last
        if not (resumable or last or due(step, settings.model_every)):
            return
        folder = save_folder(Path(self.config.trainer.default_local_dir), step)
        self.actor_rollout_wg.save_only(WHOLE if resumable else WEIGHTS)
        if resumable and self.use_rm:
            self.rm_wg.save_checkpoint(str(folder / REWARD), global_step=step)
        super()._save_checkpoint()
        mark_saved(folder, {"resumable": resumable, "last": last})

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        resumed = self.config.trainer.resume_from_path
        if resumed is not None and self.use_rm:
            self.rm_wg.load_checkpoint(str(Path(resumed) / REWARD))


class ResumableOrder(RandomSampler):
    """torch's random order of the prompts, which a data loader can take up within any epoch.

    torch's own tells nothing of its generator: a resumed loader draws the first epoch's order
    again and skips in it.
    """

    def __init__(self, prompts: Any, generator: torch.Generator) -> None:
        super().__init__(prompts, generator=generator)
        self._began: Tensor = generator.get_state()
        self._drawn = self._skipped = 0

    def __iter__(self) -> Any:
        """Draw one epoch, from the place that was loaded."""
        skipped, self._skipped = self._skipped, 0
        self._began, self._drawn = self.generator.get_state(), 0
        for index in super().__iter__():
            self._drawn += 1
            if self._drawn > skipped:
                yield index

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch under way, and what its order was drawn from."""
        return {"began": self._began, "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._began, self._drawn = state["began"], state["drawn"]
        self.generator.set_state(self._began)
        self._skipped = self._drawn


def resumable_sampler(settings: Any, prompts: Any) -> Any:
    """Return verl's sampler of the prompts, one that can be resumed if it draws at random."""
    sampler = _verl_sampler(settings, prompts)
    if type(sampler) is RandomSampler:
        return ResumableOrder(prompts, sampler.generator)
    return sampler


_verl_sampler = main_ppo.create_rl_sampler


def log_path() -> Path:
    """Return the log's path, in any process of Ray; it lies in the run's own folder."""
    return Path(os.environ["VERL_FILE_LOGGER_PATH"])


class StepLog(tracking.FileLogger):
    """verl's logger ``file``, which fails at numbers in tensors and writes at the very end.

    Lines of a run that is resumed are added to those that are there.
    """

    def __init__(self, project_name: str, experiment_name: str) -> None:
        self._path = log_path()

    def log(self, data: Mapping[str, Any], step: int) -> None:
        line = {"step": step, "data": {name: float(value) for name, value in data.items()}}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Do nothing: no file is open between two steps."""


def prepare_driver() -> None:
    """Stay in the run's folder, and let verl's loops, which name their logger, take this one."""
    stay_in(log_path().parent)
    tracking.FileLogger = StepLog
