"""A whole pair measured in one pass, shard by shard; an interrupted pass goes on where it was."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlsubnet.checkpoints.compare import Pair
from rlsubnet.checkpoints.differ import diff_tensors
from rlsubnet.checkpoints.mask_file import LATER, MaskFile, hidden_file
from rlsubnet.checkpoints.unfinished import Unfinished
from rlsubnet.checkpoints.visiting import Visit
from rlsubnet.measure.fused import Tally, Wanted

# Counts up when what a part holds changes its meaning.
VERSION = 1


class Listener(Protocol):
    """Who is told how far a pass is; ``add`` is called from any thread."""

    def add(self, nbytes: int) -> None:
        """Take bytes that were read."""

    def skip(self, nbytes: int) -> None:
        """Take bytes that need not be read, since an earlier pass has."""

    def note(self, text: str) -> None:
        """Take a line that a user should see."""


class Silence:
    """A listener that tells nobody."""

    def add(self, nbytes: int) -> None:
        """Take bytes that were read."""

    def skip(self, nbytes: int) -> None:
        """Take bytes that need not be read."""

    def note(self, text: str) -> None:
        """Take a line."""


def parts_of(pair: Pair) -> list[list[str]]:
    """Return the tensors in groups that lie in one file on either side: a shard, as a rule."""
    parts: dict[tuple[Path, Path], list[str]] = {}
    for name in pair.shapes:
        files = pair.init.tensors[name].file, pair.tuned.tensors[name].file
        parts.setdefault(files, []).append(name)
    return list(parts.values())


def visit_of(pair: Pair, parts: Sequence[Sequence[str]]) -> Visit:
    """Return the way through the parts of a pair that keeps few of its files on the disk."""
    sides = (pair.init, pair.tuned)
    files = [
        [{file for name in names for file in side.files(name)} for side in sides] for names in parts
    ]
    return Visit(sides, files)


def visited(pair: Pair) -> Iterator[list[str]]:
    """Yield the names of tensors part by part, each while its files are on the disk."""
    parts = parts_of(pair)
    visit = visit_of(pair, parts)
    for place, number in enumerate(visit.order):
        visit.bring(place)
        yield parts[number]
    visit.end()


def _stamps(pair: Pair) -> dict[str, list[Any]]:
    """Return for every file what changes when it does."""
    return {
        str(file): side.stamp(file)
        for side in (pair.init, pair.tuned)
        for file in sorted({side.tensors[name].file for name in pair.shapes})
    }


def _question(pair: Pair, wanted: Wanted, mask: Path | None) -> dict[str, Any]:
    """Return all that the numbers of a part depend on."""
    shapes = json.dumps({name: list(shape) for name, shape in pair.shapes.items()})
    return {
        "version": VERSION,
        "tolerances": [repr(float(atol)) for atol in wanted.tolerances],
        "mask": [wanted.rule, repr(wanted.atol), str(mask.resolve()) if mask else ""],
        "by_exponent": wanted.by_exponent,
        "checkpoints": [str(side.path.resolve()) for side in (pair.init, pair.tuned)],
        "shapes_sha256": hashlib.sha256(shapes.encode()).hexdigest(),
        "files": _stamps(pair),
    }


def _refuse_changed(question: dict[str, Any], pair: Pair) -> None:
    for file, stamp in _stamps(pair).items():
        if stamp != question["files"][file]:
            raise ValueError(f"{file}: changed while it was read; measure the pair again")


def _encode(tallies: dict[str, Tally]) -> dict[str, Any]:
    return {
        name: {
            "changed": tally.changed.tolist(),
            "totals": tally.totals.tolist(),
            "by_exponent": None if tally.by_exponent is None else tally.by_exponent.tolist(),
        }
        for name, tally in tallies.items()
    }


def _decode(found: dict[str, Any], wanted: Wanted) -> dict[str, Tally]:
    tallies = {}
    for name, numbers in found.items():
        tally = Tally(wanted)
        tally.changed[:] = np.array(numbers["changed"], np.int64).reshape(tally.changed.shape)
        tally.totals[:] = numbers["totals"]
        if tally.by_exponent is not None:
            tally.by_exponent[:] = numbers["by_exponent"]
        tallies[name] = tally
    return tallies


def _digests(pair: Pair) -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        init, tuned = pool.map(lambda side: side.digest(), (pair.init, pair.tuned))
    return {"init_sha256": init, "tuned_sha256": tuned}


@contextmanager
def _under_way(
    pair: Pair, wanted: Wanted, mask: Path | None, unfinished: Unfinished
) -> Iterator[MaskFile | None]:
    """Yield the mask to write, if any; what an interruption leaves stays, a failure leaves none."""
    file = None
    if mask:
        metadata = {"rule": wanted.rule, "atol": repr(wanted.atol)}
        later = {"init_sha256": LATER, "tuned_sha256": LATER}
        file = MaskFile(mask, pair.shapes, metadata | later, keep=unfinished.any_saved())
    try:
        yield file
    except ValueError:
        # Bad input: there is nothing to go on from.
        unfinished.discard()
        raise
    finally:
        if file and unfinished.any_saved():
            file.close()
        elif file:
            file.discard()
    unfinished.discard()


def measure_update(
    pair: Pair,
    wanted: Wanted,
    result: Path | None = None,
    mask: Path | None = None,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    listener: Listener | None = None,
) -> dict[str, Tally]:
    """Return what finetuning did to each tensor, and write its mask where asked.

    After every shard, what was counted is kept in a hidden folder beside ``result`` (or ``mask``).
    A pass that was killed goes on from there, provided that nothing it depends on has changed.

    Args:
        pair: the two checkpoints.
        wanted: what to count, and by which rule the mask marks weights.
        result: the file that the caller will write; none means that nothing is kept.
        mask: where the mask goes.
        kernel, threads: as of ``diff_tensors``.
        listener: is told how far the pass is, and where an earlier one is used or given up.

    Raises:
        ValueError: weights are NaN or infinite, or a file changed while it was read.
    """
    listener = listener or Silence()
    parts = parts_of(pair)
    question = _question(pair, wanted, mask)
    unfinished = Unfinished(result or mask, question)
    if mask and unfinished.any_saved() and not hidden_file(mask).exists():
        unfinished.discard()
    if unfinished.begun_anew:
        listener.note("an interrupted pass was of other inputs or options: begun anew")
    found: dict[str, Tally] = {}
    with _under_way(pair, wanted, mask, unfinished) as file:
        visit = visit_of(pair, parts)
        for place, number in enumerate(visit.order):
            names = parts[number]
            if saved := unfinished.load(number):
                listener.note(f"part {number + 1} of {len(parts)}: measured before, not read again")
                listener.skip(sum(map(pair.nbytes, names)))
                found |= _decode(saved, wanted)
                continue
            visit.bring(place)
            tallies = diff_tensors(
                pair,
                wanted,
                names,
                kernel=kernel,
                threads=threads,
                take_mask=file.write if file else None,
                take_progress=listener.add,
            )
            _refuse_changed(question, pair)
            found |= tallies
            if len(parts) > 1:
                if file:
                    file.flush()
                unfinished.save(number, _encode(tallies))
        visit.end()
        if file:
            file.finish(_digests(pair))
    return {name: found[name] for name in pair.shapes}
