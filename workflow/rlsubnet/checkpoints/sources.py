"""In which order to go through a pair so that few of its files are on the disk at a time.

Files that are here stay where they are; those of the hub come when their first tensor is looked at
and go after the last one. Every file is fetched once, whatever the layouts of the two sides.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlsubnet.checkpoints.checkpoint import PREFIX, Checkpoint, Side, StoredWeights


def visiting_order(parts: Sequence[Collection[Path]], sizes: Mapping[Path, int]) -> list[int]:
    """Return the order of parts in which as little as possible is brought for the next one.

    Args:
        parts: the files that each part needs.
        sizes: of the files that have to be brought; others cost nothing.

    >>> a1, a2, b1, b2 = map(Path, ("a1", "a2", "b1", "b2"))
    >>> parts = [(a1, b1), (a2, b2), (a1, b2), (a2, b1)]
    >>> visiting_order(parts, {a1: 5, a2: 5, b1: 4, b2: 4})  # a1 b1, then b2, then a2
    [0, 2, 1, 3]
    """
    order: list[int] = []
    left, held = list(range(len(parts))), set[Path]()
    while left:
        costs = {i: sum(sizes.get(file, 0) for file in parts[i] if file not in held) for i in left}
        best = min(left, key=lambda i: (costs[i], i))
        order.append(best)
        left.remove(best)
        needed = {file for i in left for file in parts[i]}
        held = (held | set(parts[best])) & needed
    return order


class Visit:
    """A way through the parts of a pair; ``bring`` what a part needs before it is read.

    Args:
        sides: the two checkpoints.
        parts: per part, the files of each side that it needs.

    Attributes:
        order: the numbers of the parts.
    """

    def __init__(self, sides: Sequence[Side], parts: Sequence[Sequence[Collection[Path]]]) -> None:
        self._sides, self._parts = sides, parts
        sizes = {file: size for side in sides for file, size in side.sizes().items()}
        files = [[file for of_side in part for file in of_side] for part in parts]
        self.order = visiting_order(files, sizes)
        self._here: list[set[Path]] = [set() for _ in sides]
        for number, side in enumerate(sides):
            every = {file for part in parts for file in part[number]}
            side.announce(self._most(number, side.sizes()), len(every))

    def _needed(self, place: int, number: int) -> set[Path]:
        """Return the files of a side that are needed at a place of the order or later."""
        return {file for i in self.order[place:] for file in self._parts[i][number]}

    def _most(self, number: int, sizes: Mapping[Path, int]) -> set[Path]:
        """Return the files of a side that lie on the disk together where it is most."""
        most, held = set[Path](), set[Path]()
        for place, part in enumerate(self.order):
            held = (held & self._needed(place, number)) | set(self._parts[part][number])
            most = max(most, held, key=lambda files: sum(sizes.get(file, 0) for file in files))
        return most

    def bring(self, place: int) -> None:
        """Bring the files of a place of the order; drop those that no later one needs."""

        def for_side(number: int) -> None:
            side, here = self._sides[number], self._here[number]
            done = here - self._needed(place, number)
            side.drop(done)
            here -= done
            here |= set(self._parts[self.order[place]][number])
            side.bring(here)

        with ThreadPoolExecutor(len(self._sides)) as pool:
            list(pool.map(for_side, range(len(self._sides))))

    def end(self) -> None:
        """Drop all files."""
        for side, here in zip(self._sides, self._here, strict=True):
            side.drop(here)
            here.clear()


def is_remote(source: Path | str) -> bool:
    """Return whether a source is one of the hub.

    >>> is_remote("hf:allenai/Llama-3.1-Tulu-3-8B-DPO"), is_remote("models/sft")
    (True, False)
    """
    return str(source).startswith(PREFIX)


def open_checkpoint(source: Path | str) -> Checkpoint:
    """Return the weights of a folder, a file, or ``hf:organization/name@revision``."""
    if is_remote(source):
        # The hub's library takes a while to import, and local files do without it.
        from rlsubnet.checkpoints.remote import RemoteCheckpoint, RemoteShards

        return RemoteCheckpoint(RemoteShards(str(source)))
    return Checkpoint(source)


def open_weights(source: Path | str) -> StoredWeights:
    """Return all that a folder, a file, or ``hf:organization/name@revision`` stores."""
    if is_remote(source):
        from rlsubnet.checkpoints.remote import RemoteShards, RemoteWeights

        return RemoteWeights(RemoteShards(str(source)))
    return StoredWeights(source)
