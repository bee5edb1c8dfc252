"""Responses drawn by transformers on a CPU, in the place of vLLM: for tests only.

verl's workers import this module by name, from ``actor_rollout_ref.model.external_lib``; the
rollout's own name is ``hf_cpu``.
"""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.hf_rollout import HFRollout


class CPURollout(HFRollout):
    """A copy of the model; its weights come from the policy before each batch, as vLLM's do."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any) -> None:
        BaseRollout.__init__(self, config, model_config, device_mesh)
        described = AutoConfig.from_pretrained(self.model_config.local_path)
        self.module = AutoModelForCausalLM.from_config(
            described, attn_implementation="eager"
        ).float()

    async def resume(self, tags: list[str]) -> None:
        """There is nothing to wake up."""

    async def release(self) -> None:
        """There is nothing to put to sleep."""

    async def update_weights(self, weights: Any, **other: Any) -> None:
        state = self.module.state_dict()
        for name, weight in weights:
            state[name].copy_(weight)


_ROLLOUT_REGISTRY["hf_cpu", "sync"] = f"{__name__}.CPURollout"
