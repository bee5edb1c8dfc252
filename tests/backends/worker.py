"""One of the processes that train together.

Trains one case after the other and writes {case}.{rank}.pt: a mapping with `error`, or with
masters, model, norms, and the bits of the mask that were read.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlsubnet.checkpoints.masks import Mask
from rlsubnet.measure.parameters import canonical_name
from rlsubnet.training.engines import attach_engine_mask
from rlsubnet.training.masking import GradientMask
from tests.backends.tiny import ADAMW, SEQUENCES, STEPS, WORLD, Case, batches, loss_of, make_model

Result = dict[str, Any]


def attach(
    case: Case, folder: Path, engine: Any, model: nn.Module
) -> tuple[GradientMask | None, int]:
    """Attach the mask of a case; return it and how many of its bits were read."""
    if case.mask == "none":
        return None, 0
    with mock.patch.object(Mask, "read_range", autospec=True, side_effect=Mask.read_range) as read:
        mask = attach_engine_mask(engine, model, folder / case.mask_file, case.mask_at)
    return mask, sum(count for _, _, _, count in (call.args for call in read.call_args_list))


def deepspeed_engine(case: Case) -> Any:
    import deepspeed

    model = make_model(case.tied)
    configuration = {
        "train_micro_batch_size_per_gpu": SEQUENCES,
        "gradient_accumulation_steps": case.accumulate,
        "gradient_clipping": case.clip,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": case.compute == "bfloat16"},
        "zero_optimization": {
            "stage": int(case.engine.removeprefix("zero")),
            "stage3_param_persistence_threshold": 50,
            "overlap_comm": False,
        },
    }
    options = json.loads(case.options)
    configuration["zero_optimization"] |= options.pop("zero_optimization", {})  # type: ignore
    groups = [
        {"params": [p for p in model.parameters() if (p.dim() == 1) is vectors]}
        for vectors in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, **ADAMW)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=configuration | options)[0]


def exchange_optimizer(engine: Any) -> None:
    """Have another optimizer than the one with the mask make the updates (ZeRO-2)."""
    groups = [{"params": [flat]} for flat in engine.optimizer.single_partition_of_fp32_groups]
    engine.optimizer.optimizer = torch.optim.AdamW(groups, **ADAMW)


def train_zero(case: Case, folder: Path, rank: int) -> Result:
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    engine = deepspeed_engine(case)
    mask, bits = attach(case, folder, engine, engine.module)
    if case.fault == "other_optimizer":
        exchange_optimizer(engine)
    norms = []
    for step in batches(case.accumulate):
        for micro_batch in step:
            engine.backward(loss_of(engine, micro_batch[rank]))
            engine.step()
        norms.append(float(engine.get_global_grad_norm()))
    if mask is not None:
        mask.check_updates(STEPS)
    named = dict(engine.module.named_parameters())
    masters = {name: safe_get_full_fp32_param(p).detach().clone() for name, p in named.items()}
    stage3 = case.engine == "zero3"
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=stage3):
        gathered = {name: p.detach().clone() for name, p in named.items()}
    kind = type(engine.optimizer).__name__
    sub_groups = len(getattr(engine.optimizer, "fp32_partitioned_groups_flat", ()))
    engine.destroy()
    return {
        "masters": masters,
        "model": gathered,
        "norms": norms,
        "bits": bits,
        "kind": kind,
        "sub_groups": sub_groups,
    }


def wrap_fsdp1(case: Case, model: Any) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    precision = MixedPrecision(
        param_dtype=getattr(torch, case.compute),
        reduce_dtype=torch.float32,
        buffer_dtype=torch.float32,
    )
    return FullyShardedDataParallel(
        model,
        use_orig_params=case.engine == "fsdp1_orig",
        device_id=torch.device("cpu"),
        mixed_precision=precision,
        auto_wrap_policy=ModuleWrapPolicy({type(model.model.layers[0])}),
    )


def last_even_dimension(parameter: Tensor) -> Any:
    from torch.distributed.tensor import Shard

    even = [i for i, size in enumerate(parameter.shape) if size % WORLD == 0]
    return Shard(even[-1] if even else 0)


def wrap_fsdp2(case: Case, model: Any) -> nn.Module:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    options = json.loads(case.options)
    names = ("copies", "parts")
    shape = (WORLD, 1) if options.get("copies") else (WORLD,)
    wrapping: dict[str, Any] = {
        "mesh": dist.init_device_mesh("cpu", shape, mesh_dim_names=names[-len(shape) :]),
        "mp_policy": MixedPrecisionPolicy(getattr(torch, case.compute), torch.float32),
    }
    if options.get("columns"):
        wrapping["shard_placement_fn"] = last_even_dimension
    for layer in model.model.layers:
        fully_shard(layer, **wrapping)
    fully_shard(model, **wrapping)
    return model


def whole_weights(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model under FSDP, gathered; a tied head has one name."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    weights = {canonical_name(name): whole.clone() for name, whole in state.items()}
    if case.tied:
        assert torch.equal(weights.pop("lm_head.weight"), weights["model.embed_tokens.weight"])
    return weights


def clip(model: Any, largest: float) -> float:
    if hasattr(model, "clip_grad_norm_"):
        return float(model.clip_grad_norm_(largest))
    return float(nn.utils.clip_grad_norm_(model.parameters(), largest).full_tensor())  # type: ignore


def train_fsdp(case: Case, folder: Path, rank: int) -> Result:
    wrap = wrap_fsdp1 if case.engine.startswith("fsdp1") else wrap_fsdp2
    model = wrap(case, make_model(case.tied))
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    mask, bits = attach(case, folder, optimizer, model)
    if case.fault == "other_optimizer":
        optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    norms = []
    for step in batches(case.accumulate):
        optimizer.zero_grad()
        for micro_batch in step:
            (loss_of(model, micro_batch[rank]) / case.accumulate).backward()
        if mask is not None and case.mask_at == "pre_clip" and case.fault != "no_apply":
            mask.apply()
        norms.append(clip(model, case.clip))
        optimizer.step()
    if mask is not None:
        mask.check_updates(STEPS)
    weights = whole_weights(case, model)
    return {"masters": weights, "model": weights, "norms": norms, "bits": bits}


def start_deepspeed() -> None:
    """Start DeepSpeed's communication on the process group that there is.

    Its own all-reduce between CPU processes would be compiled first, for minutes; only inference
    uses it.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")


def main(rank: int, folder: Path, cases: Sequence[Case]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    os.environ.update(DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    if any(case.is_zero for case in cases):
        start_deepspeed()
    for case in cases:
        try:
            result = (train_zero if case.is_zero else train_fsdp)(case, folder, rank)
        except ValueError as error:
            result = {"error": str(error)}
        if rank:  # all have gathered the same
            result = {key: value for key, value in result.items() if key in ("bits", "error")}
        torch.save(result, folder / f"{case.name}.{rank}.pt")
    dist.barrier()
    sys.stdout.flush()
    # torch 2.13 and gloo sometimes abort while the interpreter ends, after the work is done.
    os._exit(0)
