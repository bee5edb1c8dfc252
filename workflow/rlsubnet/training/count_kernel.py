"""The kernel that counts changed weights on a GPU: one launch for all tensors of a model.

It reads each weight of both models once, 4 bytes; torch's operations need eight launches a tensor
and 38 bytes a weight. Importing this needs triton, which torch's builds for GPUs bring along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Weights that a program counts at a time.
BLOCK = 1 << 12
# Addresses are multiples of so many bytes, which a thread loads at once.
ALIGNED = 16


@triton.jit
def _above(init, tuned, threshold):  # type: ignore[no-untyped-def]
    # A bfloat16 number is the upper half of a float32; without their sign, bits are ordered like
    # numbers, NaN above all.
    before = (init.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    after = (tuned.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    bits = (after - before).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (bits > threshold).to(tl.int32)


@triton.jit
def count_chunk(  # type: ignore[no-untyped-def]
    chunks, counts, threshold, BLOCK: tl.constexpr, ALIGNED: tl.constexpr
):
    """Count in the chunk of this program's number; see :func:`rlsubnet.training.device.chunks`."""
    number = tl.program_id(0)
    codes: tl.constexpr = tl.pointer_type(tl.int16)
    init = tl.multiple_of(tl.load(chunks + 3 * number).to(codes), ALIGNED)
    tuned = tl.multiple_of(tl.load(chunks + 3 * number + 1).to(codes), ALIGNED)
    numel = tl.load(chunks + 3 * number + 2).to(tl.int32)
    whole = numel // BLOCK * BLOCK
    places = tl.arange(0, BLOCK)
    changed = tl.zeros((BLOCK,), tl.int32)
    start = 0
    while start < whole:
        at = start + places
        changed += _above(tl.load(init + at), tl.load(tuned + at), threshold)
        start += BLOCK
    # Apart from the others: with a mask, numbers are loaded one by one.
    at = whole + places
    inside = at < numel
    before = tl.load(init + at, mask=inside, other=0)
    after = tl.load(tuned + at, mask=inside, other=0)
    changed += _above(before, after, threshold)
    tl.store(counts + number, tl.sum(changed, 0))


def chunk_counts(chunks: Tensor, threshold: int) -> Tensor:
    """Return how many weights of each chunk differ by more than a threshold, int32.

    Args:
        threshold: bits of the largest float32 difference that is no change.
    """
    counts = torch.empty(len(chunks), dtype=torch.int32, device=chunks.device)
    count_chunk[(len(chunks),)](chunks, counts, threshold, BLOCK, ALIGNED, num_warps=8)
    return counts
