"""Deltas in place of tuned checkpoints: read as if they lay on disk in full, and unpacked."""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.checkpoint import DTYPES, Checkpoint
from rlsubnet.checkpoints.delta_file import BLOCK, Codes, Delta, DeltaFile, is_delta
from rlsubnet.checkpoints.delta_pack import InitDigests, init_block, init_blocks
from rlsubnet.checkpoints.formats import NUMPY_TYPES, TensorInfo, encode_header, pieces, read_stored
from rlsubnet.checkpoints.sources import FileSource, copy_companions
from rlsubnet.files import replacing, sha256
from rlsubnet.measure.parameters import canonical_name, natural_order


class PatchedCheckpoint(Checkpoint):
    """The tuned checkpoint that a delta and its init stand for, read as if it lay on disk.

    ``digests`` are those of ``init``, where several deltas share it.

    Raises:
        ValueError: the delta is damaged, of another init, or holds a type that is not measured.
    """

    def __init__(
        self, init: Checkpoint, path: Path | str, digests: InitDigests | None = None
    ) -> None:
        self.delta = Delta(path)
        self.path, self.source = self.delta.path, FileSource(self.delta.path)
        manifest = self.delta.manifest
        digests = digests or InitDigests(init.source)
        digests.check(manifest, self.path)
        self.delta.check_data()
        self.scales, self.tied, self.buffers = {}, init.tied, init.buffers
        self._base: dict[str, TensorInfo | None] = {}
        tensors = {}
        for stored_name, tensor in manifest.tensors.items():
            name = canonical_name(stored_name)
            if name in (*init.tied, *init.buffers):
                continue
            if tensor.dtype not in DTYPES[:-1] or init.scales:
                raise ValueError(
                    f"{self.path}: tensor {stored_name}: expected dtype {', '.join(DTYPES[:-1])}, "
                    f"found {tensor.dtype}; unpack the delta first"
                )
            source = tensor.same_as or stored_name
            tensors[name] = TensorInfo(name, tensor.dtype, tensor.shape, self.path, source)
            self._base[name] = digests.tensors[tensor.init] if tensor.init else None
        self.tensors = {name: tensors[name] for name in sorted(tensors, key=natural_order)}

    def read_range(self, name: str, start: int, count: int) -> np.ndarray:
        info = self.tensors[name]
        found: list[Codes] = []
        for first in range(start // BLOCK * BLOCK, start + count, BLOCK):
            size = min(BLOCK, info.numel - first)
            before = init_block(read_stored, self._base[name], info.dtype, first, size)
            block = self.delta.decode(info.stored_name, first // BLOCK, before)
            found.append(block[max(start - first, 0) : start + count - first])
        kind = NUMPY_TYPES[info.dtype]
        codes = np.concatenate(found) if found else np.empty(0, f"u{kind.itemsize}")
        return codes.view(kind)

    def tensor_sha256(self, info: TensorInfo) -> str:
        digest = hashlib.sha256()
        for start, count in pieces(info.numel):
            digest.update(self.read_range(info.name, start, count).data)
        return digest.hexdigest()


class _Unpacker:
    def __init__(self, init: FileSource, delta: Delta) -> None:
        self.init, self.delta, self._digests = init, delta, InitDigests(init)
        self._digests.check_shapes(delta.manifest, delta.path)
        self._companions = {path.name: path for path in init.side_files()[0]}
        missing = [
            name
            for name, file in delta.manifest.files.items()
            if file.kind == "init" and name not in self._companions
        ]
        if missing:
            raise ValueError(
                f"{delta.path}: needs files that {init.label} lacks: {', '.join(missing)}"
            )

    def tensor_blocks(self, name: str) -> Iterator[Codes]:
        """Yield a tuned tensor in blocks, and check that init and result are the right ones."""
        tensor = self.delta.manifest.tensors[name]
        stored = tensor.same_as or name
        base = self._digests.tensors[tensor.init] if tensor.init else None
        before, after = hashlib.sha256(), hashlib.sha256()
        blocks = init_blocks(self.init.read, base, tensor.dtype, tensor.numel, before.update)
        for number, codes in enumerate(blocks):
            decoded = self.delta.decode(stored, number, codes)
            after.update(decoded.data)
            yield decoded
        expected = self.delta.manifest.init[tensor.init].sha256 if tensor.init else ""
        if base is not None and before.hexdigest() != expected:
            self._digests.check(self.delta.manifest, self.delta.path)  # names them all
        if after.hexdigest() != tensor.sha256:
            raise ValueError(
                f"{self.delta.path}: tensor {name}: expected digest {tensor.sha256}, found "
                f"{after.hexdigest()}: the delta is damaged"
            )

    def write_weights(self, path: Path, header: bytes, names: list[str]) -> None:
        with path.open("wb") as stream:
            stream.write(header)
            for name in names:
                for block in self.tensor_blocks(name):
                    stream.write(block.data)

    def write_file(self, folder: Path, name: str, file: DeltaFile) -> None:
        path = folder / name
        if file.kind == "weights":
            self.write_weights(path, self.delta.member_bytes(file.member), list(file.tensors))
        elif file.kind == "init":
            shutil.copyfile(self._companions[name], path)
        else:
            path.write_bytes(self.delta.member_bytes(file.member))
        if (found := sha256(path)) != file.sha256:
            source = f"{self.init.label}/{name}" if file.kind == "init" else self.delta.path
            raise ValueError(f"{source}: expected {name} of digest {file.sha256}, found {found}")


def unpack(init: FileSource, path: Path | str, out: Path | str) -> None:
    """Write init + delta as the folder that was packed, every file byte by byte.

    Where weights in memory or ``.bin`` files were packed: one ``model.safetensors``, and the config
    and tokenizer of init if the delta has no files of its own. The layout of init does not matter.

    Raises:
        ValueError: the delta is damaged or of another init, or ``out`` holds something already.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out}: exists; expected the path of a new folder")
    unpacker = _Unpacker(init, Delta(path))
    manifest = unpacker.delta.manifest
    with replacing(out) as folder:
        folder.mkdir()
        for name, file in manifest.files.items():
            unpacker.write_file(folder, name, file)
        if not any(file.kind == "weights" for file in manifest.files.values()):
            names = sorted(manifest.tensors)
            entries = {
                name: (manifest.tensors[name].dtype, manifest.tensors[name].shape) for name in names
            }
            # transformers wants to know which framework wrote the file.
            header = encode_header(entries, {"format": "pt"})
            unpacker.write_weights(folder / "model.safetensors", header, names)
        if not manifest.files:
            copy_companions(init.folder, folder)


STEP_FILES = "step-*.delta"


def step_file(step: int) -> str:
    """Return the name of the file that a run saves a step in.

    >>> step_file(5)
    'step-000005.delta'
    """
    return STEP_FILES.replace("*", f"{step:06d}")


def step_number(path: Path | str) -> int:
    """Return the last number in the own name of a saved step.

    >>> step_number("runs/grpo/global_step_320"), step_number("steps/step-000005.delta")
    (320, 5)
    """
    numbers = re.findall(r"\d+", Path(path).name)
    if not numbers:
        raise ValueError(f"{path}: no step number in its name; give --steps")
    return int(numbers[-1])


def find_steps(
    paths: Sequence[Path | str], numbers: Sequence[int] | None = None
) -> dict[int, Path]:
    """Return step -> path by increasing step (a shell lists step 100 before step 20).

    ``paths`` are full checkpoints and delta files; a folder of step files stands for all of them.
    ``numbers`` are their steps, where the names do not tell.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob(STEP_FILES)) if path.is_dir() else []
        found += inside or [path]
    steps = [step_number(path) for path in found] if numbers is None else list(numbers)
    if len(steps) != len(found):
        raise ValueError(f"--steps has {len(steps)} numbers for {len(found)} saved steps")
    ordered = dict(sorted(zip(steps, found, strict=True)))
    if len(ordered) != len(found):
        raise ValueError(f"two saved steps have one number: {sorted(steps)}")
    return ordered


def open_steps(init: Checkpoint, steps: Mapping[int, Path]) -> dict[int, Checkpoint]:
    """Return the checkpoint of every step: full ones as they are, deltas laid over ``init``."""
    deltas = {step for step, path in steps.items() if is_delta(path)}
    digests = InitDigests(init.source) if deltas else None
    return {
        step: PatchedCheckpoint(init, path, digests) if step in deltas else Checkpoint(path)
        for step, path in steps.items()
    }
