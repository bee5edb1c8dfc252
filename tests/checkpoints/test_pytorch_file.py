"""Torch files are mapped by torch.load: the same numbers, and nothing that they name is run."""

import collections
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlsubnet.checkpoints.formats import read_stored, read_torch_header

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def state(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors that share a storage, are views, lie in another order, or hold one number or none."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 5, 4, generator=generator).to(dtype)
    matrix = torch.randn(7, 3, generator=generator).to(dtype)
    return {
        "whole": whole,
        "tied": whole,
        "rows": whole[2:5],
        "transposed": matrix.t(),
        "columns": matrix[:, 1:],
        "every other": whole.permute(2, 0, 1)[::2],
        "parameter": torch.nn.Parameter(matrix),
        "one": torch.tensor(3.0, dtype=dtype),
        "none": torch.zeros(0, 4, dtype=dtype),
        "one row": matrix[3:4].t(),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_range_of_every_tensor_has_the_bits_of_torch(tmp_path, dtype):
    file = tmp_path / "pytorch_model.bin"
    torch.save(collections.OrderedDict(state(dtype)), file)
    expected = torch.load(file, weights_only=True)
    infos = read_torch_header(file)
    assert list(infos) == list(expected)
    for name, tensor in expected.items():
        assert infos[name].shape == tuple(tensor.shape)
        stored = bits(tensor)
        for start, count in ((0, tensor.numel()), (tensor.numel() // 3, tensor.numel() // 2)):
            wanted = stored[start * dtype.itemsize : (start + count) * dtype.itemsize]
            assert read_stored(infos[name], start, count).tobytes() == wanted


def test_a_state_dict_of_a_module_with_its_versions_is_read(tmp_path):
    module = torch.nn.Linear(3, 2).bfloat16()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    infos = read_torch_header(tmp_path / "pytorch_model.bin")
    assert {n: i.shape for n, i in infos.items()} == {"weight": (2, 3), "bias": (2,)}
    assert read_stored(infos["bias"], 0, 2).tobytes() == bits(module.bias)


def test_torch_is_imported_for_torch_files_only_and_asked_for_where_it_is_missing(tmp_path):
    torch.save(state(torch.bfloat16), tmp_path / "pytorch_model.bin")
    save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    code = (
        "import sys\nfrom rlsubnet.checkpoints.checkpoint import Checkpoint\n"
        f"Checkpoint({str(tmp_path / 'model.safetensors')!r}).read('w')\n"
        "assert 'torch' not in sys.modules\nsys.modules['torch'] = None\n"
        f"Checkpoint({str(tmp_path / 'pytorch_model.bin')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pytorch_model.bin: a torch file, needs torch; " in done.stderr
    assert "[train]" in done.stderr


def archive(file: Path, program: bytes, numbers: bytes = bytes(48), **options: int) -> Path:
    """Write a torch file by hand: one pickle, one storage named 0."""
    with zipfile.ZipFile(file, "w", **options) as stream:  # type: ignore[call-overload]
        stream.writestr("model/data.pkl", program)
        stream.writestr("model/version", "3")
        stream.writestr("model/byteorder", "little")
        stream.writestr("model/data/0", numbers)
    return file


class Named:
    """Stands in a pickle for a function of torch, called with arguments."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.place, self.arguments = (module, name), arguments


class Writer(pickle._Pickler):  # type: ignore[misc]
    """Writes the pickles that torch writes, and some that it would not."""

    def persistent_id(self, thing: object) -> object:
        return thing.arguments if isinstance(thing, Named) and thing.place[0] == "storage" else None

    def save(self, thing: object, save_persistent_id: bool = True) -> None:
        if isinstance(thing, Named) and thing.place[0] != "storage":
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*thing.place).encode())
            if thing.arguments:
                super().save(thing.arguments)
                self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


def program(thing: object) -> bytes:
    stream = io.BytesIO()
    Writer(stream, 2).dump(thing)
    return stream.getvalue()


def tensor(
    offset: object, shape: tuple[object, ...], strides: tuple[object, ...], numel: object = 12
) -> Named:
    kind = Named("torch", "FloatStorage")
    storage = Named("storage", "", "storage", kind, "0", "cpu", numel)
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, None)


def test_a_file_written_by_hand_is_read(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    file = archive(tmp_path / "m.bin", program({"w": tensor(2, (2, 5), (5, 1))}), numbers.tobytes())
    assert torch.load(file, weights_only=True)["w"].tolist() == numbers[2:].reshape(2, 5).tolist()
    assert read_stored(read_torch_header(file)["w"], 0, 10).tolist() == numbers[2:].tolist()


@pytest.mark.parametrize(
    "place",
    [
        tensor(3, (2, 5), (5, 1)),
        tensor(0, (13,), (1,)),
        tensor(0, (2, 2), (11, 1)),
        tensor(-1, (2,), (1,)),
        tensor(0, (2,), (-1,)),
        tensor(0, (2, 2), (2,)),
        tensor(0, (2.0,), (1,)),
        tensor(0, (1 << 70,), (0,), 1 << 70),
        tensor("0", (2,), (1,)),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, place):
    file = archive(tmp_path / "m.bin", program({"w": place}))
    with pytest.raises(ValueError, match=r"m\.bin: (tensor w: |cannot be read)"):
        read_torch_header(file)


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Named("builtins", "eval", "1/0"), "could run code .eval"),
        (Named("os", "system", "true"), "could run code .os.system"),
        (Named("torch", "load", "m.bin"), "could run code .torch.load"),
        (
            Named("torch._utils", "_rebuild_device_tensor_from_numpy"),
            "entry 'w' is no tensor but function",
        ),
        (
            Named("functools", "partial", Named("builtins", "print")),
            "could run code .functools.partial",
        ),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_by_that_name(tmp_path, thing, named):
    file = archive(tmp_path / "m.bin", program({"w": thing}))
    with pytest.raises(ValueError, match=rf"m\.bin: .*{named}"):
        read_torch_header(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: archive(
                file, program({"w": tensor(0, (2,), (1,))}), compression=zipfile.ZIP_DEFLATED
            ),
            "its numbers are compressed",
        ),
        (
            lambda file: archive(file, program({"w": tensor(0, (2,), (1,))}), b"1234567"),
            "its tensors need 48 bytes, the file holds 7 of them",
        ),
        (lambda file: archive(file, b"\x80\x02}q\x00"), "cannot be read as a torch file"),
        (lambda file: archive(file, b"\x80\x02(tR."), "cannot be read as a torch file"),
        (lambda file: archive(file, program([1])), "expected a dictionary of tensors, found list"),
        (
            lambda file: torch.save({"w": torch.ones(2).to(torch.float8_e4m3fn)}, file),
            "tensor w: expected dtype BF16, F16 or F32, found torch.float8_e4m3fn",
        ),
    ],
)
def test_a_file_that_cannot_be_measured_says_why(tmp_path, damage, message):
    file = tmp_path / "m.bin"
    damage(file)
    with pytest.raises(ValueError) as error:
        read_torch_header(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    file = tmp_path / "m.bin"
    torch.save({"w": torch.ones(2)}, file)
    assert read_torch_header(file)["w"].shape == (2,)
    torch.save({"w": torch.ones(2, 3)}, file)
    assert read_torch_header(file)["w"].shape == (2, 3)
