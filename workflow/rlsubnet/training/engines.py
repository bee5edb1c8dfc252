"""Masks in the engines that train large models: which process holds which weight, and where.

Each engine's layout (:class:`rlsubnet.training.masking.Layout`) says what this process's optimizer
updates; :func:`attach_engine_mask` finds the engine.

Plain torch and data parallel: every process holds whole parameters.

DeepSpeed ZeRO-1, 2 and 3: the optimizer updates flat float32 tensors, cut across processes. In an
update DeepSpeed sums the gradients of the micro-batches and processes, takes their norm, clips, and
has an ordinary optimizer (``engine.optimizer.optimizer``) update its part of the flat tensors: all
at once (ZeRO-1 with float32 accumulation), one parameter group after the other (ZeRO-1 and 2) or
one sub-group after the other (ZeRO-3). Then it rounds the model's weights again. Which weight lies
where stands in attributes of DeepSpeed that it does not document, the same in versions 0.15.4 and
0.19.8. They are not believed: each weight of the model must equal the rounded weight of the flat
tensor where it is said to lie. (With ``round_robin_gradients`` it does not.)

FSDP1 (``FullyShardedDataParallel``): each wrapped module's parameters form one flat tensor, cut
into equal parts, one a process. With ``use_orig_params`` the optimizer sees this process's part of
every parameter as a tensor of its own, otherwise the part as a whole. Which weight lies where
stands in private attributes of torch; tested with torch 2.13.

FSDP2 (``fully_shard``): every parameter is a DTensor, cut along one of its dimensions. With several
mesh dimensions (hybrid sharding) a parameter may be cut and copied; each process then holds one box
of it.
"""

import sys
from collections.abc import Iterator
from itertools import product
from math import prod
from operator import mul
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import Optimizer

from rlsubnet.checkpoints.masks import Mask, Shape
from rlsubnet.measure.parameters import canonical_name
from rlsubnet.training.masking import GradientMask, Held, Layout, WeightRange, attach_layout, whole


def is_deepspeed(engine: object) -> bool:
    """Return whether this is what ``deepspeed.initialize`` returns; does not import DeepSpeed."""
    deepspeed = sys.modules.get("deepspeed")
    return deepspeed is not None and isinstance(engine, deepspeed.DeepSpeedEngine)


def _named_parameters(engine: Any) -> dict[str, Any]:
    return {canonical_name(name): p for name, p in engine.module.named_parameters()}


def _zero3_place(zero: Any, name: str, parameter: Any) -> tuple[int, WeightRange, Tensor]:
    """Return the flat tensor of a parameter's part by its number, the place, and the part itself.

    Every parameter is cut into equal parts, one a process; the last is padded.
    """
    group, offset, part = zero.grad_position[zero.get_param_id(parameter)]
    start = part * dist.get_rank(parameter.ds_process_group)
    piece = WeightRange(name, start, max(0, min(part, parameter.ds_numel - start)), offset)
    return group, piece, parameter.ds_tensor[: piece.numel]


def _zero12_place(zero: Any, name: str, parameter: Any) -> tuple[int, WeightRange, Tensor]:
    """Return the same under ZeRO-1 and 2, where the flat tensors are cut and not the parameters."""
    weights, mapping = parameter.detach().flatten(), parameter._hp_mapping
    if mapping is None:  # other processes hold all of it
        return 0, WeightRange(name, 0, 0, 0), weights[:0]
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    piece = WeightRange(name, here.start, here.numel, there.start)
    return mapping.param_group_index, piece, weights[here.start : here.start + here.numel]


# What a kind of ZeRO calls its flat float32 tensors, and how it says what lies in them.
KINDS = {
    "fp32_partitioned_groups_flat": _zero3_place,
    "single_partition_of_fp32_groups": _zero12_place,
    "fp32_groups_flat_partition": _zero12_place,  # ZeRO-1, bfloat16, float32 accumulation
}


def deepspeed_layout(engine: Any) -> Layout:
    zero = engine.optimizer
    kind = next((name for name in KINDS if hasattr(zero, name)), None)
    if kind is None:
        raise ValueError(
            f"DeepSpeed optimizer {type(zero).__name__}: expected ZeRO stage 1, 2 or 3"
        )
    flats: list[Tensor] = list(getattr(zero, kind))
    pieces: list[list[WeightRange]] = [[] for _ in flats]
    named = _named_parameters(engine)
    for name, parameter in named.items():
        if parameter.requires_grad:
            group, piece, weights = KINDS[kind](zero, name, parameter)
            flat = flats[group].detach()[piece.offset : piece.offset + piece.numel]
            if not torch.equal(flat.to(weights), weights):
                raise ValueError(
                    f"{name}: DeepSpeed's {type(zero).__name__} does not hold its weights where "
                    "it says; with these settings it cannot be masked"
                )
            pieces[group].append(piece)
    # ZeRO-3 empties a parameter while it is not in use, and remembers its shape.
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in named.items()}
    return Layout(zero.optimizer, shapes, [Held(*both) for both in zip(flats, pieces, strict=True)])


def mask_micro_batches(engine: Any, mask: Mask, gradient_mask: GradientMask) -> None:
    """Mask the gradient of each micro-batch, before DeepSpeed sums, takes the norm and clips.

    For ``mask_at: pre_clip``. A micro-batch's gradient is that of whole parameters, so that every
    process reads the whole mask and keeps it, one byte a weight.
    """
    first = True
    for name, parameter in _named_parameters(engine).items():
        if not parameter.requires_grad:
            continue
        frozen = torch.from_numpy(~mask.read(name)).to(engine.device)

        def fill(gradient: Tensor, frozen: Tensor = frozen, counts: bool = first) -> Tensor:
            gradient_mask.before_clip += counts
            return gradient.masked_fill(frozen, 0.0)

        parameter.register_hook(fill)
        first = False


def _handles(model: nn.Module) -> Iterator[tuple[Any, list[str]]]:
    for prefix, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel) and module._handle is not None:
            fqns = module._handle.flat_param._fqns
            yield module._handle, [canonical_name(f"{prefix}.{fqn}".lstrip(".")) for fqn in fqns]


def _flat_tensors(handle: Any, names: list[str]) -> list[Held]:
    flat, separate = handle.flat_param, handle._use_orig_params
    pieces: list[list[WeightRange]] = []
    for name, info, contiguous in zip(
        names, flat._shard_param_infos, flat._contiguities, strict=True
    ):
        if not contiguous:
            raise ValueError(f"{name}: not contiguous; FSDP1 keeps its weights in another order")
        pieces.append([])
        if info.in_shard:
            offset = 0 if separate else info.offset_in_shard
            start = info.intra_param_start_idx
            pieces[-1].append(WeightRange(name, start, info.numel_in_shard, offset))
    if separate:
        return [Held(*both) for both in zip(flat._params, pieces, strict=True)]
    return [Held(flat, [piece for some in pieces for piece in some])]


def fsdp1_layout(optimizer: Optimizer, model: nn.Module) -> Layout:
    shapes: dict[str, Shape] = {}
    held: list[Held] = []
    for handle, names in _handles(model):
        shapes |= dict(zip(names, map(tuple, handle.flat_param._shapes), strict=True))
        held += [one for one in _flat_tensors(handle, names) if one.tensor.requires_grad]
    return Layout(optimizer, shapes, held)


Box = tuple[tuple[int, int], ...]  # begin and end along each dimension


def part(begin: int, end: int, count: int, position: int) -> tuple[int, int]:
    """Return the range that is part ``position`` of ``count`` parts, cut as ``torch.chunk`` does.

    >>> [part(0, 10, 4, position) for position in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    step = -(-(end - begin) // count)
    return min(begin + position * step, end), min(begin + (position + 1) * step, end)


def local_box(name: str, parameter: DTensor) -> Box:
    box = [(0, size) for size in parameter.shape]
    mesh = parameter.device_mesh
    for dimension, placement in enumerate(parameter.placements):
        if type(placement) is Shard:
            count, position = mesh.size(dimension), mesh.get_local_rank(dimension)
            box[placement.dim] = part(*box[placement.dim], count, position)
        elif type(placement) is not Replicate:
            raise ValueError(f"{name}: expected placement Shard or Replicate, found {placement}")
    sizes, found = tuple(end - begin for begin, end in box), tuple(parameter.to_local().shape)
    if sizes != found:
        raise ValueError(f"{name}: expected a local part of shape {sizes}, found {found}")
    return tuple(box)


def runs_of_box(name: str, shape: Shape, box: Box) -> Iterator[WeightRange]:
    """Yield the runs of neighbouring weights that make up a box of a parameter.

    Columns 1 and 2 of two rows of three:

    >>> [(p.start, p.numel, p.offset) for p in runs_of_box("w", (2, 3), ((0, 2), (1, 3)))]
    [(1, 2, 0), (4, 2, 2)]

    Both rows of a matrix are one run:

    >>> [(p.start, p.numel, p.offset) for p in runs_of_box("w", (4, 3), ((1, 3), (0, 3)))]
    [(3, 6, 0)]
    """
    shape, box = shape or (1,), box or ((0, 1),)  # a scalar is a vector of one
    # Dimensions after the last one that is cut are whole: they belong to one run.
    last = max((i for i, size in enumerate(shape) if box[i] != (0, size)), default=0)
    strides = [prod(shape[i + 1 :]) for i in range(last + 1)]
    begin, end = box[last]
    numel = (end - begin) * strides[last]
    if numel == 0:
        return
    rows = product(*(range(*box[i]) for i in range(last)))
    for count, row in enumerate(rows):
        start = sum(map(mul, (*row, begin), strides))
        yield WeightRange(name, start, numel, count * numel)


def parameter_layout(optimizer: Optimizer, model: nn.Module) -> Layout:
    """Return the layout of a model whose parameters are updated each on its own.

    Ordinary tensors are held whole, DTensors as this process's box of them.
    """
    named = {canonical_name(name): parameter for name, parameter in model.named_parameters()}
    shapes = {name: tuple(parameter.shape) for name, parameter in named.items()}
    held = [
        Held(parameter, runs_of_box(name, shapes[name], local_box(name, parameter)))
        if isinstance(parameter, DTensor)
        else whole(name, parameter)
        for name, parameter in named.items()
        if parameter.requires_grad
    ]
    return Layout(optimizer, shapes, held)


def engine_layout(engine_or_optimizer: Any, model: nn.Module) -> Layout:
    if is_deepspeed(engine_or_optimizer):
        return deepspeed_layout(engine_or_optimizer)
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return fsdp1_layout(engine_or_optimizer, model)
    return parameter_layout(engine_or_optimizer, model)


def attach_engine_mask(
    engine_or_optimizer: Any,
    model: nn.Module,
    mask_path: Path | str,
    mask_at: str = "post_clip",
) -> GradientMask:
    """Train only the subnetwork of a mask file, under plain torch, DeepSpeed, FSDP1 or FSDP2.

    Called by every process, once model and optimizer are wrapped and before the first update. A
    process reads its own part of the mask; of a tied weight, the mask has the name that
    ``named_parameters()`` gives. ``check_updates`` of the result belongs at the end of the run.

    Args:
        engine_or_optimizer: DeepSpeed's engine, otherwise the torch optimizer.
        model: the wrapped model; of no use with DeepSpeed, whose engine knows it.
        mask_path: a mask as ``rlsubnet mask`` writes it.
        mask_at: ``post_clip``: right before the update, as in the paper; the clip sees the norm of
            the whole gradient. ``pre_clip``: also before the clip. DeepSpeed is made to do so;
            every other trainer must call :meth:`GradientMask.apply` before it clips, which the
            first update checks.

    Raises:
        ValueError: mask and model, optimizer or engine do not fit; see
            :func:`rlsubnet.training.masking.attach_layout`.
    """
    layout = engine_layout(engine_or_optimizer, model)
    mask = Mask(mask_path)
    gradient_mask = attach_layout(layout, mask, mask_at)
    if mask_at == "pre_clip" and is_deepspeed(engine_or_optimizer):
        mask_micro_batches(engine_or_optimizer, mask, gradient_mask)
    return gradient_mask
