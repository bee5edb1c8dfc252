"""The worker that draws responses and trains the policy: verl's, with a mask and more metrics."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.optim import Optimizer
from verl import DataProto
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.utils.device import get_torch_device
from verl.workers.fsdp_workers import ActorRolloutRefWorker

from rlsubnet.backends.clipping import clip_factor
from rlsubnet.backends.processes import stay_in
from rlsubnet.backends.verl.trainer.step_log import log_path
from rlsubnet.training.engines.attach import attach_engine_mask
from rlsubnet.training.masking import GradientMask, local_part

# verl starts the generator of rank r at r + 1000, whatever the run's seed.
VERL_SEED = 1000
# Seeds of runs are far apart: the ranks of two runs share none.
SEED_STRIDE = 1_000_003


class NormInside:
    """Norm of the gradient inside the mask, in every update; a second hook behind the mask's."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.norms: list[float] = []
        optimizer.register_step_pre_hook(self._before_update)

    @torch.no_grad()
    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        gradients = [
            local_part(parameter.grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        square = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum()
        torch.distributed.all_reduce(square)
        self.norms.append(square.sqrt().item())


class PolicyWorker(ActorRolloutRefWorker):
    """verl's actor with the settings below ``actor_rollout_ref.subnetwork``: ``mask``, ``seed``."""

    gradient_mask: GradientMask | None = None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build the model, then mask the optimizer's gradients if the run has a mask."""
        stay_in(log_path().parent)
        super().init_model()
        mask: str | None = self.config.subnetwork.mask
        if mask is None:
            return
        self.gradient_mask = attach_engine_mask(
            self.actor_optimizer, self.actor_module_fsdp, Path(mask)
        )
        self.norm_inside = NormInside(self.actor_optimizer)

    def _build_rollout(self, trust_remote_code: bool = False) -> None:
        super()._build_rollout(trust_remote_code)
        rollout, device = self.config.rollout, get_torch_device()
        group = rollout.tensor_model_parallel_size * rollout.pipeline_model_parallel_size
        before = device.get_rng_state()
        device.manual_seed(
            self.config.subnetwork.seed * SEED_STRIDE + VERL_SEED + self.rank // group
        )
        self.gen_random_states = device.get_rng_state()
        device.set_rng_state(before)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_only(self, contents: Sequence[str]) -> None:
        """Say what the next save holds, in verl's names: ``model``, ``optimizer``, ``extra``."""
        self.checkpoint_manager.checkpoint_save_contents = list(contents)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(
        self,
        local_path: str,
        hdfs_path: str | None = None,
        global_step: int = 0,
        max_ckpt_to_keep: int | None = None,
    ) -> None:
        """Save, with verl's generators also the one that responses are drawn with."""
        super().save_checkpoint(local_path, hdfs_path, global_step, max_ckpt_to_keep)
        if self.checkpoint_manager.should_save_extra:
            torch.save(self.gen_random_states, self._rollout_generator(local_path))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_checkpoint(
        self,
        local_path: str | None,
        hdfs_path: str | None = None,
        del_local_after_load: bool = False,
    ) -> None:
        """Go on from a save; the mask's hook is on the optimizer already and stays there."""
        super().load_checkpoint(local_path, hdfs_path, del_local_after_load)
        if local_path is not None:
            self.gen_random_states = torch.load(self._rollout_generator(local_path))

    def _rollout_generator(self, folder: str) -> Path:
        return Path(folder) / f"rollout_world_size_{self.world_size}_rank_{self.rank}.pt"

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_actor(self, data: DataProto) -> DataProto:
        """Update the policy and add metrics whose scale is that of the loss itself.

        Raises:
            ValueError: an update was made without the mask.
        """
        before = 0 if self.gradient_mask is None else self.gradient_mask.updates
        output = super().update_actor(data)
        metrics = output.meta_info["metrics"]
        norms = metrics["actor/grad_norm"]
        for ours, theirs in (("surrogate", "actor/pg_loss"), ("kl", "actor/kl_loss")):
            if theirs in metrics:
                # One entry for each micro-batch, each divided by their number.
                metrics[f"rlsubnet/{ours}"] = sum(metrics[theirs]) / len(norms)
        if self.gradient_mask is not None:
            # verl leaves out an update whose norm is not finite.
            taken = [norm for norm in norms if math.isfinite(norm)]
            self.gradient_mask.check_updates(before + len(taken))
            clip = self.config.actor.grad_clip
            clipped, self.norm_inside.norms = self.norm_inside.norms, []
            if taken:
                # The hook sees the gradient after clipping; the metrics want it before.
                metrics["rlsubnet/grad_norm_masked"] = sum(
                    inside / clip_factor(whole, clip)
                    for inside, whole in zip(clipped, taken, strict=True)
                ) / len(taken)
        return output
