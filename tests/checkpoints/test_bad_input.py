"""Each kind of bad input: exit status 1, one line that names the culprit, nothing written."""

import json
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

NORM = "model.norm.weight"


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Replace a model's safetensors header by ``change(header)``; its tensors stay in place."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        end = 8 + struct.unpack("<Q", data[:8])[0]
        found = json.loads(data[8:end])
        changed = change(found)
        text = changed if isinstance(changed, bytes) else json.dumps(found).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])

    return damage


def set_entry(name: str, **values: Any) -> Callable[[Path], None]:
    return header(lambda h: h[name].update(values))


def shift(header: dict[str, Any]) -> None:
    """Let one tensor begin in the middle of the one before it."""
    first, second = sorted((e for e in header.values()), key=lambda e: e["data_offsets"])[:2]
    length = second["data_offsets"][1] - second["data_offsets"][0]
    start = first["data_offsets"][1] - 2
    second["data_offsets"] = [start, start + length]


def swap(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    weights = make_weights() | {name: tensor}
    return lambda folder: save_file(weights, folder / "model.safetensors")


def truncate(size: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return damage


def append_bytes(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"rest")


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


class Payload:
    """What a hostile pickle would run on loading."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("pickle-code-ran"),))  # type: ignore[return-value]


def as_bin(content: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return damage


def damaged_bin(folder: Path) -> None:
    as_bin(make_weights())(folder)
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-100])


def other_zip(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("readme.txt", "no tensors")


def with_file(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def only_adapter(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")


def norm(value: float) -> torch.Tensor:
    return torch.tensor([1.0, value, 1.0, 1.0], dtype=torch.bfloat16)


CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "cut short in the tensors": (truncate(900), ["model.safetensors", "cut short"]),
    "cut short in the header": (truncate(100), ["model.safetensors", "not a complete"]),
    "cut short in the first bytes": (truncate(4), ["model.safetensors", "not a complete"]),
    "empty file": (truncate(0), ["model.safetensors", "not a complete"]),
    "bytes at the end": (append_bytes, ["model.safetensors", "unknown bytes"]),
    "header is no JSON": (header(lambda h: b"{not json}"), ["header is not valid"]),
    "header is not text": (header(lambda h: b"\xff\xfe{}"), ["header is not valid"]),
    "header is a list": (header(lambda h: b"[1]"), ["model.safetensors", "not a JSON object"]),
    "a name twice": (
        header(lambda h: (json.dumps(h)[:-1] + f', "{NORM}": 1}}').encode()),
        ["model.safetensors", "names occur twice", NORM],
    ),
    "tensor without a type": (
        header(lambda h: h[NORM].pop("dtype") and None),
        ["model.safetensors", NORM, "needs dtype"],
    ),
    "shape against bytes": (set_entry(NORM, shape=[5]), [NORM, "10 bytes", "hold 8"]),
    "negative shape": (set_entry(NORM, shape=[-4]), [NORM, "list of sizes"]),
    "shape is text": (set_entry(NORM, shape="4"), [NORM, "list of sizes"]),
    "offsets of one number": (set_entry(NORM, data_offsets=[0]), [NORM, "two numbers"]),
    "offsets beyond the file": (
        set_entry(NORM, data_offsets=[10**15, 10**15 + 8]),
        ["model.safetensors", NORM, "leaves a gap"],
    ),
    "overlapping tensors": (header(shift), ["model.safetensors", "overlaps"]),
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
    "index forgets a tensor": (
        change_index(lambda m: m.pop(NORM)),
        [NORM, "lacks it"],
    ),
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
    "hostile pickle": (as_bin({NORM: Payload()}), ["pytorch_model.bin", "could run code"]),
    "damaged bin": (damaged_bin, ["pytorch_model.bin"]),
    "text instead of bin": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com"),
        ),
        ["pytorch_model.bin", "not a complete torch file"],
    ),
    "zip of something else": (other_zip, ["pytorch_model.bin", "cannot be read as a torch file"]),
    "bin of a list": (as_bin([torch.ones(2)]), ["pytorch_model.bin", "dictionary of tensors"]),
    "bin with a number": (as_bin({NORM: 1}), ["pytorch_model.bin", NORM, "is no tensor"]),
    "bin of integers": (
        as_bin(make_weights() | {NORM: torch.ones(4, dtype=torch.int32)}),
        ["pytorch_model.bin", NORM, "torch.int32"],
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
