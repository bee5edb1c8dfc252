"""All that a card says about a pair, in numbers, measured in one way through its files."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from rlsubnet.checkpoints.delta_file import BLOCK, as_codes, encode_block
from rlsubnet.checkpoints.differ import default_threads, diff_tensors, tensors_by_part
from rlsubnet.checkpoints.formats import ITEM_BYTES
from rlsubnet.checkpoints.pair import Pair, pair_notes, read_finite
from rlsubnet.checkpoints.structure import MatrixRank, matrix_ranks
from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.kernel import EXPONENTS, Request
from rlsubnet.measure.parameters import Parameter, parse_parameter
from rlsubnet.measure.sparsity import (
    TABLE_TOLERANCE,
    TOLERANCES,
    UpdateCounts,
    UpdateNorms,
    total_counts,
    update_norms,
)

Key = TypeVar("Key")


class TensorFacts(NamedTuple):
    """What finetuning did to one tensor."""

    name: str
    place: Parameter
    shape: tuple[int, ...]  # of what is compared
    dtypes: tuple[str, str]  # as stored, before and after
    counts: UpdateCounts
    norms: UpdateNorms
    # int64, (256, 2): weights by bfloat16 exponent, and of these the ones whose bits differ.
    by_exponent: np.ndarray
    delta_bytes: int  # what `rlsubnet delta` stores of it
    full_bytes: int  # what the tuned file holds of it
    ranks: tuple[MatrixRank, ...]  # empty for vectors, and where ranks were not asked for


# Attention, then the feed-forward part, as in Figure 3; other matrices follow, vectors come last.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_KIND_ORDER = ("embed_tokens", *_ATTENTION, "gate_proj", "up_proj", "down_proj")


class Tensors(tuple[TensorFacts, ...]):
    """Some tensors, and what holds of all their weights together."""

    @property
    def counts(self) -> UpdateCounts:
        return total_counts(tensor.counts for tensor in self)

    @property
    def norms(self) -> UpdateNorms:
        return sum((tensor.norms for tensor in self), UpdateNorms())

    @property
    def by_exponent(self) -> np.ndarray:
        return sum((tensor.by_exponent for tensor in self), np.zeros((EXPONENTS, 2), np.int64))

    @property
    def ranks(self) -> list[MatrixRank]:
        return [rank for tensor in self for rank in tensor.ranks]

    @property
    def sparsity(self) -> float:
        """Return what the paper's tables print: official rule, their tolerance."""
        return self.counts.sparsity("official", TABLE_TOLERANCE)

    @property
    def same_bits(self) -> float:
        """Return the share of weights of which no bit changed, 1 where there are none."""
        counts = self.counts
        return 1 - counts.bitwise_changed / counts.numel if counts.numel else 1.0

    @property
    def dtypes(self) -> set[str]:
        return {dtype for tensor in self for dtype in tensor.dtypes}

    @property
    def are_vectors(self) -> bool:
        return all(len(tensor.shape) == 1 for tensor in self)

    def grouped(self, key: Callable[[TensorFacts], Key]) -> dict[Key, "Tensors"]:
        """Return tensors by a key of theirs, in order of first appearance."""
        keys = dict.fromkeys(map(key, self))
        return {found: Tensors(t for t in self if key(t) == found) for found in keys}

    def by_kind(self) -> dict[str, "Tensors"]:
        """Return tensors by matrix kind, in the order that a reader of the paper expects."""
        groups = self.grouped(lambda tensor: tensor.place.matrix)

        def place(kind: str) -> tuple[bool, int]:
            known = _KIND_ORDER.index(kind) if kind in _KIND_ORDER else len(_KIND_ORDER)
            return groups[kind].are_vectors, known

        return {kind: groups[kind] for kind in sorted(groups, key=place)}

    @property
    def inside(self) -> "Tensors":
        return Tensors(tensor for tensor in self if tensor.place.layer is not None)

    def by_layer(self) -> dict[int, "Tensors"]:
        """Return tensors by layer, the first one first, without those that are in none."""
        groups = self.inside.grouped(lambda tensor: tensor.place.layer or 0)
        return {layer: groups[layer] for layer in sorted(groups)}


class Facts(NamedTuple):
    """What finetuning did to a checkpoint."""

    names: tuple[str, str]  # of init and tuned
    digests: tuple[str, str]  # SHA-256 of their weights
    tensors: Tensors  # in natural order
    notes: tuple[str, ...]  # what a reader must know about the two
    quantized: bool  # whether weights are fp8 codes, whose delta is another one
    seed: int  # of the random control of the ranks


def _delta_size(before: np.ndarray, after: np.ndarray) -> int:
    """Return the bytes of a block of a delta; one of another type is stored whole."""
    if before.dtype != after.dtype:
        same_width = after.dtype == np.uint16
        before = to_bfloat16(before) if same_width else np.zeros_like(after)
    return len(encode_block(as_codes(before), as_codes(after)))


def _norms_and_delta(pair: Pair, name: str, threads: int) -> tuple[UpdateNorms, int]:
    """Return the norms of a tensor, and the bytes of its delta."""

    common = pair.numel(name)

    def measure(start: int) -> tuple[UpdateNorms, int]:
        piece = name, start, min(BLOCK, common - start)
        before, after = (read_finite(side, *piece) for side in (pair.init, pair.tuned))
        return update_norms(before, after), _delta_size(before, after)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(measure, range(0, common, BLOCK)))
    new_bytes = 0
    if name in pair.resized:  # rows that init does not have
        last = pair.tuned.tensors[name].numel
        for start in range(common, last, BLOCK):
            rows = pair.tuned.read_range(name, start, min(BLOCK, last - start))
            new_bytes += _delta_size(np.zeros_like(rows), rows)
    norms = sum((norms for norms, _ in found), UpdateNorms())
    return norms, new_bytes + sum(size for _, size in found)


def measure_facts(
    pair: Pair,
    *,
    ranks: bool = True,
    seed: int = 0,
    kernel: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    take_progress: Callable[[int], None] | None = None,
) -> Facts:
    """Return all that a card says about a pair.

    Every file is opened when its turn comes, so that a shard of the hub is fetched once.

    Args:
        pair: the two checkpoints; weights that are NaN or infinite are refused.
        ranks: whether to take ranks, by far the longest part of large models.
        seed: of the random control of the ranks.
        kernel, threads: of the pass that counts; no number depends on them.
        device: where the ranks of large matrices are taken.
        take_progress: gets the bytes of both files, tensor by tensor.
    """
    request = Request(TOLERANCES, by_exponent=True)
    found: dict[str, TensorFacts] = {}
    for names in tensors_by_part(pair):
        counted = diff_tensors(pair, request, names, kernel=kernel, threads=threads)
        for name, counts in counted.items():
            norms, delta_bytes = _norms_and_delta(pair, name, threads or default_threads())
            sides = pair.init.tensors[name], pair.tuned.tensors[name]
            assert counts.by_exponent is not None
            found[name] = TensorFacts(
                name,
                parse_parameter(name),
                pair.shapes[name],
                (sides[0].dtype, sides[1].dtype),
                counts.update_counts(TOLERANCES),
                norms,
                counts.by_exponent,
                delta_bytes,
                sides[1].numel * ITEM_BYTES[sides[1].dtype],
                tuple(matrix_ranks(pair, name, seed, device)) if ranks else (),
            )
            if take_progress:
                take_progress(pair.nbytes(name))
    return Facts(
        (str(pair.init.path), str(pair.tuned.path)),
        (pair.init.digest(), pair.tuned.digest()),
        Tensors(found[name] for name in pair.shapes),
        tuple(pair_notes(pair)),
        any(name in side.scales for side in (pair.init, pair.tuned) for name in pair.shapes),
        seed,
    )


# Bits of the fraction, the leading one not counted: two neighbors at 1.0 are 2**-BITS apart.
FRACTION_BITS = 7  # of bfloat16
EXPONENT_BIAS = 127


def step_size(magnitude: float) -> float:
    """Return how far apart two neighbors in bfloat16 are at a magnitude.

    >>> step_size(1.0), step_size(0.02) == 2.0**-13  # 0.02 lies above 2**-6
    (0.0078125, True)
    """
    return 2.0 ** (math.floor(math.log2(magnitude)) - FRACTION_BITS)


def typical_magnitude(by_exponent: np.ndarray) -> float:
    """Return the power of two below the median weight that is not zero, 0.0 without such weights.

    >>> counts = np.zeros((256, 2), np.int64)
    >>> counts[127, 0], counts[126, 0] = 5, 1  # five weights in [1, 2), one in [0.5, 1)
    >>> typical_magnitude(counts)
    1.0
    """
    weights = by_exponent[:, 0].copy()
    weights[0] = 0
    if not weights.any():
        return 0.0
    middle = int(np.searchsorted(np.cumsum(weights), weights.sum() / 2))
    return float(2.0 ** (middle - EXPONENT_BIAS))


class FrozenNorms(NamedTuple):
    """Layer norms that stand still because their type is too coarse for the update.

    ``still`` is the share of their weights with the same bits, ``magnitude`` their size, ``step``
    the distance of two bfloat16 numbers there, ``moved`` the mean move (rms) of other weights.
    """

    still: float
    magnitude: float
    step: float
    moved: float


def frozen_norms(tensors: Tensors) -> FrozenNorms | None:
    """Return what hides the update of layer norms, None where rounding need not be the reason."""
    parts = tensors.grouped(lambda t: len(t.shape) == 1 and "norm" in t.place.matrix.lower())
    norms = Tensors(t for t in parts.get(True, ()) if t.counts.numel and t.dtypes[1] == "BF16")
    if not norms or False not in parts:
        return None
    magnitude, moved = typical_magnitude(norms.by_exponent), parts[False].norms.update_rms
    still = norms.same_bits
    if not magnitude or not moved or still < 0.5 or moved >= step_size(magnitude) / 2:
        return None
    return FrozenNorms(still, magnitude, step_size(magnitude), moved)
