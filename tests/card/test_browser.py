"""The card in a real browser: what it asks for, and how it lies on screens of several widths."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

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

# Looks at the card in a frame, at several widths, with all parts open, and notes what it finds.
PROBE = """<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head><body>
<iframe id="card" src="/card.html" height="3000"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("card");
const overlap = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                       && a.top < b.bottom - 1 && b.top < a.bottom - 1;
frame.onload = () => {
  const page = frame.contentDocument, found = {widths: {}, text: page.body.innerText};
  page.querySelectorAll("details").forEach(part => part.open = true);
  for (const width of [360, 800, 1400]) {
    frame.style.width = width + "px"; // what is asked below is laid out anew first
    const outside = [], covered = [];
    page.querySelectorAll("svg.chart").forEach(chart => {
      const box = chart.getBoundingClientRect();
      const words = [...chart.querySelectorAll("text")].map(
        text => [text.textContent, text.getBoundingClientRect()]);
      words.forEach(([text, at], i) => {
        if (at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1)
          outside.push(text);
        words.slice(i + 1).forEach(([other, there]) => {
          if (overlap(at, there)) covered.push(text + " | " + other);
        });
      });
    });
    const root = page.documentElement;
    const beyond = [...page.querySelectorAll("body *")].filter(
      part => !part.closest(".scroll") && part.getBoundingClientRect().right > root.clientWidth + 1
    ).map(part => part.outerHTML.slice(0, 80));
    found.widths[width] = {scrolls: root.scrollWidth > root.clientWidth, beyond, outside, covered};
  }
  found.charts = page.querySelectorAll("svg.chart").length;
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script></body></html>"""


class Handler(BaseHTTPRequestHandler):
    """Serves the pages of a test."""

    pages: ClassVar[dict[str, bytes]] = {}

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        content = self.pages.get(self.path, b"")
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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
    """Return a function that opens a page in a browser: its DOM, and what the page asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def open_page(page: bytes, path: str) -> tuple[str, list[str]]:
        Handler.pages = {"/card.html": page, "/probe.html": PROBE.encode()}
        log = tmp_path / "requests.json"
        command = [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={tmp_path / 'profile'}",
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
