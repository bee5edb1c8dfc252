"""All that a card says about a pair, measured in one way through its files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rlsubnet.checkpoints.compare import Pair, read_finite
from rlsubnet.checkpoints.delta_codec import BLOCK, as_codes, encode_block
from rlsubnet.checkpoints.differ import default_threads, diff_tensors
from rlsubnet.checkpoints.pair_notes import pair_notes
from rlsubnet.checkpoints.ranks import MatrixRank, matrix_ranks
from rlsubnet.checkpoints.safetensors_file import ITEM_BYTES
from rlsubnet.checkpoints.update_pass import visited
from rlsubnet.measure.bfloat16 import to_bfloat16
from rlsubnet.measure.fused import EXPONENTS, Wanted
from rlsubnet.measure.norms import UpdateNorms, update_norms
from rlsubnet.measure.parameters import Parameter, parse_parameter
from rlsubnet.measure.sparsity import TOLERANCES, UpdateCounts, total_counts

Key = TypeVar("Key")


@dataclass(frozen=True)
class TensorFacts:
    """What finetuning did to one tensor.

    Attributes:
        name: without the prefixes of trainers.
        place: layer and matrix kind.
        shape: of what is compared.
        dtypes: as stored, before and after.
        counts: unchanged weights at all tolerances.
        norms: of weights and update.
        by_exponent: int64, (256, 2): weights by bfloat16 exponent, and of these the ones whose
            bits differ.
        delta_bytes: what ``rlsubnet delta`` stores of it.
        full_bytes: what the tuned file holds of it.
        ranks: of its matrices; empty for vectors, and where ranks were not asked for.
    """

    name: str
    place: Parameter
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    counts: UpdateCounts
    norms: UpdateNorms
    by_exponent: np.ndarray
    delta_bytes: int
    full_bytes: int
    ranks: tuple[MatrixRank, ...]

    @property
    def is_norm(self) -> bool:
        """Return whether these are the weights of a layer norm."""
        return len(self.shape) == 1 and "norm" in self.place.matrix.lower()


@dataclass(frozen=True)
class Facts:
    """What finetuning did to a checkpoint.

    Attributes:
        names: of init and tuned.
        digests: SHA-256 of their weights.
        tensors: in natural order.
        notes: what a reader must know about the two.
        quantized: whether weights are fp8 codes, whose delta is another one.
        seed: of the random control of the ranks.
    """

    names: tuple[str, str]
    digests: tuple[str, str]
    tensors: tuple[TensorFacts, ...]
    notes: tuple[str, ...]
    quantized: bool
    seed: int

    @property
    def counts(self) -> UpdateCounts:
        """Return the counts of all weights together."""
        return total_counts(tensor.counts for tensor in self.tensors)

    @property
    def norms(self) -> UpdateNorms:
        """Return the norms of all weights together."""
        return total_norms(self.tensors)

    @property
    def ranks(self) -> list[MatrixRank]:
        """Return the ranks of all matrices."""
        return [rank for tensor in self.tensors for rank in tensor.ranks]

    @property
    def by_exponent(self) -> np.ndarray:
        """Return the counts by exponent of all weights together."""
        total = np.zeros((EXPONENTS, 2), np.int64)
        for tensor in self.tensors:
            total += tensor.by_exponent
        return total

    @property
    def dtypes(self) -> set[str]:
        """Return the types in which weights are stored, on either side."""
        return {dtype for tensor in self.tensors for dtype in tensor.dtypes}

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the layers."""
        found = {t.place.layer for t in self.tensors if t.place.layer is not None}
        return sorted(found)


def total_norms(tensors: Iterable[TensorFacts]) -> UpdateNorms:
    """Return the norms of some tensors together."""
    return sum((tensor.norms for tensor in tensors), UpdateNorms())


def grouped(
    tensors: Iterable[TensorFacts], key: Callable[[TensorFacts], Key]
) -> dict[Key, list[TensorFacts]]:
    """Return tensors by a key of theirs, in order of first appearance."""
    groups: dict[Key, list[TensorFacts]] = {}
    for tensor in tensors:
        groups.setdefault(key(tensor), []).append(tensor)
    return groups


# Attention, then the feed-forward part, as in Figure 3; other matrices follow, vectors come last.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_KIND_ORDER = ("embed_tokens", *_ATTENTION, "gate_proj", "up_proj", "down_proj")


def by_kind(tensors: Iterable[TensorFacts]) -> dict[str, list[TensorFacts]]:
    """Return tensors by matrix kind, in the order in which a reader of the paper expects them."""
    groups = grouped(tensors, lambda tensor: tensor.place.matrix)

    def place(kind: str) -> tuple[bool, int]:
        known = _KIND_ORDER.index(kind) if kind in _KIND_ORDER else len(_KIND_ORDER)
        return all(len(tensor.shape) == 1 for tensor in groups[kind]), known

    return {kind: groups[kind] for kind in sorted(groups, key=place)}


def _delta_size(before: np.ndarray, after: np.ndarray) -> int:
    """Return the bytes of a block of a delta; one of another type is stored whole."""
    if before.dtype != after.dtype:
        same_width = after.dtype == np.uint16
        before = to_bfloat16(before) if same_width else np.zeros_like(after)
    return len(encode_block(as_codes(before), as_codes(after)))


def _pieces(pair: Pair, name: str) -> Iterator[tuple[int, int]]:
    numel = pair.numel(name)
    for start in range(0, numel, BLOCK):
        yield start, min(BLOCK, numel - start)


def _norms_and_delta(pair: Pair, name: str, threads: int) -> tuple[UpdateNorms, int]:
    """Return the norms of a tensor, and the bytes of its delta."""

    def measure(piece: tuple[int, int]) -> tuple[UpdateNorms, int]:
        before, after = (read_finite(side, name, *piece) for side in (pair.init, pair.tuned))
        return update_norms(before, after), _delta_size(before, after)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(measure, _pieces(pair, name)))
    new_bytes = 0
    if name in pair.resized:  # rows that init does not have
        first, last = pair.numel(name), pair.tuned.tensors[name].numel
        for start in range(first, last, BLOCK):
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
        pair: the two checkpoints.
        ranks: whether to take ranks, by far the longest part of large models.
        seed: of the random control of the ranks.
        kernel, threads: of the pass that counts; no number depends on them.
        device: where the ranks of large matrices are taken.
        take_progress: gets the bytes of both files, tensor by tensor.

    Raises:
        ValueError: weights are NaN or infinite.
    """
    wanted = Wanted(TOLERANCES, by_exponent=True)
    found: dict[str, TensorFacts] = {}
    for names in visited(pair):
        tallies = diff_tensors(pair, wanted, names, kernel=kernel, threads=threads)
        for name, tally in tallies.items():
            norms, delta_bytes = _norms_and_delta(pair, name, threads or default_threads())
            sides = pair.init.tensors[name], pair.tuned.tensors[name]
            assert tally.by_exponent is not None
            found[name] = TensorFacts(
                name,
                parse_parameter(name),
                pair.shapes[name],
                (sides[0].dtype, sides[1].dtype),
                tally.counts(TOLERANCES),
                norms,
                tally.by_exponent,
                delta_bytes,
                sides[1].numel * ITEM_BYTES[sides[1].dtype],
                tuple(matrix_ranks(pair, name, seed, device)) if ranks else (),
            )
            if take_progress:
                take_progress(pair.nbytes(name))
    return Facts(
        (str(pair.init.path), str(pair.tuned.path)),
        (pair.init.digest(), pair.tuned.digest()),
        tuple(found[name] for name in pair.shapes),
        tuple(pair_notes(pair)),
        any(name in side.scales for side in (pair.init, pair.tuned) for name in pair.shapes),
        seed,
    )


def sparsity_of(tensors: Sequence[TensorFacts], rule: str, atol: float) -> float:
    """Return the fraction of the weights of some tensors that finetuning left unchanged."""
    return total_counts(tensor.counts for tensor in tensors).sparsity(rule, atol)
