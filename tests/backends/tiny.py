"""A model of ten thousand weights, masked training of it in one process, and what came of it.

The sizes are such that hardly a part of a parameter begins at a multiple of 8 weights.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlsubnet.checkpoints.masks import save_mask

WORLD, STEPS, LR = 2, 5, 1e-3
# A larger eps than usual: Adam makes whole steps of gradients that are nothing but rounding errors.
ADAMW = {"lr": LR, "eps": 1e-6, "weight_decay": 0.0}
VOCABULARY, SEQUENCES, LENGTH = 67, 2, 12
# One parameter that is frozen as a whole, and one that is trained as a whole.
FROZEN, TRAINED = "model.norm.weight", "model.layers.0.self_attn.o_proj.weight"


@dataclass(frozen=True)
class Case:
    """One training run of a few steps in ``WORLD`` processes."""

    name: str  # of its result files
    engine: str  # zero1, zero2, zero3, fsdp1_flat, fsdp1_orig or fsdp2
    compute: str = "float32"
    clip: float = 0.5
    accumulate: int = 2
    tied: bool = False  # whether the head is the embedding (Qwen2) or a matrix of its own (Llama)
    mask: str = "whole"  # or incomplete, where a parameter is missing, or none
    mask_at: str = "post_clip"
    # other_optimizer: not the one with the mask makes the updates; no_apply: the trainer forgets
    # what pre_clip needs.
    fault: str = ""
    options: str = "{}"  # of the engine, JSON

    @property
    def is_zero(self) -> bool:
        return self.engine.startswith("zero")

    @property
    def mask_file(self) -> str:
        return f"{self.mask}_{'tied' if self.tied else 'untied'}.safetensors"


def make_model(tied: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 20,
        "intermediate_size": 45,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "attn_implementation": "eager",
    }
    model: nn.Module
    if tied:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that are not all alike
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16().float())
    return model


def initial_weights(tied: bool) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in make_model(tied).named_parameters()}


def make_mask(tied: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    mask = {
        name: torch.rand(weights.shape, generator=generator) < 0.25
        for name, weights in initial_weights(tied).items()
    }
    mask[FROZEN][:], mask[TRAINED][:] = False, True
    return mask


def write_masks(folder: Path) -> None:
    for tied in (False, True):
        mask = {name: bits.numpy() for name, bits in make_mask(tied).items()}
        name = Case("", "", tied=tied).mask_file
        save_mask(folder / name, mask, {"rule": "bitwise"})
        del mask[FROZEN]
        save_mask(folder / name.replace("whole", "incomplete"), mask, {"rule": "bitwise"})


def batches(accumulate: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    size = (STEPS, accumulate, WORLD, SEQUENCES, LENGTH)
    return torch.randint(0, VOCABULARY, size, generator=generator)


def loss_of(model: Callable[..., Any], ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))


def train_in_one_process(case: Case) -> tuple[dict[str, Tensor], list[float]]:
    """Return the float32 masters after training without any engine, and the norms that clip.

    The mask is applied to whole gradients here, by none of the code under test.
    """
    compute = getattr(torch, case.compute)
    model = make_model(case.tied)
    masters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    mask = make_mask(case.tied)
    optimizer = torch.optim.AdamW(list(masters.values()), **ADAMW)
    norms = []
    for step in batches(case.accumulate):
        total = {name: torch.zeros_like(master) for name, master in masters.items()}
        working = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in working.named_parameters():
                parameter.data = masters[name].to(compute)
        if case.is_zero:  # rounds buffers, too; FSDP keeps them in float32
            working.to(compute)
        for ids in step.flatten(0, 1):
            working.zero_grad()
            loss_of(working, ids).backward()
            for name, parameter in working.named_parameters():
                assert parameter.grad is not None
                total[name] += parameter.grad.float() / (WORLD * case.accumulate)
        if case.mask != "none" and case.mask_at == "pre_clip":
            total = {name: g.masked_fill(~mask[name], 0) for name, g in total.items()}
        norm = float(torch.sqrt(sum((g**2).sum() for g in total.values())))
        norms.append(norm)
        for name, master in masters.items():
            master.grad = total[name] * (min(1.0, case.clip / (norm + 1e-6)) if case.clip else 1)
            if case.mask != "none":
                master.grad = master.grad.masked_fill(~mask[name], 0)
        optimizer.step()
    return {name: master.detach() for name, master in masters.items()}, norms


class Changes(NamedTuple):
    """How many weights outside and inside the mask have other bits than at the start."""

    frozen: int
    frozen_changed: int
    subnetwork: int
    subnetwork_changed: int


def changes(case: Case, weights: dict[str, Tensor]) -> Changes:
    init, mask = initial_weights(case.tied), make_mask(case.tied)
    assert weights.keys() == init.keys()
    changed = {
        name: weights[name].float().view(torch.int32) != start.view(torch.int32)
        for name, start in init.items()
    }
    return Changes(
        frozen=sum(int((~inside).sum()) for inside in mask.values()),
        frozen_changed=sum(int((changed[name] & ~inside).sum()) for name, inside in mask.items()),
        subnetwork=sum(int(inside.sum()) for inside in mask.values()),
        subnetwork_changed=sum(int((changed[n] & inside).sum()) for n, inside in mask.items()),
    )


_train_once = cache(train_in_one_process)


def reference(case: Case) -> tuple[dict[str, Tensor], list[float]]:
    engine = "zero" if case.is_zero and case.compute == "bfloat16" else ""
    return _train_once(replace(case, name="", engine=engine, fault="", options="{}"))


def differences(case: Case, result: dict[str, Any]) -> Tensor:
    expected, _ = reference(case)
    assert result["masters"].keys() == expected.keys()
    return torch.cat(
        [(result["masters"][name] - weights).abs().flatten() for name, weights in expected.items()]
    )


def size(case: Case) -> int:
    return sum(weights.numel() for weights in initial_weights(case.tied).values())
