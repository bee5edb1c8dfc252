"""Small checkpoints on disk, written by torch and safetensors, not by the code under test."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from rlsubnet.checkpoints.differ import diff_tensors
from rlsubnet.checkpoints.formats import CHUNK
from rlsubnet.checkpoints.pair import Pair, paired_chunks
from rlsubnet.cli import main
from rlsubnet.columns import names as columns_of
from rlsubnet.measure.kernel import Request
from rlsubnet.measure.sparsity import UpdateCounts, changed

SHAPES = {
    "model.embed_tokens.weight": (11, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.q_proj.bias": (4,),
    "model.layers.0.mlp.down_proj.weight": (4, 9),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.norm.weight": (4,),
    "lm_head.weight": (11, 4),
}


def make_weights(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Return the weights of a model with 152 of them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.02 * torch.randn(shape, generator=generator)).to(dtype)
        for name, shape in SHAPES.items()
    }


def nudge(weights: Mapping[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """Return weights of which about every third differs, half of these by less than 1e-5."""
    generator = torch.Generator().manual_seed(seed)
    nudged = {}
    for name, tensor in weights.items():
        draw = torch.rand(tensor.shape, generator=generator)
        factor = torch.where(draw < 1 / 6, 1.01, torch.where(draw < 1 / 3, 1.5, 1.0))
        nudged[name] = (tensor.float() * factor).to(tensor.dtype)
    return nudged


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    form: str = "safetensors",
    config: Mapping[str, object] | None = None,
    shards: Sequence[Sequence[str]] = (),
) -> Path:
    """Write a Hugging Face folder; ``form`` is safetensors, bin, sharded or sharded-bin.

    ``shards`` are the names in each file of a sharded one, every other name by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".bin" if form.endswith("bin") else ".safetensors"
    stem = "pytorch_model" if suffix == ".bin" else "model"
    files = {f"{stem}{suffix}": list(weights)}
    if form.startswith("sharded"):
        shards = shards or [list(weights)[number::2] for number in range(2)]
        place = f"of-{len(shards):05d}{suffix}"
        files = {f"{stem}-{n:05d}-{place}": list(names) for n, names in enumerate(shards, 1)}
        weight_map = {name: file for file, names in files.items() for name in names}
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}{suffix}.index.json").write_text(index)
    for file, names in files.items():
        part = {name: weights[name] for name in names}
        if suffix == ".bin":
            torch.save(part, folder / file)
        else:
            save_file({n: t.contiguous() for n, t in part.items()}, folder / file, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {"tie_word_embeddings": False}))
    return folder


def run(*arguments: object) -> None:
    """Run a command, which must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def read_rows(path: Path, row: type) -> list[dict[str, str]]:
    """Return the rows of a CSV file, which must have the columns of ``row``."""
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert reader.fieldnames == [*columns_of(row)]
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def count_updates(
    pair: Pair, tolerances: Sequence[float], chunk: int = CHUNK
) -> dict[str, UpdateCounts]:
    """Return what finetuning did to each tensor."""
    counted = diff_tensors(pair, Request(tuple(tolerances)), chunk=chunk)
    return {name: counts.update_counts(tolerances) for name, counts in counted.items()}


def masks_of(
    pair: Pair, rule: str = "bitwise", atol: float = 1e-5
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, flat bool mask) for ``write_mask``: where finetuning changed a weight."""
    for name in pair.shapes:
        pieces = [changed(*piece, rule, atol) for piece in paired_chunks(pair, name)]
        yield name, np.concatenate(pieces) if pieces else np.empty(0, np.bool_)
