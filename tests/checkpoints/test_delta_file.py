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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import open_steps, unpack
from rlsubnet.checkpoints.delta_file import (
    BLOCK,
    HEADER,
    Delta,
    decode_block,
    encode_block,
    folded_steps,
    is_delta,
    moved,
    ordered,
)
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.cli import main
from tests.checkpoints.checkpoint_files import contents, make_weights, write_checkpoint
from tests.checkpoints.test_delta import HEAD, QUERY, packed


@pytest.fixture
def path(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    return packed(tmp_path, *pair)


def test_a_damaged_byte_is_refused_or_changes_nothing(pair, path, tmp_path):
    init, data = FileSource(pair[0]), path.read_bytes()
    refused = 0
    for place in [*range(0, len(data), 13), len(data) - 1]:
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
    assert refused > len(data) / 13 / 3


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
        unpack(FileSource(pair[0]), other, tmp_path / "out")
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
        pack(FileSource(pair[0]), FileSource(pair[1]), tmp_path / "x.safetensors")


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


KINDS = [np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_order_and_steps_agree_with_the_numbers(number):
    kind = f"u{number().itemsize}"
    values = np.array([-np.inf, -2.0, -1.0, -0.0, 0.0, 1e-5, 1.0, 2.0, np.inf], number)
    assert (np.diff(ordered(values.view(kind)).astype(object)) > 0).all()
    up = np.nextafter(values[1:-1], number(np.inf))
    steps = folded_steps(values[1:-1].view(kind), up.view(kind))
    # Zero has two codes: from -0.0 the next larger number is beyond 0.0, two places on.
    assert steps.tolist() == [4 if str(value) == "-0.0" else 2 for value in values[1:-1]]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_block_comes_back(data):
    kind = data.draw(st.sampled_from(KINDS))
    largest = int(np.iinfo(kind).max)
    code = st.one_of(
        st.sampled_from([0, 1, largest, largest // 2, largest // 2 + 1]), st.integers(0, largest)
    )
    pairs = data.draw(st.lists(st.tuples(code, code, st.booleans()), min_size=1, max_size=40))
    before = np.array([a for a, _, _ in pairs], kind)
    after = np.array([b if change else a for a, b, change in pairs], kind)
    block = encode_block(before, after)
    nbytes, changes, escapes = HEADER.unpack_from(block)
    assert (nbytes, changes) == (len(block) - HEADER.size, int((before != after).sum()))
    assert decode_block(before, changes, escapes, block[HEADER.size :]).tolist() == after.tolist()
    assert moved(before, folded_steps(before, after)).tolist() == after.tolist()


def test_a_block_that_does_not_fit_its_header_is_refused():
    before = np.arange(300, dtype=np.uint16)
    after = before + np.uint16(1)
    after[7] = 60000
    block = encode_block(before, after)
    _, changes, escapes = HEADER.unpack_from(block)
    payload = block[HEADER.size :]
    wrong = [
        (changes - 1, escapes, payload),
        (changes + 1, escapes, payload),
        (changes, escapes - 1, payload),
        (changes, escapes, payload[:-1]),
        (changes, escapes, payload + b"\0"),
        (changes, escapes, payload[:4]),
    ]
    for damaged in wrong:
        with pytest.raises(ValueError, match="stream"):
            decode_block(before, *damaged)
    with pytest.raises(ValueError, match="stream"):  # as many weights as a byte fewer holds
        decode_block(before[:290], changes, escapes, payload)
