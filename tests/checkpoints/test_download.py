"""Downloads from a real HTTP server on 127.0.0.1 that answers as the Hugging Face hub does."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlsubnet import cli
from rlsubnet.checkpoints import hub as downloading
from rlsubnet.checkpoints.hub import WAITS, download
from tests.checkpoints.checkpoint_files import contents
from tests.checkpoints.local_hub import (
    COMMIT,
    EXPECTED,
    REPOSITORY,
    SHARDS,
    LocalHub,
    git_sha1,
    serve,
    small_model,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """Serve ``small_model()``; nothing outside 127.0.0.1 and ``tmp_path`` is touched."""
    with serve(LocalHub(small_model()), monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models" / "tiny"


def fetch(out: Path, revision: str = "main", waits: Sequence[float] = ()) -> list[str]:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloading, "WAITS", waits)
        download(f"hf:{REPOSITORY}", revision, out, lines.append)
    return lines


def assert_complete(hub: LocalHub, out: Path) -> None:
    assert {path.name for path in out.iterdir()} == EXPECTED | {"download.json"}
    for name in EXPECTED:
        assert (out / name).read_bytes() == hub.files[name]
    assert not out.with_name("tiny.partial").exists()


def test_fetches_what_is_needed_records_it_and_asks_the_network_nothing_more(hub, out):
    lines = fetch(out)
    assert_complete(hub, out)
    assert sorted(hub.fetched()) == sorted(EXPECTED)
    assert sum("was here" in line for line in lines) == 1  # the index, read to choose the shards
    assert lines[0] == f"hf:org/tiny: revision main is commit {COMMIT}"
    assert lines[-1].startswith(f"[5/5] {SHARDS[1]}: 0.1 MB, fetched at ")
    record = json.loads((out / "download.json").read_text())
    assert record["commit"] == COMMIT
    assert (record["source"], record["revision"]) == ("hf:org/tiny", "main")
    assert set(record["files"]) == EXPECTED
    assert record["files"][SHARDS[0]] == {
        "size": len(hub.files[SHARDS[0]]),
        "algorithm": "sha256",
        "digest": hashlib.sha256(hub.files[SHARDS[0]]).hexdigest(),
    }
    # printf '{}' | git hash-object --stdin
    digest = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    small = {"size": 2, "algorithm": "git-sha1", "digest": digest}
    assert record["files"]["tokenizer.json"] == small
    hub.authorizations.clear()
    assert fetch(out) == [f"{out}: complete, nothing to do"]
    assert hub.authorizations == []
    with pytest.raises(ValueError, match=r"'revision': 'main'.* expected .*" + COMMIT):
        fetch(out, revision=COMMIT)
    os.truncate(out / SHARDS[0], 10)
    with pytest.raises(ValueError, match=rf"{SHARDS[0]}: 10 bytes, expected 65\d+ bytes"):
        fetch(out)


def test_token_reaches_the_hub_but_not_the_storage_it_redirects_to(hub, out):
    hub.faults[SHARDS[0]] = ["moved"]
    fetch(out)
    assert_complete(hub, out)
    sent = dict(hub.authorizations)
    assert sent[f"/{REPOSITORY}/resolve/{COMMIT}/{SHARDS[0]}"] == "Bearer hf_secret"
    assert sent[f"/cdn/{REPOSITORY}/{SHARDS[0]}"] is None


def test_connection_cut_in_the_middle_is_continued(hub, out, pauses):
    hub.faults[SHARDS[0]] = [("cut", 20_000), ("cut", 20_000)]
    fetch(out)
    assert_complete(hub, out)
    ranges = [header for name, header in hub.requests if name == SHARDS[0]]
    # 20,000 bytes arrive in whole chunks of 1,024: 19 x 1,024 = 19,456, twice.
    assert ranges == [None, "bytes=19456-", "bytes=38912-"]


def test_killed_process_leaves_no_folder_and_the_next_call_continues(hub, out, tmp_path):
    hub.faults[SHARDS[1]] = [("stall", 40_960)]
    script = (
        "import sys; from pathlib import Path; from huggingface_hub import constants\n"
        "constants.DOWNLOAD_CHUNK_SIZE = 1024\n"
        "from rlsubnet.checkpoints.hub import download\n"
        "download('hf:org/tiny', 'main', Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], env=environment(hub, tmp_path)
    )
    assert hub.stalled.wait(30)
    gathered = out.with_name("tiny.partial") / (
        f"{SHARDS[1]}.{hashlib.sha256(hub.files[SHARDS[1]]).hexdigest()[:16]}.incomplete"
    )
    while process.poll() is None and gathered.stat().st_size < 30_000:
        pass
    process.kill()
    process.wait()
    hub.released.set()
    assert not out.exists()
    size = gathered.stat().st_size
    hub.requests.clear()
    lines = fetch(out)
    assert_complete(hub, out)
    assert hub.requests == [(SHARDS[1], f"bytes={size}-")]
    assert sum("was here" in line for line in lines) == 5  # the index is looked at twice


def test_too_many_requests_and_server_errors_are_asked_again(hub, out, pauses):
    hub.faults = {"listing": [429, 503], "config.json": [429], SHARDS[0]: [500, 502]}
    lines = fetch(out, waits=WAITS)
    assert_complete(hub, out)
    # Listing: 1 s, 2 s. The library itself waits 1 s after the 429 on a file. Shard: 1 s, 2 s.
    assert pauses == [1.0, 2.0, 1.0, 1.0, 2.0]
    assert sum("trying again in" in line for line in lines) == 4


def test_failures_between_which_bytes_arrive_do_not_add_up(hub, out, pauses):
    hub.faults[SHARDS[0]] = [("cut", 10_000), 503, ("cut", 10_000), 503, ("cut", 10_000), 503]
    fetch(out, waits=(9.0,))  # one failure in a row is forgiven, here three times
    assert_complete(hub, out)
    assert pauses.count(9.0) == 3


def test_gives_up_after_the_last_wait_and_keeps_what_arrived(hub, out, pauses):
    hub.faults[SHARDS[1]] = [503, 503, 503]
    with pytest.raises(OSError, match=rf"hf:org/tiny: {SHARDS[1]}: gave up after 3 failures"):
        fetch(out, waits=(5.0, 7.0))
    assert pauses == [5.0, 7.0]
    assert not out.exists()
    hub.requests.clear()
    fetch(out)
    assert hub.fetched() == [SHARDS[1]]


def test_wrong_digest_is_refused_and_fetched_anew_next_time(hub, out):
    hub.wrong_digest = SHARDS[0]
    with pytest.raises(OSError, match=rf"{SHARDS[0]}: downloaded 65\d+ bytes with sha256"):
        fetch(out)
    assert not out.exists()
    assert hub.fetched().count(SHARDS[0]) == 3
    hub.wrong_digest = ""
    hub.requests.clear()
    fetch(out)
    assert_complete(hub, out)
    assert (SHARDS[0], None) in hub.requests


def test_what_an_earlier_attempt_left_is_checked_or_removed(hub, out):
    partial = out.with_name("tiny.partial")
    partial.mkdir(parents=True)
    (partial / SHARDS[0]).write_bytes(bytes(len(hub.files[SHARDS[0]])))  # damaged
    (partial / "model-00003-of-00003.safetensors").write_bytes(b"old")
    (partial / f"{SHARDS[0]}.{'0' * 16}.incomplete").write_bytes(b"of another commit")
    fetch(out)
    assert_complete(hub, out)


def test_what_the_hugging_face_cache_holds_is_not_fetched_again(hub, out, tmp_path, monkeypatch):
    """The cache names a large file by its SHA-256 and a small one by git's SHA-1."""
    blobs = tmp_path / "cache" / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    held = hub.files[SHARDS[0]]
    (blobs / hashlib.sha256(held).hexdigest()).write_bytes(held)
    (blobs / git_sha1(hub.files["config.json"])).write_bytes(hub.files["config.json"])
    damaged = blobs / hashlib.sha256(hub.files[SHARDS[1]]).hexdigest()
    damaged.write_bytes(bytes(len(hub.files[SHARDS[1]])))
    cut = blobs / git_sha1(hub.files["tokenizer.json"])
    cut.write_bytes(b"{")
    before = contents(blobs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    lines = fetch(out)
    assert_complete(hub, out)
    assert sorted(hub.fetched()) == sorted(EXPECTED - {SHARDS[0], "config.json"})
    assert f"hf:org/tiny: {SHARDS[0]}: taken from the Hugging Face cache" in lines
    assert contents(blobs) == before


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("change", "message", "fetched"),
    [
        (lambda files: files.pop(SHARDS[1]), rf"names 2 files, 1 missing: {SHARDS[1]}$", [INDEX]),
        (
            lambda files: [files.pop(name) for name in list(files) if name != "config.json"],
            r"no checkpoint; expected one of model\.safetensors",
            [],
        ),
    ],
)
def test_a_repository_without_all_its_weights_is_refused(hub, out, change, message, fetched):
    hub.files |= {"model.gguf": b"x", "adapter_model.safetensors": b"x"}
    change(hub.files)
    with pytest.raises(ValueError, match=message):
        fetch(out)
    assert not out.exists()
    assert hub.fetched() == fetched


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("hf:org/other", "main", r"hf:org/other: no such repository at http://127\.0\.0\.1"),
        ("hf:org/tiny", "v9", r"hf:org/tiny: no revision 'v9'"),
        ("org/tiny", "main", r"org/tiny: no such folder; for the hub write hf:org/tiny"),
    ],
)
def test_what_does_not_exist_is_named_at_once(hub, out, pauses, source, revision, message):
    with pytest.raises(ValueError, match=message):
        download(source, revision, out)
    assert pauses == []
    assert not list(out.parent.glob("*"))


def test_gated_repository_says_what_to_do(hub, out, pauses):
    hub.faults["config.json"] = ["gated"]
    with pytest.raises(ValueError, match=r"config\.json: gated; accept its terms on .* HF_TOKEN"):
        fetch(out)
    assert pauses == []


def test_disk_that_is_too_small_is_noticed_before_the_shards(hub, out, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"needs 0\.0 GB more, 0\.0 GB are free"):
        fetch(out)
    assert hub.fetched() == ["model.safetensors.index.json"]


def test_folder_with_other_content_is_not_overwritten(hub, out):
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"tiny: exists, but has no readable download\.json"):
        fetch(out)
    assert (out / "notes.txt").read_text() == "mine"


def test_local_folder_is_linked_file_by_file_if_it_is_whole(hub, out, tmp_path):
    source = tmp_path / "mine"
    (source / "original").mkdir(parents=True)
    for name, content in hub.files.items():
        (source / name).write_bytes(content)
    download(str(source), "main", out)
    assert {path.name for path in out.iterdir()} == EXPECTED | {"download.json"}
    assert (out / SHARDS[0]).resolve() == source / SHARDS[0]
    assert not (source / "download.json").exists()
    download(str(source), "main", out)  # a second call finds it complete
    os.truncate(source / SHARDS[1], 1000)
    with pytest.raises(ValueError, match=SHARDS[1]):
        download(str(source), "main", out.with_name("other"))
    assert list(out.parent.iterdir()) == [out]


def environment(hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
    }


def test_command_ends_with_one_line_for_a_folder_that_is_no_checkpoint(tmp_path, out, capsys):
    assert cli.main(["download", str(tmp_path), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"rlsubnet download: error: {tmp_path}: no checkpoint")
    assert error.count("\n") == 1
    assert not list(out.parent.glob("*"))
