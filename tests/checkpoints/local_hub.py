"""A real HTTP server on 127.0.0.1 that speaks the Hugging Face hub's API and file layout."""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY, INIT, TUNED = "org/tiny", "org/init", "org/tuned"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class LocalHub:
    """The files of one repository, and the faults that the next requests for a file run into."""

    files: dict[str, bytes]
    kind: str = "models"
    faults: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)
    wrong_digest: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""
    name: str = REPOSITORY
    others: "list[LocalHub]" = field(default_factory=list)

    def fetched(self) -> list[str]:
        """Return the names of the files that were asked for, in order."""
        return [name for name, _ in self.requests]

    def siblings(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith((".safetensors", ".bin", ".pth", ".gguf")):
                digest = hashlib.sha256(content).hexdigest()
                digest = "0" * 64 if name == self.wrong_digest else digest
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries


def make_handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.authorizations.append((path, self.headers.get("Authorization")))
            api = f"/api/{hub.kind}/"
            folder = "" if hub.kind == "models" else f"/{hub.kind}"
            for one in (hub, *hub.others):
                files, cdn = f"{folder}/{one.name}/resolve/{COMMIT}/", f"/cdn/{one.name}/"
                if path.startswith(f"{api}{one.name}/"):
                    self.answer_api(one, path.removeprefix(api))
                elif path.startswith(files):
                    self.answer_file(one, path.removeprefix(files))
                elif path.startswith(cdn):
                    self.send_file(one, path.removeprefix(cdn))
                else:
                    continue
                return
            self.refuse(404, "RepoNotFound" if path.startswith(api) else "EntryNotFound")

        def answer_api(self, hub: LocalHub, path: str) -> None:
            name, _, revision = path.partition("/revision/")
            if revision not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            elif hub.faults.get("listing"):
                self.refuse(hub.faults["listing"].pop(0))
            else:
                assert urlsplit(self.path).query == "blobs=true"
                body = {"id": name, "sha": COMMIT, "siblings": hub.siblings()}
                self.send(200, json.dumps(body).encode())

        def answer_file(self, hub: LocalHub, name: str) -> None:
            hub.requests.append((name, self.headers.get("Range")))
            fault = hub.faults[name].pop(0) if hub.faults.get(name) else None
            if fault == "gated":
                self.refuse(403, "GatedRepo")
            elif fault == "moved":
                # Another host name, as the hub's storage has: no token may travel there.
                port = self.server.server_address[1]
                self.send(302, b"", Location=f"http://localhost:{port}/cdn/{hub.name}/{name}")
            elif isinstance(fault, int):
                self.refuse(fault)
            elif fault and fault[0] == "busy":
                self.send(429, b"{}", **{"Retry-After": str(fault[1])})
            else:
                self.send_file(hub, name, fault)

        def send_file(self, hub: LocalHub, name: str, fault: tuple[str, int] | None = None) -> None:
            content = hub.files[name]
            wanted = (self.headers.get("Range") or "bytes=0-")[len("bytes=") :]
            start, last = int(wanted.partition("-")[0]), wanted.partition("-")[2]
            content = content[: int(last) + 1] if last else content
            if fault and fault[0] == "corrupt":
                content = content[: fault[1]] + b"?" + content[fault[1] + 1 :]
                fault = None
            elif fault and fault[0] == "long":
                content, fault = content + b"x" * fault[1], None
            elif fault and fault[0] == "short":
                content, fault = content[: max(start + 1, len(content) - fault[1])], None
            assert self.headers["Accept-Encoding"] == "identity"
            assert start < len(content), "a range that a real server would refuse"
            ranged = bool(start or last)
            self.send_response(206 if ranged else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if ranged:
                place = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", place)
            self.end_headers()
            kind, count = fault or ("whole", len(content))
            self.wfile.write(content[start : start + count])
            if kind == "stall":
                hub.stalled.set()
                hub.released.wait(30)
            if kind != "whole":
                self.close_connection = True

        def refuse(self, status: int, code: str = "") -> None:
            self.send(status, b"{}", **({"X-Error-Code": code} if code else {}))

        def send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serve(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Generator[LocalHub, None, None]:
    """Serve a hub; nothing outside 127.0.0.1 and ``tmp_path`` is touched."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    close_session()  # the library shares one client, which remembers the proxy settings
    yield hub
    hub.released.set()
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def shard_requests(hub: LocalHub) -> list[str]:
    """Return which shards were asked for as a whole, in order."""
    return [
        name
        for name, wanted in hub.requests
        if name.endswith(".safetensors") and not (wanted or "").startswith("bytes=0-")
    ]


def small_model() -> dict[str, bytes]:
    """Return the files of a repository with two shards and much that nobody needs here."""
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(size=(64, 256)).astype(np.float32) for name in ("a", "b")}
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        SHARDS[0]: save({"a": tensors["a"]}),
        SHARDS[1]: save({"b": tensors["b"]}),
        "README.md": b"a card",
        "modeling_tiny.py": b"raise SystemExit",
        "consolidated.safetensors": b"x" * 100,
        "pytorch_model.bin": b"x" * 100,
        "original/consolidated.00.pth": b"x" * 100,
    }


EXPECTED = {"config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS}
