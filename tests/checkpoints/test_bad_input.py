"""Each kind of bad input: exit status 1, one line that names the culprit, nothing written."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.cli import main
from tests.checkpoints.checkpoint_files import make_weights, write_checkpoint

NORM, WEIGHTS, BIN = "model.norm.weight", "model.safetensors", "pytorch_model.bin"


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace the bytes of a model by ``change(bytes)``."""

    def damage(folder: Path) -> None:
        (file,) = folder.glob("*model.*")
        file.write_bytes(change(file.read_bytes()))

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Replace a model's safetensors header by ``change(header)``; its tensors stay in place."""

    def changed(data: bytes) -> bytes:
        end = 8 + struct.unpack("<Q", data[:8])[0]
        found = json.loads(data[8:end])
        new = change(found)
        text = new if isinstance(new, bytes) else json.dumps(found).encode()
        return struct.pack("<Q", len(text)) + text + data[end:]

    return rewrite(changed)


def set_entry(name: str, **values: Any) -> Callable[[Path], None]:
    return header(lambda h: h[name].update(values))


def shift(header: dict[str, Any]) -> None:
    """Let one tensor begin in the middle of the one before it."""
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    first, second = sorted(tensors, key=lambda entry: entry["data_offsets"])[:2]
    length = second["data_offsets"][1] - second["data_offsets"][0]
    start = first["data_offsets"][1] - 2
    second["data_offsets"] = [start, start + length]


def swap(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    weights = make_weights() | {name: tensor}
    return lambda folder: save_file(weights, folder / "model.safetensors")


def change_index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    """Write the model in two shards and change the index by ``change(weight_map)``."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_checkpoint(folder, make_weights(), "sharded")
        index = folder / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        change(content["weight_map"])
        index.write_text(json.dumps(content))

    return damage


def point_to(shard: object) -> Callable[[Path], None]:
    return change_index(lambda weight_map: weight_map.update({NORM: shard}))


def with_index(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def lose_shard(folder: Path) -> None:
    change_index(lambda weight_map: None)(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def repeat_in_other_shard(folder: Path) -> None:
    change_index(lambda weight_map: None)(folder)
    for shard in sorted(folder.glob("model-*.safetensors")):
        save_file(make_weights(), shard)


class Calls:
    """Makes a pickle call a function when it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def as_bin(content: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return damage


def members(*changed: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Any:
    """Write the torch file of a tensor of 4 numbers, some members of the archive changed."""

    def damage(folder: Path) -> None:
        as_bin({NORM: torch.ones(4)})(folder)
        file = folder / "pytorch_model.bin"
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in parts.items():
                archive.writestr(name, dict(changed).get(name.rpartition("/")[2], content))

    return damage


def with_file(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def only_adapter(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")


def norm(value: float) -> torch.Tensor:
    return torch.tensor([1.0, value, 1.0, 1.0], dtype=torch.bfloat16)


CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "cut short in the tensors": (rewrite(lambda data: data[:900]), [WEIGHTS, "cut short"]),
    "cut short in the header": (rewrite(lambda data: data[:100]), [WEIGHTS, "not a complete"]),
    "empty file": (rewrite(lambda data: b""), [WEIGHTS, "not a complete"]),
    "bytes at the end": (rewrite(lambda data: data + b"rest"), [WEIGHTS, "unknown bytes"]),
    "header is no JSON": (header(lambda h: b"{not json}"), ["header is not valid"]),
    "header is not text": (header(lambda h: b"\xff\xfe{}"), ["header is not valid"]),
    "header is a list": (header(lambda h: b"[1]"), [WEIGHTS, "not a JSON object"]),
    "a name twice": (
        header(lambda h: (json.dumps(h)[:-1] + f', "{NORM}": 1}}').encode()),
        [WEIGHTS, "names occur twice", NORM],
    ),
    "tensor without a type": (
        header(lambda h: h[NORM].pop("dtype") and None),
        [WEIGHTS, NORM, "needs dtype"],
    ),
    "shape against bytes": (set_entry(NORM, shape=[5]), [NORM, "10 bytes", "hold 8"]),
    "negative shape": (set_entry(NORM, shape=[-4]), [NORM, "list of sizes"]),
    "shape is text": (set_entry(NORM, shape="4"), [NORM, "list of sizes"]),
    "offsets of one number": (set_entry(NORM, data_offsets=[0]), [NORM, "two numbers"]),
    "offsets beyond the file": (
        set_entry(NORM, data_offsets=[10**15, 10**15 + 8]),
        [WEIGHTS, NORM, "leaves a gap"],
    ),
    "overlapping tensors": (header(shift), [WEIGHTS, "overlaps"]),
    "float8": (set_entry(NORM, dtype="F8_E4M3", shape=[8]), [NORM, "found 'F8_E4M3'"]),
    "integers": (swap(NORM, torch.ones(4, dtype=torch.int64)), [NORM, "found I64"]),
    "bytes": (swap(NORM, torch.ones(4, dtype=torch.uint8)), [NORM, "found U8"]),
    "NaN": (swap(NORM, norm(float("nan"))), [NORM, "1 of the", "NaN"]),
    "Inf": (swap(NORM, norm(float("-inf"))), [NORM, "NaN or Inf"]),
    "shard missing": (lose_shard, ["1 missing: model-00002-of-00002.safetensors"]),
    "index out of the folder": (point_to("../../etc/passwd"), [NORM, "../../etc/passwd"]),
    "index out with a right ending": (point_to("../x.safetensors"), [NORM, "../x.safetensors"]),
    "index to an absolute path": (point_to("/etc/passwd"), [NORM, "'/etc/passwd'"]),
    "index with backslashes": (point_to("..\\x.safetensors"), [NORM, "expected the name"]),
    "index with a number": (point_to(3), [NORM, "found 3"]),
    "index with another file": (point_to("config.json"), [NORM, "'config.json'"]),
    "index names a tensor that no shard has": (
        change_index(lambda m: m.update({"extra": "model-00001-of-00002.safetensors"})),
        ["model-00001-of-00002.safetensors", "lacks", "extra"],
    ),
    "index forgets a tensor": (change_index(lambda m: m.pop(NORM)), [NORM, "lacks it"]),
    "tensor in two shards": (repeat_in_other_shard, ["holds tensor", "places it in"]),
    "index is no JSON": (with_index("{"), ["model.safetensors.index.json", "not JSON"]),
    "index without a map": (with_index("{}"), ["model.safetensors.index.json", "weight_map"]),
    "index is a list": (with_index("[]"), ["model.safetensors.index.json", "JSON object"]),
    "index is empty": (with_index('{"weight_map": {}}'), ["weight_map", "non-empty"]),
    "config is no JSON": (with_file("config.json", "{"), ["config.json", "not JSON"]),
    "config is a list": (with_file("config.json", "[]"), ["config.json", "JSON object"]),
    "no checkpoint": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ["no checkpoint", "pytorch_model.bin"],
    ),
    "an adapter": (only_adapter, ["adapter"]),
    "hostile pickle": (
        as_bin({NORM: Calls(Path.touch, Path("pickle-code-ran"))}),
        [BIN, "could run code (getattr)"],
    ),
    "evaluated": (as_bin({NORM: Calls(eval, "1/0")}), [BIN, "could run code (eval)"]),
    "a shell": (as_bin({NORM: Calls(os.system, "true")}), [BIN, "could run code (posix."]),
    "loads more": (as_bin({NORM: Calls(torch.load, "m")}), [BIN, "could run code (torch."]),
    "bin cut short": (
        lambda folder: (members()(folder), rewrite(lambda data: data[:-100])(folder)),
        [BIN, "not a complete torch file"],
    ),
    "damaged pickle": (members(("data.pkl", b"no")), [BIN, "cannot be read as a torch file"]),
    "compressed numbers": (
        members(compression=zipfile.ZIP_DEFLATED),
        [BIN, "its numbers are compressed"],
    ),
    "too few numbers": (members(("0", b"1234567")), [BIN, "need 16 bytes, the file holds 7 of"]),
    "bin of a list": (as_bin([torch.ones(2)]), [BIN, "dictionary of tensors, found list"]),
    "bin with a number": (as_bin({NORM: 1}), [BIN, NORM, "is no tensor"]),
    "bin of integers": (
        as_bin({NORM: torch.ones(4, dtype=torch.int32)}),
        [BIN, f"{NORM}: expected dtype BF16, F16 or F32, found torch.int32"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_checkpoint_is_named_in_one_line_and_nothing_is_written(
    case, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    damage, words = CASES[case]
    init = write_checkpoint(tmp_path / "init", make_weights())
    tuned = write_checkpoint(tmp_path / "tuned", make_weights())
    damage(tuned)
    out = tmp_path / "out"
    status = main(["updates", str(init), str(tuned), "--out", f"{out}/u.csv", "--mask", f"{out}/m"])
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == ""
    assert printed.err.startswith("rlsubnet updates: error: ")
    assert printed.err.count("\n") == 1
    for word in (str(tuned), *words):
        assert word in printed.err
    assert {path.name for path in tmp_path.iterdir()} <= {"init", "tuned", "out"}
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize("command", ["updates", "mask", "rank", "frozen", "trajectory"])
def test_every_command_refuses_nan(command, tmp_path, capsys):
    init = write_checkpoint(tmp_path / "init", make_weights())
    tuned = write_checkpoint(tmp_path / "step_1", make_weights())
    swap("lm_head.weight", torch.full((11, 4), float("nan"), dtype=torch.bfloat16))(tuned)
    save_mask(tmp_path / "m", {n: np.ones(t.shape, bool) for n, t in make_weights().items()}, {})
    mask = ["--mask", str(tmp_path / "m")] if command == "frozen" else []
    out = tmp_path / "out.csv"
    assert main([command, str(init), str(tuned), *mask, "--out", str(out)]) == 1
    assert "tensor lm_head.weight: 44 of the weights" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["updates", "--tolerances", "-1"], "a tolerance is a number"),
        (["updates", "--tolerances", "nan"], "a tolerance is a number"),
        (["updates", "--common-rows", "embed"], "no tensor for common rows: embed"),
        (["mask", "--atol", "1e-5", "--out", "m"], "--atol has no meaning with --rule bitwise"),
        (["mask", "--rule", "exact", "--atol", "-1", "--out", "m"], "a tolerance is a number"),
        (["frozen", "--mask", "absent"], "absent: no such mask file"),
        (["rank", "--seed", "-1"], "--seed"),
        (["rank", "--threads", "0"], "--threads must be 1 or more, found 0"),
        (["updates", "--out", "both", "--mask", "both"], "--out and --mask are one file, both"),
        (["trajectory", "tuned", "--steps", "3", "3", "--out", "t"], "have one number: [3, 3]"),
        (["trajectory", "--out", "t"], "no step number"),
        (["trajectory", "--steps", "1", "2", "--out", "t"], "2 numbers for 1 saved steps"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments, message, pair, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command, *options = arguments
    assert main([command, *map(str, pair), *options]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"init", "tuned"}
