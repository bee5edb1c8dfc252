"""The delta file, tuned = init + delta: written a block at a time, any part of it read alone.

A zip archive whose members are stored as they are: ``manifest.json`` says what they mean,
``tensors/N`` holds the blocks of a changed tensor, ``headers/N`` what precedes the tensors in a
file of the tuned checkpoint, ``files/N`` a file that is not the init's. docs/DELTA_FORMAT.md
describes it for other readers.

A block says which weights changed, and by how many steps of their type. Weights are handled as the
unsigned integers of their bits, whatever their type. Numbers of one type, ordered by value, stand a
*step* apart (1.0 and the next larger bfloat16 number are one step apart), and a finetuned weight is
few steps away from where it was. The steps, signed, are folded to 1, 2, 3, 4 ... for -1, +1, -2,
+2 ... and take one byte each; what does not fit is escaped. No arithmetic on the numbers
themselves: NaN, Inf and -0.0 are no special case.

A block of n weights of w bytes, all integers little-endian:

* three uint32: bytes that follow, changed weights, escapes; where nothing changed, nothing follows;
* ``2 + w`` streams, each a uint32 length and that many bytes of raw DEFLATE (RFC 1951):
  one bit per weight, set where it changed (bit 0 of byte 0 first), ceil(n / 8) bytes;
  one byte per changed weight, the folded step, or 255 for an escape;
  the w bytes of the escaped folded steps, all lowest bytes first, then the next ones.
"""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.formats import ITEM_BYTES
from rlsubnet.files import replacing

# Weights per block, as many as the measuring commands read at a time.
BLOCK = 1 << 18
HEADER = struct.Struct("<III")
ESCAPE = 255
_LENGTH = struct.Struct("<I")
# Near the shortest Huffman code, one bit a byte, runs of equal bytes may be worth more.
_FEW_BITS = 0.2

Codes = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


def as_codes(weights: np.ndarray) -> Codes:
    """Return the bits of weights as unsigned integers, flat, without a copy."""
    return weights.reshape(-1).view(f"u{weights.dtype.itemsize}")


def _negative(codes: Codes) -> Codes:
    """Return all ones where the highest bit is set, else 0."""
    bits = 8 * codes.dtype.itemsize
    signed: np.ndarray = codes.view(f"i{codes.dtype.itemsize}") >> (bits - 1)
    return signed.view(codes.dtype)


def _highest(kind: np.dtype[Any]) -> Any:
    return kind.type(1 << (8 * kind.itemsize - 1))


def ordered(codes: Codes) -> Codes:
    """Return integers that grow with the floating-point numbers that ``codes`` are the bits of.

    A bijection: -0.0 comes right before 0.0, NaN at both ends.

    >>> minus_one, minus_zero, zero, one = 0xBF80, 0x8000, 0x0000, 0x3F80  # bfloat16
    >>> ordered(np.array([minus_one, minus_zero, zero, one], np.uint16)).tolist()
    [16511, 32767, 32768, 49024]
    """
    return codes ^ (_negative(codes) | _highest(codes.dtype))


def _unordered(places: Codes) -> Codes:
    return places ^ (_negative(~places) | _highest(places.dtype))


def folded_steps(before: Codes, after: Codes) -> Codes:
    """Return by how many steps each weight moved: 0 for none, 1 for -1, 2 for +1, 3 for -2 ...

    >>> folded_steps(np.array([0x3F80] * 3, np.uint16), np.array([0x3F80, 0x3F7F, 0x3F82],
    ...     np.uint16)).tolist()
    [0, 1, 4]
    """
    places = ordered(after)
    places -= ordered(before)  # modulo the largest code: no difference is too large
    sign = _negative(places)
    places <<= places.dtype.type(1)
    places ^= sign
    return places


def moved(before: Codes, folded: Codes) -> Codes:
    """Return the weights that are ``folded`` steps away; the inverse of ``folded_steps``."""
    one = folded.dtype.type(1)
    steps = folded >> one
    steps ^= folded.dtype.type(0) - (folded & one)
    steps += ordered(before)
    return _unordered(steps)


def _deflate(data: bytes) -> bytes:
    # There is nothing to find for a search of repeats: Huffman codes alone are faster and smaller.
    def with_strategy(strategy: int) -> bytes:
        stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        return stream.compress(data) + stream.flush()

    packed = with_strategy(zlib.Z_HUFFMAN_ONLY)
    if len(packed) < _FEW_BITS * len(data):
        packed = min(packed, with_strategy(zlib.Z_RLE), key=len)
    return _LENGTH.pack(len(packed)) + packed


def encode_block(before: Codes, after: Codes) -> bytes:
    """Return what turns ``before`` into ``after``: flat, of one length and one type.

    >>> len(encode_block(np.arange(9, dtype=np.uint16), np.arange(9, dtype=np.uint16)))
    12
    """
    folded = folded_steps(before, after)
    steps = np.minimum(folded, folded.dtype.type(ESCAPE)).astype(np.uint8)
    changed = steps != 0
    places = np.flatnonzero(changed)
    if not places.size:
        return HEADER.pack(0, 0, 0)
    escaped = folded.take(np.flatnonzero(steps == ESCAPE))
    planes = escaped.view(np.uint8).reshape(escaped.size, before.dtype.itemsize).T
    streams = [
        _deflate(np.packbits(changed, bitorder="little").tobytes()),
        _deflate(steps.take(places).tobytes()),
        *(_deflate(plane.tobytes()) for plane in planes),
    ]
    payload = b"".join(streams)
    return HEADER.pack(len(payload), places.size, escaped.size) + payload


def _inflate(data: memoryview, size: int) -> tuple[bytes, memoryview]:
    """Return the first stream of ``data``, which must hold ``size`` bytes, and what follows it."""
    if len(data) < _LENGTH.size:
        raise ValueError("a stream is missing")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise ValueError("a stream is cut short")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than expected: a damaged stream must not fill the memory.
        found = stream.decompress(data[_LENGTH.size : end], size + 1)
    except zlib.error as error:
        raise ValueError(f"a stream is damaged ({error})") from error
    if len(found) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"a stream does not hold {size} bytes")
    return found, data[end:]


def decode_block(before: Codes, changes: int, escapes: int, payload: bytes) -> Codes:
    """Return what ``encode_block`` was given as ``after``; ``payload`` follows the header.

    Raises:
        ValueError: the block is damaged.

    >>> before, after = np.array([1, 2, 3], np.uint16), np.array([1, 9000, 4], np.uint16)
    >>> block = encode_block(before, after)
    >>> _, changes, escapes = HEADER.unpack_from(block)
    >>> decode_block(before, changes, escapes, block[HEADER.size:]).tolist()
    [1, 9000, 4]
    """
    after = before.copy()
    if not payload:
        return after
    kind, size, rest = before.dtype, before.size, memoryview(payload)
    bitmap, rest = _inflate(rest, (size + 7) // 8)
    low, rest = _inflate(rest, changes)
    planes = np.empty((escapes, kind.itemsize), np.uint8)
    for byte in range(kind.itemsize):
        plane, rest = _inflate(rest, escapes)
        planes[:, byte] = np.frombuffer(plane, np.uint8)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    steps = np.frombuffer(low, np.uint8)
    escaped = np.flatnonzero(steps == ESCAPE)
    counted = (int(bits[:size].sum()), int(bits[size:].sum()), escaped.size, len(rest))
    if counted != (changes, 0, escapes, 0):
        raise ValueError("the streams of a block do not fit each other")
    folded = steps.astype(kind)
    folded[escaped] = planes.view(kind).reshape(-1)
    places = np.flatnonzero(bits[:size])
    after[places] = moved(before.take(places), folded)
    return after


FORMAT = "rlsubnet-delta-2"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InitTensor:
    """A tensor of init that a delta builds on; ``sha256`` is that of its stored bytes."""

    dtype: str
    shape: Shape
    sha256: str


@dataclass(frozen=True)
class DeltaTensor:
    """A tensor of the tuned checkpoint.

    Attributes:
        dtype, shape, sha256: of the tuned tensor, as stored.
        init: name of the tensor of init that it is stored against, empty for none (zeros).
        changed: weights whose bits are not those of ``init``; further rows are changes of zeros.
        member: the zip member that holds its blocks, empty where nothing changed.
        same_as: another tensor of the tuned checkpoint with the same bytes (a tied head).
    """

    dtype: str
    shape: Shape
    sha256: str
    init: str
    changed: int
    member: str
    same_as: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class DeltaFile:
    """A file of the tuned checkpoint, and its size and digest.

    ``kind`` is ``weights`` (``member`` holds its header, ``tensors`` what follows, in order),
    ``init`` (init has the same file) or ``stored`` (``member`` holds it).
    """

    size: int
    sha256: str
    kind: str
    member: str = ""
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything about a delta but its blocks; names map to what they stand for.

    Attributes:
        init: the tensors of init that are built on.
        removed: tensors of init that the tuned checkpoint lacks.
        files: the tuned files; those of weights are missing when weights in memory or ``.bin``
            files were packed: then they are unpacked into one safetensors file.
        left_out: files of the tuned folder that the delta does not hold.
    """

    init: Mapping[str, InitTensor]
    removed: tuple[str, ...]
    tensors: Mapping[str, DeltaTensor]
    files: Mapping[str, DeltaFile]
    left_out: tuple[str, ...] = ()


def _records(kind: type, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        str(name): kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
        for name, entry in entries.items()
    }


def parse_manifest(text: bytes) -> tuple[str, Manifest]:
    """Return format and manifest; what it raises for a damaged one is of many kinds."""
    data = json.loads(text)
    if data["block"] != BLOCK:
        raise ValueError(f"expected blocks of {BLOCK} weights, found {data['block']!r}")
    manifest = Manifest(
        init=_records(InitTensor, data["init"]),
        removed=tuple(map(str, data["removed"])),
        tensors=_records(DeltaTensor, data["tensors"]),
        files=_records(DeltaFile, data["files"]),
        left_out=tuple(map(str, data["left_out"])),
    )
    return str(data["format"]), manifest


MANIFEST = "manifest.json"
# A zip member needs long sizes in front when it may grow beyond 4 GiB.
_LONG = 1 << 31
_LOCAL_HEADER_BYTES = 30
# What zipfile raises on damage: RuntimeError where a bit says that a member is encrypted, OSError
# where an offset lies before the file.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, OSError)


class DeltaWriter:
    """An open delta file; use :func:`writing_delta`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = 0

    def _info(self, folder: str) -> zipfile.ZipInfo:
        # Named by number: what a checkpoint calls its tensors need not be fit for a path.
        self._members += 1
        return zipfile.ZipInfo(f"{folder}/{self._members - 1:06d}")

    def add_blocks(self, blocks: Iterable[bytes], nbytes: int) -> tuple[str, int]:
        """Write a tensor's encoded blocks; return the member's name and how many weights changed.

        Where nothing changed, there is no member and its name is empty.
        """
        unchanged, pending = HEADER.pack(0, 0, 0), iter(blocks)
        skipped = changed = 0
        for block in pending:
            if block == unchanged:
                skipped += 1
                continue
            info = self._info("tensors")
            with self._archive.open(info, "w", force_zip64=nbytes >= _LONG) as stream:
                stream.write(skipped * unchanged)
                for written in chain([block], pending):
                    changed += HEADER.unpack_from(written)[1]
                    stream.write(written)
            return info.filename, changed
        return "", 0

    def add_bytes(self, folder: str, data: bytes) -> str:
        info = self._info(folder)
        self._archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        return info.filename

    def finish(self, manifest: Manifest) -> None:
        content = {"format": FORMAT, "block": BLOCK, **asdict(manifest)}
        text = json.dumps(content, indent=1)
        self._archive.writestr(zipfile.ZipInfo(MANIFEST), text, zipfile.ZIP_DEFLATED)


@contextmanager
def writing_delta(path: Path | str) -> Iterator[DeltaWriter]:
    """Yield a writer; the file appears under ``path`` when the block ends well."""
    if Path(path).suffix in (".safetensors", ".bin"):
        raise ValueError(f"{path}: a delta is no {Path(path).suffix} file; name it x.delta")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield DeltaWriter(archive)


def is_delta(path: Path | str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False


class Delta:
    """A delta file, opened; the changes of a block are read at a time.

    Raises:
        ValueError: the file is no delta, is damaged, or its entries do not fit each other.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such delta file")
        with self._open() as archive:
            if MANIFEST not in archive.namelist():
                raise ValueError(f"{self.path}: not a delta: it holds no {MANIFEST}")
            self._members = {info.filename: info for info in archive.infolist()}
            text = archive.read(MANIFEST)
        try:
            found, self.manifest = parse_manifest(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path}: its manifest is damaged ({error!r})") from error
        if found != FORMAT:
            raise ValueError(f"{self.path}: not a delta: expected format {FORMAT}, found {found}")
        self._check_manifest()
        self._tables: dict[str, list[tuple[int, int, int, int]]] = {}

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except _DAMAGED as error:
            raise ValueError(
                f"{self.path}: not a complete delta file, damaged or cut short ({error})"
            ) from error

    def _check_manifest(self) -> None:
        faults = []
        for name, tensor in self.manifest.tensors.items():
            if tensor.dtype not in ITEM_BYTES:
                faults.append(f"tensor {name}: found type {tensor.dtype!r}")
            for what, wanted, known in (
                ("init tensor", tensor.init, self.manifest.init),
                ("tensor", tensor.same_as, self.manifest.tensors),
                ("member", tensor.member, self._members),
            ):
                if wanted and wanted not in known:
                    faults.append(f"tensor {name}: no {what} {wanted}")
        for name, file in self.manifest.files.items():
            # They become paths below the folder that is unpacked into.
            if Path(name).name != name or any(character in name for character in "\\\0"):
                faults.append(f"file {name!r}: not a plain file name")
            if file.kind not in ("weights", "init", "stored"):
                faults.append(f"file {name}: found kind {file.kind!r}")
            if (file.kind != "init") and file.member not in self._members:
                faults.append(f"file {name}: no member {file.member}")
            faults += [
                f"file {name}: no tensor {part}"
                for part in file.tensors
                if part not in self.manifest.tensors
            ]
        if faults:
            raise ValueError(f"{self.path}: damaged: {'; '.join(faults)}")

    @property
    def full_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.manifest.tensors.values())

    def check_data(self) -> None:
        """Read the whole file once and compare every member with its checksum."""
        with self._open() as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{self.path}: damaged: the bytes of {damaged} are not those written")

    def member_bytes(self, member: str) -> bytes:
        """Return a small member: a header or a stored file, its checksum checked."""
        with self._open() as archive:
            return archive.read(member)

    def stored_bytes(self, name: str) -> int:
        member = self.manifest.tensors[name].member
        return self._members[member].file_size if member else 0

    def _blocks(self, name: str) -> list[tuple[int, int, int, int]]:
        """Return offset, size, changes and escapes of each block; their headers are read once."""
        if name not in self._tables:
            tensor = self.manifest.tensors[name]
            info = self._members[tensor.member]
            table = []
            with self.path.open("rb") as stream:
                stream.seek(info.header_offset)
                local = stream.read(_LOCAL_HEADER_BYTES)
                lengths = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
                offset = info.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
                end = offset + info.file_size
                while offset < end:
                    stream.seek(offset)
                    header = stream.read(HEADER.size)
                    if len(header) < HEADER.size:
                        break
                    nbytes, changes, escapes = HEADER.unpack(header)
                    table.append((offset + HEADER.size, nbytes, changes, escapes))
                    offset += HEADER.size + nbytes
            expected = -(-tensor.numel // BLOCK), tensor.changed, end
            found = len(table), sum(changes for _, _, changes, _ in table), offset
            if found != expected:
                raise ValueError(f"{self.path}: tensor {name}: damaged: its blocks do not fit it")
            self._tables[name] = table
        return self._tables[name]

    def decode(self, name: str, number: int, before: Codes) -> Codes:
        """Return block ``number`` of a tensor, given the same weights of init."""
        if not self.manifest.tensors[name].member:
            return before
        offset, nbytes, changes, escapes = self._blocks(name)[number]
        with self.path.open("rb") as stream:
            stream.seek(offset)
            payload = stream.read(nbytes)
        try:
            return decode_block(before, changes, escapes, payload)
        except ValueError as error:
            raise ValueError(f"{self.path}: tensor {name}, block {number}: {error}") from error
