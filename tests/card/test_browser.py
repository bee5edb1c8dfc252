"""The card in a real browser: what it asks for, and how it lies on screens of several widths."""

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from rlsubnet.cli import main
from tests.card.test_card import as_bfloat16, llama, moved, write_pair

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
    pytest.mark.slow,
]


def requests_of_pages(log: Path) -> list[str]:
    """Return what pages asked for, by the browser's own record of all requests.

    The browser asks for this and that by itself; what a page asks for has the page as initiator.
    """
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    found = [event.get("params", {}) for event in events]
    return [params["url"] for params in found if "card.test" in str(params.get("initiator", ""))]


Look = Callable[[bytes, str], tuple[str, list[str]]]


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Look]:
    """Return a function that opens a page in a browser: its DOM, and what the page asked for.

    ``/card.html`` is the page, ``/probe.html`` notes how that lies in a frame of several widths.
    """
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(Path(__file__).with_name("probe.html"), served)
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def open_page(page: bytes, path: str) -> tuple[str, list[str]]:
        (served / "card.html").write_bytes(page)
        log = tmp_path / "requests.json"
        command = [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            # A new one each time, with an empty cache.
            f"--user-data-dir={tempfile.mkdtemp(dir=tmp_path)}",
            # Whatever the name: nothing leaves this machine.
            f"--host-resolver-rules=MAP * 127.0.0.1:{server.server_address[1]}",
            f"--log-net-log={log}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"http://card.test{path}",
        ]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        return done.stdout.decode(), requests_of_pages(log)

    yield open_page
    server.shutdown()
    server.server_close()


def card(folder: Path, layers: int) -> bytes:
    before = as_bfloat16(llama(layers))
    after = as_bfloat16(moved(before))
    after["lm_head.weight"] = torch.cat([after["lm_head.weight"], torch.ones(2, 16).bfloat16()])
    init, tuned = write_pair(folder, before, after)
    out = folder / "card.html"
    command = ["card", str(init), str(tuned), "--common-rows", "lm_head.weight", "--out", str(out)]
    assert main(command) == 0
    return out.read_bytes()


def test_the_page_asks_for_nothing(look: Look, tmp_path: Path) -> None:
    page = card(tmp_path, 2)
    dom, asked = look(page, "/card.html")
    assert "of the layer-norm weights" in dom
    assert asked == []
    # The record would show it: the same page with a picture, and without its own policy.
    strict = page.replace(b"</main>", b'<img src="https://elsewhere.test/x.png"></main>')
    loose = re.sub(rb"<meta http-equiv.*?>", b"", strict)
    assert "https://elsewhere.test/x.png" in look(loose, "/card.html")[1]
    # With its policy, even that page gets nothing from anywhere.
    assert look(strict, "/card.html")[1] == []


@pytest.mark.parametrize("layers", [1, 40])
def test_nothing_lies_outside_or_on_top_of_something_else(
    look: Look, tmp_path: Path, layers: int
) -> None:
    dom, _ = look(card(tmp_path, layers), "/probe.html")
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    found = json.loads(unescape(text))
    assert found["charts"] >= 6
    assert "What finetuning changed" in found["text"]
    for width, seen in found["widths"].items():
        assert (seen["beyond"], seen["scrolls"]) == ([], False), width
        assert seen["outside"] == [], width
        assert seen["covered"] == [], width
