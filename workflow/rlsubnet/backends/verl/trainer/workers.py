"""The worker that draws responses and trains the policy: verl's, with a mask and more metrics."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.optim import Optimizer
from verl import DataProto
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_device_id, get_torch_device
from verl.utils.fsdp_utils import (
    fsdp_version,
    load_fsdp_model_to_gpu,
    load_fsdp_optimizer,
    offload_fsdp_model_to_cpu,
    offload_fsdp_optimizer,
)
from verl.workers.actor import DataParallelPPOActor
from verl.workers.fsdp_workers import ActorRolloutRefWorker

from rlsubnet.backends.processes import stay_in
from rlsubnet.backends.verl.trainer.saving import log_path
from rlsubnet.objectives.prime import outcome_loss
from rlsubnet.training.engines import attach_engine_mask
from rlsubnet.training.masking import GradientMask, clip_factor, local_part

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
        """Update the policy, never without its mask, and add metrics on the scale of the loss."""
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


def reward_engine(config: DictConfig) -> DictConfig:
    """Return the policy's configuration, changed to that of the reward model.

    Both are sharded, offloaded and computed in the same way. The reward model has its own start,
    AdamW at a constant rate without decay, its own clip, and it counts its batch in responses.
    """
    engine = OmegaConf.create(OmegaConf.to_container(config.actor_rollout_ref, resolve=True))
    with open_dict(engine):
        engine.model.path = config.prime.reward.path
        engine.rollout.n = 1
        engine.actor.ppo_mini_batch_size = config.prime.reward.batch
        engine.actor.grad_clip = config.prime.reward.clip
        engine.actor.optim.lr = config.prime.reward.lr
        engine.actor.optim.weight_decay = 0.0
        engine.actor.use_kl_loss = False
        engine.actor.entropy_coeff = 0
        engine.reward_beta = config.prime.reward.beta
        engine.reward_update = config.prime.reward.updated
    return engine


def float_logits(module: nn.Module, arguments: Any, output: Any) -> Any:
    """Make the logits float32, as a forward hook: differences of bfloat16 ones are mostly noise."""
    output.logits = output.logits.float()
    return output


def reshard(module: nn.Module) -> None:
    """Free the whole weights that FSDP1 keeps at its root after a pass without gradient."""
    if torch.distributed.get_world_size() > 1 and fsdp_version(module) == 1:
        module._handle.reshard(True)  # type: ignore[union-attr, operator]


class RewardModel(DataParallelPPOActor):
    """A sharded language model that gives log-probabilities; with an optimizer it learns."""

    def logps(self, data: DataProto) -> Tensor:
        """Return the log-probabilities of the responses' tokens, 0 outside, without gradient."""
        data.meta_info |= {
            "micro_batch_size": self.config.ppo_micro_batch_size_per_gpu,
            "temperature": 1.0,
            "use_dynamic_bsz": False,
        }
        logps, _ = self.compute_log_prob(data=data, calculate_entropy=False)
        reshard(self.actor_module)
        return logps.masked_fill(~data.batch["response_mask"].bool().to(logps.device), 0.0)

    def learn(self, data: DataProto, beta: float) -> tuple[Tensor, dict[str, list[float]]]:
        """Learn the outcomes of all responses, one update for each mini-batch.

        ``data`` holds ``outcomes`` and ``reference``, log-probabilities of the frozen copy. Returns
        log-probabilities of the tokens, 0 outside the responses, each mini-batch's from the forward
        pass of its own update; then, for each update, the loss per response and the norm of the
        gradient before clipping.
        """
        self.actor_module.train()
        logps, losses, norms = [], [], []
        for batch in data.split(self.config.ppo_mini_batch_size):
            self.actor_optimizer.zero_grad()
            total = 0.0
            for part in batch.split(self.config.ppo_micro_batch_size_per_gpu):
                inputs = dict(part.to(get_device_id()).batch)
                mask = inputs["response_mask"].bool()
                _, scores = self._forward_micro_batch(inputs, temperature=1.0)
                scores = scores.masked_fill(~mask, 0.0)
                loss = outcome_loss(scores, inputs["reference"], inputs["outcomes"], beta)
                # FSDP takes the mean over processes, which hold equal shares of the batch.
                (loss / len(batch)).backward()
                total += loss.item()
                logps.append(scores.detach().cpu())
            norms.append(self._optimizer_step().item())
            losses.append(total / len(batch))
        self.actor_optimizer.zero_grad()
        return torch.cat(logps), {"prime/reward_loss": losses, "prime/reward_grad_norm": norms}


@contextmanager
def on_device(module: nn.Module | None, optimizer: Any = None) -> Iterator[None]:
    """Bring offloaded weights, and an optimizer's moments, to the device for a while."""
    if module is not None:
        load_fsdp_model_to_gpu(module)
    if optimizer is not None:
        load_fsdp_optimizer(optimizer=optimizer, device_id=get_device_id())
    try:
        yield
    finally:
        if module is not None:
            offload_fsdp_model_to_cpu(module)
        if optimizer is not None:
            offload_fsdp_optimizer(optimizer=optimizer)


class RewardWorker(ActorRolloutRefWorker):
    """The implicit reward model and the frozen copy of its start, on every process's GPU.

    verl builds both as it builds an actor; what differs is what is learned. There is no mask: the
    subnetwork is the policy's.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config=config.engine, role="actor")

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build the model, its optimizer and the frozen copy."""
        super().init_model()
        actor = omega_conf_to_dataclass(self.config.actor)
        self.actor_module_fsdp.register_forward_hook(float_logits)
        self.actor = RewardModel(actor, self.actor_module_fsdp, self.actor_optimizer)
        # Never updated, it needs no float32 master; both are computed in bfloat16.
        sharding = OmegaConf.merge(self.config.actor.fsdp_config, {"model_dtype": "bf16"})
        model = self.config.model
        override = OmegaConf.to_container(OmegaConf.create(model.get("override_config", {})))
        frozen, *_ = self._build_model_optimizer(
            model_path=model.path,
            fsdp_config=omega_conf_to_dataclass(sharding),
            optim_config=None,
            override_model_config=override,
            use_remove_padding=model.get("use_remove_padding", False),
            trust_remote_code=model.get("trust_remote_code", False),
        )
        frozen.register_forward_hook(float_logits)
        self.frozen = RewardModel(actor, frozen)
        if self._is_offload_param:
            offload_fsdp_model_to_cpu(frozen)

    @register(dispatch_mode=Dispatch.DP_COMPUTE_PROTO)
    def learn_and_score(self, data: DataProto) -> DataProto:
        """Learn the outcomes and return what the model says about every token.

        ``reward_logps`` and ``reference_logps`` are ``[B, T]``, 0 outside the responses. The first
        are the updated model's, or with ``reward_update: after`` those of the model while it was
        updated.
        """
        data = data.to("cpu")  # every micro-batch goes to the device by itself
        weights, moments = self._is_offload_param, self._is_offload_optimizer
        with on_device(self.frozen.actor_module if weights else None):
            reference = self.frozen.logps(data)
        data = DataProto.from_dict({**data.batch, "reference": reference.cpu()})
        with on_device(
            self.actor_module_fsdp if weights else None, self.actor_optimizer if moments else None
        ):
            scores, metrics = self.actor.learn(data, self.config.reward_beta)
            if self.config.reward_update == "before":
                scores = self.actor.logps(data).cpu()
        return DataProto.from_dict(
            tensors={"reward_logps": scores, "reference_logps": reference.cpu()},
            meta_info={"metrics": metrics},
        )
