"""Delta files from outside: damaged, hostile, old, read by others, and on the command line."""

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import open_steps, unpack
from rlsubnet.checkpoints.delta_codec import BLOCK
from rlsubnet.checkpoints.delta_file import Delta, is_delta
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import LocalFiles
from rlsubnet.cli import main
from tests.checkpoints.checkpoint_files import contents, make_weights, write_checkpoint
from tests.checkpoints.test_delta import HEAD, QUERY, packed


@pytest.fixture
def path(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    return packed(tmp_path, *pair)


def test_a_damaged_byte_is_refused_or_changes_nothing(pair, path, tmp_path):
    init, data = LocalFiles(pair[0]), path.read_bytes()
    refused = 0
    for place in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        out = tmp_path / f"out{place}"
        try:
            unpack(init, path, out)
        except ValueError as error:
            assert str(path) in str(error), place
            assert not out.exists()
            refused += 1
        else:  # a time stamp, a version: nothing that says what the file holds
            assert contents(out) == contents(pair[1]), place
    assert refused > len(data) / 7 / 3


def test_every_shorter_file_is_refused(path, pair):
    data = path.read_bytes()
    for size in range(0, len(data), 101):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"x\.delta: not a complete delta file"):
            Delta(path)


def test_damage_inside_a_block_is_found_before_it_is_measured(path, pair):
    data = path.read_bytes()
    offset = data.index(b"tensors/") + len("tensors/000000") + 14
    path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
    with pytest.raises(ValueError, match="damaged: the bytes of tensors/000000"):
        open_steps(Checkpoint(pair[0]), {1: path})


def rewritten(path: Path, change: Callable[[dict], object]) -> Path:
    """Return a copy of a delta with another manifest and sound checksums."""
    out = path.with_name("other.delta")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "manifest.json":
                manifest = json.loads(data)
                change(manifest)
                data = json.dumps(manifest).encode()
            new.writestr(member, data)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "expected format rlsubnet-delta-2, found other"),
        (lambda m: m.pop("tensors"), "its manifest is damaged"),
        (lambda m: m.update(block=7), "expected blocks of 262144 weights, found 7"),
        (lambda m: m["tensors"][QUERY].update(dtype="I5"), "found type 'I5'"),
        (lambda m: m["tensors"][QUERY].update(init="x"), "no init tensor x"),
        (lambda m: m["tensors"][QUERY].update(member="x"), "no member x"),
        (lambda m: m["tensors"][QUERY].update(same_as="x"), "no tensor x"),
        (lambda m: m["tensors"][QUERY].update(changed=1), "its blocks do not fit it"),
        (lambda m: m["tensors"][QUERY].update(shape=[9, BLOCK]), "its blocks do not fit it"),
        (lambda m: m["tensors"][QUERY].update(sha256="0" * 64), "the delta is damaged"),
        (lambda m: m["files"]["config.json"].update(kind="x"), "found kind 'x'"),
        (lambda m: m["files"]["model.safetensors"].update(tensors=["x"]), "no tensor x"),
        (lambda m: m["files"]["model.safetensors"].update(sha256="0"), "of digest 0, found"),
        (
            lambda m: m["files"].update({"../x": m["files"].pop("config.json")}),
            r"file '\.\./x': not a plain file name",
        ),
    ],
)
def test_a_wrong_manifest_is_refused(pair, path, tmp_path, change, message):
    other = rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        unpack(LocalFiles(pair[0]), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_delta_is_one(pair, path, tmp_path):
    assert is_delta(path)
    assert not is_delta(pair[0])
    assert not is_delta(pair[0] / "model.safetensors")
    assert not is_delta(pair[0] / "config.json")
    other = write_checkpoint(tmp_path / "bin", make_weights(), "bin") / "pytorch_model.bin"
    assert zipfile.is_zipfile(other)
    assert not is_delta(other)


def test_the_reader_of_the_documentation_reads_it(repository, pair, path):
    page = (repository / "docs" / "DELTA_FORMAT.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    before, after = (load_file(folder / "model.safetensors") for folder in pair)
    with zipfile.ZipFile(path) as archive:
        for name, tensor in before.items():
            codes = tensor.view(-1).view(dtype=torch.uint16).numpy()
            found = namespace["read_tensor"](archive, name, codes)
            assert found.tolist() == after[name].view(-1).view(dtype=torch.uint16).tolist()


def test_a_file_is_rebuilt_from_what_the_documentation_says(pair, path):
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        file = manifest["files"]["model.safetensors"]
        header = archive.read(file["member"])
    original = (pair[1] / "model.safetensors").read_bytes()
    assert original.startswith(header)
    assert len(header) == 8 + struct.unpack_from("<Q", header)[0]
    rest = sum(2 * int(np.prod(manifest["tensors"][n]["shape"])) for n in file["tensors"])
    assert len(header) + rest == file["size"] == len(original)


def test_a_delta_does_not_take_the_name_of_a_checkpoint(pair, tmp_path):
    with pytest.raises(ValueError, match="a delta is no .safetensors file; name it x.delta"):
        packed_as = tmp_path / "x.safetensors"
        pack(LocalFiles(pair[0]), LocalFiles(pair[1]), packed_as)


def test_packing_twice_gives_the_same_bytes(pair, path, tmp_path):
    pack(LocalFiles(pair[0]), LocalFiles(pair[1]), tmp_path / "again.delta")
    assert (tmp_path / "again.delta").read_bytes() == path.read_bytes()


def test_the_command_packs_shows_and_unpacks(pair, tmp_path, capsys):
    init, tuned = map(str, pair)
    path, out = str(tmp_path / "d.delta"), str(tmp_path / "out")
    assert main(["delta", "pack", init, tuned, "--out", path]) == 0
    size = Path(path).stat().st_size
    before, after = (load_file(folder / "model.safetensors") for folder in pair)
    changes = {name: int((before[name] != after[name]).sum()) for name in before}
    line = f"{sum(changes.values())} of 152 weights changed"
    printed = capsys.readouterr().out
    assert line in printed
    assert f"{size:,} bytes, {size / 304:.1%} of a full copy (304)" in printed
    assert main(["delta", "show", path]) == 0
    printed = capsys.readouterr().out
    assert line in printed
    rows = [text.split() for text in printed.splitlines() if text.endswith(QUERY)]
    assert rows == [[str(changes[QUERY]), "16", f"{100 * changes[QUERY] / 16:.2f}", QUERY]]
    outside = sum(changes[name] for name in changes if ".layers." not in name)
    assert [text.split()[0] for text in printed.splitlines() if "(outside layers)" in text] == [
        str(outside)
    ]
    assert main(["delta", "show", path, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["bytes"], shown["full_bytes"]) == (size, 304)
    assert {t["tensor"]: t["changed"] for t in shown["tensors"]} == changes
    assert main(["delta", "unpack", init, path, "--out", out]) == 0
    assert contents(Path(out)) == contents(pair[1])
    again = tmp_path / "again.delta"
    assert main(["delta", "pack", init, tuned, str(again)]) == 0
    assert again.read_bytes() == Path(path).read_bytes()
    assert main(["delta", "pack", init, tuned]) == 1
    assert main(["delta", "pack", init, tuned, path, "--out", path]) == 1
    assert "expected one OUT, found 2" in capsys.readouterr().err
    assert main(["delta", "unpack", tuned, path, out + "2"]) == 1
    error = capsys.readouterr().err
    assert "rlsubnet delta: error: " in error
    assert HEAD in error
