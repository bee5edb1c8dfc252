"""Captions of the HTML report: one per item, valid reStructuredText."""

from pathlib import Path

import pytest
from docutils.core import publish_parts
from jinja2 import Template

from rlsubnet.config import ITEMS


@pytest.mark.parametrize("item", [*ITEMS, "comparison", "workflow"])
def test_caption_is_valid_and_says_how_to_read_it(item: str, repository: Path):
    text = (repository / "workflow" / "report" / f"{item}.rst").read_text()

    class Snakemake:
        config = {"scale": "demo", "results": "results/demo"}

    rendered = Template(text).render(snakemake=Snakemake)
    # Warnings would be printed into the report: make them errors.
    html = publish_parts(rendered, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert "{{" not in html
    if item != "workflow":
        kind, number = item.rstrip("0123456789"), item[-1]
        words = {"table": f"Table {number}", "fig": f"Figure {number}"}
        words |= {"section": f"Section {number}", "gains": "Gains", "verdicts": "Verdicts"}
        words |= {"comparison": "Comparison"}
        assert f"<strong>{words[kind]}" in html
        assert "How to read it" in html
