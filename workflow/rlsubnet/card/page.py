"""The page of a card: what is above all sections, and the frame around them.

It asks for nothing from outside: no script, no font, no picture; a policy in its head says so to
the browser.
"""

from html import escape
from pathlib import Path

from rlsubnet import __version__
from rlsubnet.card.facts import Facts, cautions
from rlsubnet.card.html import AT, paragraph, per_cent, section, size, unbroken
from rlsubnet.card.sections import (
    beside_the_paper,
    by_layer,
    by_magnitude,
    by_tolerance,
    delta,
    norms,
    rank,
    rank_shares,
)
from rlsubnet.measure.sparsity import TABLE_TOLERANCE

PAPER = "https://arxiv.org/abs/2505.11711"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_LINKS = {
    "tolerance": "Tolerance",
    "layers": "Layers and matrices",
    "rank": "Rank",
    "norms": "Size of the update",
    "magnitude": "Small and large weights",
    "delta": "Storage",
    "paper": "The paper's models",
    "about": "How it was measured",
}


def short_name(source: str) -> str:
    """Return what tells a checkpoint in a heading: the last parts of its path.

    >>> short_name("work/demo/runs/dpo/final"), short_name("hf:org/model@0123abc")
    ('dpo/final', 'org/model')
    """
    if source.startswith("hf:"):
        return source.removeprefix("hf:").partition("@")[0]
    path = Path(source)
    path = path.parent if path.suffix in (".safetensors", ".bin") else path
    parts = [part for part in path.parts if part not in ("/", "..", ".")]
    plain = parts[-1:] and parts[-1] not in ("final", "init", "tuned")
    return "/".join(parts[-1:] if plain else parts[-2:]) or source


def _glance(facts: Facts) -> str:
    counts = facts.counts
    sparsity = counts.sparsity("official", TABLE_TOLERANCE)
    same = 1 - counts.bitwise_changed / counts.numel
    moved = counts.numel - counts.unchanged["official", TABLE_TOLERANCE]
    rounded = "" if facts.dtypes == {"BF16"} else " once rounded to bfloat16,"
    alike = "of the weights have the same bits"
    if any(tensor.dtypes[0] != tensor.dtypes[1] for tensor in facts.tensors):
        alike += ", both rounded to bfloat16"
    tiles = [
        (per_cent(same), alike),
        (per_cent(facts.norms.relative, 3), "length of the update beside that of the weights"),
    ]
    if facts.ranks:
        tiles.append(
            (
                per_cent(rank_shares(facts.ranks)[0]),
                "of the largest rank, mean of the update matrices",
            )
        )
    if not facts.quantized:
        small = sum(tensor.delta_bytes for tensor in facts.tensors)
        full = sum(tensor.full_bytes for tensor in facts.tensors)
        tiles.append(
            (per_cent(small / full, 1), f"of {size(full)} is enough to store the difference")
        )
    boxes = "".join(
        f"<li><strong>{escape(value)}</strong><span>{escape(what)}</span></li>"
        for value, what in tiles
    )
    return (
        f'<div class="headline"><div class="big">{escape(per_cent(sparsity, 1))}</div>'
        f"<p>of the {counts.numel:,} weights are unchanged after finetuning:{rounded} they "
        f"moved by no more than {AT}. The paper calls this share the <em>update sparsity</em>. "
        f"{moved:,} weights moved further.</p></div>"
        f'<ul class="tiles">{boxes}</ul>'
    )


def _cautions(facts: Facts) -> str:
    found = cautions(facts)
    if not found:
        return ""
    items = "".join(f"<li>{escape(words)}</li>" for words in found)
    return (
        '<aside class="cautions" aria-labelledby="cautions-h">'
        f'<h2 id="cautions-h">Before you quote a number</h2><ul>{items}</ul></aside>'
    )


def _about(facts: Facts) -> str:
    rows = "".join(
        f"<dt>{what}</dt><dd><code>{escape(name)}</code><br>SHA-256 of its weights "
        f"<code>{digest}</code></dd>"
        for what, name, digest in zip(("before", "after"), facts.names, facts.digests, strict=True)
    )
    control = f" The random control of the ranks has seed {facts.seed}." if facts.ranks else ""
    return section(
        "about",
        "How it was measured",
        f'<dl class="sides">{rows}</dl>',
        paragraph(
            "Every weight of both files was compared; heads that are tied to the embedding count "
            "once, and computed buffers not at all. Shares are of weights, not means over "
            f"matrices.{control} Ranks are those of the authors' code: singular values above "
            "max(rows, columns) times the float32 epsilon times the largest, without layer norms "
            "and vectors."
        ),
    )


def card_page(facts: Facts) -> str:
    """Return a card as one HTML page."""
    before, after = (escape(short_name(name)) for name in facts.names)
    sections = [
        by_tolerance(facts),
        by_layer(facts),
        rank(facts),
        norms(facts),
        by_magnitude(facts),
        delta(facts),
        beside_the_paper(facts),
        _about(facts),
    ]
    links = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name in _LINKS.items())
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="rlsubnet {__version__}">
<link rel="icon" href="data:,">
<title>What finetuning changed: {after}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the numbers</a>
<header>
<h1>What finetuning changed: {before} → {after}</h1>
<p>Finetuning starts from a model and changes its weights, the numbers that it is made of. This page
compares the two weight by weight. <a href="{PAPER}">A paper on reinforcement learning of language
models</a> (arXiv 2505.11711) found that most weights stay as they were; the page shows the same
measurements for this pair.</p>
</header>
<main id="main">
{_glance(facts)}
{_cautions(facts)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{"".join(sections)}
</main>
<footer>Made by <code>rlsubnet card INIT TUNED</code>, version {__version__}. The page is one file
and loads nothing.</footer>
</body>
</html>
"""
    return unbroken(page)
