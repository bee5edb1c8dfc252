"""Examples as token ids, their seeded order, and padded batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlsubnet.files import iterate_jsonl
from rlsubnet.training.device import to_device

T = TypeVar("T")


class Sample(NamedTuple):
    """One sequence: its token ids, and how many in front are given and not learned."""

    tokens: list[int]
    given: int


# What is drawn as one: one sequence, or the chosen and the rejected one of a pair.
Example = tuple[Sample, ...]


def mismatched_examples(examples: Sequence[Example]) -> list[Example]:
    """Return every example's prompts with the responses of the next one, the last with the first's.

    A fixed shift, so that a reference scores them once. Examples are drawn in random order: to the
    batch of a step they are responses to prompts of other batches, as good as any.

    Raises:
        ValueError: there is only one example.

    >>> mismatched_examples([(Sample([1, 5, 6], given=2),), (Sample([1, 8, 8, 9, 2], given=3),)])
    [(Sample(tokens=[1, 5, 9, 2], given=2),), (Sample(tokens=[1, 8, 8, 6], given=3),)]
    """
    if len(examples) < 2:
        raise ValueError(f"expected two examples or more to mismatch, found {len(examples)}")
    return [
        tuple(
            Sample(own.tokens[: own.given] + other.tokens[other.given :], own.given)
            for own, other in zip(example, following, strict=True)
        )
        for example, following in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]


def read_records(data: Path, make: Callable[[dict[str, Any]], T], count: int) -> list[T]:
    """Return ``make`` of every record of a data file, of which a batch takes ``count``.

    Raises:
        ValueError: naming the line of the file; or there are too few.
    """
    made = []
    for number, record in enumerate(iterate_jsonl(data), start=1):
        try:
            made.append(make(record))
        except KeyError as error:
            found = sorted(record)
            raise ValueError(f"{data}, line {number}: no key {error}; found {found}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{data}, line {number}: {error}") from error
    if len(made) < count:
        raise ValueError(f"{data}: {len(made)} examples, expected a batch of {count}")
    return made


@dataclass(frozen=True)
class Batch:
    """Padded sequences; the first half of the rows of a batch of pairs are the chosen ones.

    Attributes:
        inputs: token ids, shape ``[rows, T]``, padded on the right. Attention looks only to the
            left, so padding needs no mask: no token that counts ever sees it.
        targets: the tokens that the last ``K`` positions of ``inputs`` predict, ``[rows, K]``.
        mask: bool, ``[rows, K]``; True where the target is to be learned.
        blocks: the rows in one or two parts, and how many columns of ``inputs`` each part needs:
            short rows are computed apart where that saves much padding.
        indices: position of each row in the list of all samples, ``[rows]``: see :func:`collate`.
        widths: how many columns of ``inputs`` each row needs, known without asking the device.
        learned: how many targets each row has, likewise.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    blocks: tuple[tuple[Tensor, int], ...]
    indices: Tensor
    widths: tuple[int, ...]
    learned: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.learned)


def example_order(
    count: int, batch_size: int, seed: int, first: int, last: int
) -> Iterator[np.ndarray]:
    """Yield which examples the optimizer steps ``first`` to ``last`` (from 1) learn from.

    Every epoch is a new permutation; what remains of it after the last whole batch is left out.
    The batch of a step does not depend on ``first``, so a resumed run sees what it would have seen.

    With 5 examples, batches of 2 and 4 steps: two batches of each epoch.

    >>> whole = [batch.tolist() for batch in example_order(5, 2, seed=1, first=1, last=4)]
    >>> [batch.tolist() for batch in example_order(5, 2, seed=1, first=3, last=4)] == whole[2:]
    True
    >>> len(set(whole[0] + whole[1])), len(set(whole[2] + whole[3]))
    (4, 4)
    """
    batches_per_epoch = count // batch_size
    epoch, order = -1, np.empty(0, dtype=np.int64)
    for step in range(first - 1, last):
        if step // batches_per_epoch != epoch:
            epoch = step // batches_per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(count)
        start = step % batches_per_epoch * batch_size
        yield order[start : start + batch_size]


def split_batch(examples: Sequence[Example], indices: np.ndarray, parts: int) -> list[list[int]]:
    """Return ``indices`` in ``parts`` equal parts, examples of like length together.

    Sorting by length saves padding and changes no sum over the batch.

    >>> pair = [(Sample([1] * length, 1),) for length in (9, 3, 8, 4)]
    >>> split_batch(pair, np.array([0, 1, 2, 3]), parts=2)
    [[1, 3], [2, 0]]
    """

    def length(index: int) -> int:
        return max(len(sample.tokens) for sample in examples[index])

    ordered = sorted(indices.tolist(), key=length)
    size = len(ordered) // parts
    return [ordered[part * size : (part + 1) * size] for part in range(parts)]


def length_blocks(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows in one part, or in a short and a long part that need less padding.

    Cut where most padding is saved, if that is an eighth of the batch or more; a second pass of the
    model is not worth less.

    >>> length_blocks([4, 12, 3, 11])  # 48 tokens with padding; cut, 2 * 4 + 2 * 12 = 32
    [[2, 0], [3, 1]]
    >>> length_blocks([11, 12, 10, 12])
    [[0, 1, 2, 3]]
    """
    count, longest = len(lengths), max(lengths)
    order = sorted(range(count), key=lambda row: lengths[row])
    # Cutting behind the first n rows spares each of them the columns beyond the longest of them.
    saved = [n * (longest - lengths[order[n - 1]]) for n in range(1, count + 1)]
    best = max(saved)
    if 8 * best < count * longest:
        return [list(range(count))]
    cut = saved.index(best) + 1
    return [order[:cut], order[cut:]]


def collate(
    examples: Sequence[Example], indices: Sequence[int], pad: int, device: torch.device
) -> Batch:
    """Return the examples ``indices`` as one batch, trimmed to what its longest sequence needs.

    The rows are the first samples of all the examples, then their second samples. The row's entry
    in ``Batch.indices`` is ``example * samples_per_example + sample``.

    >>> pair = (Sample([1, 5, 6, 7, 2], given=3), Sample([1, 5, 6, 8, 9, 2], given=3))
    >>> batch = collate([pair], [0], pad=0, device=torch.device("cpu"))
    >>> batch.inputs.tolist()
    [[1, 5, 6, 7, 2], [1, 5, 6, 8, 9]]
    >>> batch.targets.tolist()
    [[7, 2, 0], [8, 9, 2]]
    >>> batch.mask.tolist()
    [[True, True, False], [True, True, True]]
    """
    members = len(examples[indices[0]])
    positions = [(index, member) for member in range(members) for index in indices]
    samples = [examples[index][member] for index, member in positions]
    lengths = [len(sample.tokens) for sample in samples]
    width = max(lengths)
    given = min(sample.given for sample in samples)
    tokens = np.full((len(samples), width), pad, dtype=np.int64)
    mask = np.zeros((len(samples), width), dtype=np.bool_)
    for row, sample in enumerate(samples):
        tokens[row, : len(sample.tokens)] = sample.tokens
        mask[row, sample.given : len(sample.tokens)] = True
    rows = [index * members + member for index, member in positions]
    # The last token predicts nothing that counts.
    widths = tuple(length - 1 for length in lengths)
    return Batch(
        inputs=to_device(tokens[:, :-1], device),
        targets=to_device(tokens[:, given:], device),
        mask=to_device(mask[:, given:], device),
        blocks=_blocks(length_blocks(lengths), widths, device),
        indices=to_device(np.array(rows), device),
        widths=widths,
        learned=tuple(len(sample.tokens) - sample.given for sample in samples),
    )


def _blocks(
    parts: Sequence[list[int]], widths: Sequence[int], device: torch.device
) -> tuple[tuple[Tensor, int], ...]:
    return tuple(
        (to_device(np.array(part), device), max(widths[row] for row in part)) for part in parts
    )


def take_rows(batch: Batch, rows: slice) -> Batch:
    """Return ``rows`` of a batch as a batch of its own, with the same columns.

    >>> examples = [(Sample([1, 5, 6, 7, 8, 9, 2], 2),), (Sample([1, 5, 6, 2], 2),)]
    >>> batch = collate(examples, [0, 1], pad=0, device=torch.device("cpu"))
    >>> part = take_rows(batch, slice(1, 2))
    >>> part.targets.tolist(), part.blocks[0][1]  # of 6 inputs this row needs 3
    ([[6, 2, 0, 0, 0]], 3)
    """
    widths = batch.widths[rows]
    return Batch(
        inputs=batch.inputs[rows],
        targets=batch.targets[rows],
        mask=batch.mask[rows],
        blocks=_blocks(length_blocks(widths), widths, batch.inputs.device),
        indices=batch.indices[rows],
        widths=widths,
        learned=batch.learned[rows],
    )


def row_parts(rows: slice, parts: int) -> list[slice]:
    """Return ``rows`` in ``parts`` of equal size, the last one smaller where they do not divide.

    >>> row_parts(slice(4, 9), 2)
    [slice(4, 7, None), slice(7, 9, None)]
    """
    size = -(-(rows.stop - rows.start) // parts)
    return [
        slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)
    ]
