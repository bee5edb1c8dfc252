"""The card: its numbers are those of the other commands, its page is sound and asks for nothing."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import torch

from rlsubnet.card.facts import Facts, measure_facts
from rlsubnet.card.page import Model, card_page, paper_models
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta_file import HEADER, Delta
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.pair import pair_checkpoints
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.checkpoints.structure import read_delta
from rlsubnet.cli import main
from rlsubnet.data import load_published
from rlsubnet.measure.sparsity import TOLERANCES
from tests.checkpoints.checkpoint_files import count_updates, write_checkpoint

Weights = dict[str, torch.Tensor]
Folders = tuple[Path, Path]
EMBEDDING = "model.embed_tokens.weight"


def llama(layers: int = 3) -> Weights:
    """A small model with the parts of a Llama."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (50, 16)}
    for layer in range(layers):
        inside = {"self_attn.q_proj": (16, 16), "mlp.up_proj": (40, 16), "input_layernorm": (16,)}
        shapes |= {f"model.layers.{layer}.{k}.weight": shape for k, shape in inside.items()}
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (50, 16)}
    return {
        name: 0.02 * torch.randn(shape, generator=generator) if shape[1:] else torch.ones(shape)
        for name, shape in shapes.items()
    }


def moved(weights: Weights, drift: float = 2e-5) -> Weights:
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor.float() + drift * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def as_bfloat16(weights: Weights) -> Weights:
    return {name: tensor.bfloat16() for name, tensor in weights.items()}


def write_pair(folder: Path, before: Weights, after: Weights) -> Folders:
    tuned = write_checkpoint(folder / "tuned", after, "sharded")
    return write_checkpoint(folder / "init", before), tuned


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    before = as_bfloat16(llama())
    return write_pair(tmp_path, before, as_bfloat16(moved(before)))


def facts_of(folders: Folders, *common_rows: str) -> Facts:
    return measure_facts(pair_checkpoints(*map(Checkpoint, folders), common_rows))


def test_the_facts_are_those_of_the_other_commands(folders: Folders, tmp_path: Path) -> None:
    facts = facts_of(folders)
    pair = pair_checkpoints(*map(Checkpoint, folders))
    assert {t.name: t.counts for t in facts.tensors} == dict(count_updates(pair, TOLERANCES))
    assert facts.digests == tuple(Checkpoint(folder).digest() for folder in folders)
    for tensor in facts.tensors:
        before, after = (
            torch.from_numpy(side.read(tensor.name).view("int16")).view(torch.bfloat16).double()
            for side in (pair.init, pair.tuned)
        )
        assert tensor.norms.init == pytest.approx(before.norm().item())
        assert tensor.norms.update == pytest.approx((after - before).norm().item())
        assert int(tensor.by_exponent[:, 0].sum()) == before.numel()
        assert int(tensor.by_exponent[:, 1].sum()) == int((after != before).sum())
        for rank in tensor.ranks:
            delta = torch.from_numpy(read_delta(pair, tensor.name))
            assert rank.measured.rank == int(torch.linalg.matrix_rank(delta))
    pack(FileSource(folders[0]), FileSource(folders[1]), tmp_path / "x.delta")
    stored = Delta(tmp_path / "x.delta")
    sizes = {t.name: t.delta_bytes for t in facts.tensors if t.counts.bitwise_changed}
    assert sizes == {name: stored.stored_bytes(name) for name in sizes}


class Outline(HTMLParser):
    """Collects what a page links to and loads, and checks that its elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, key, value
        self.tags: list[str] = []
        self.words: list[str] = []
        self.cautions: list[str] = []
        self.feed(page)
        assert self.open == []
        self.ids = [value for _, key, value in self.attributes if key == "id"]
        self.links = [value for tag, key, value in self.attributes if (tag, key) == ("a", "href")]
        self.text, self.cautions_text = plain(self.words), plain(self.cautions)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.attributes += [(tag, key, str(value)) for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)
        if "aside" in self.open:
            self.cautions.append(data)


def plain(words: list[str]) -> str:
    return " ".join(" ".join(words).replace("\u00a0", " ").split())


def cautions(page: str) -> str:
    return Outline(page).cautions_text


def test_the_page_is_whole_loads_nothing_and_has_the_numbers_of_its_charts(
    folders: Folders,
) -> None:
    facts = facts_of(folders)
    page = card_page(facts)
    found = Outline(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links if link[0] == "#"} <= set(found.ids)
    loading = {"src", "href", "data", "action", "poster", "srcset", "xlink:href"}
    loaded = [value for tag, key, value in found.attributes if key in loading and tag != "a"]
    assert loaded == ["data:,"]
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert {urlsplit(link).hostname for link in found.links if link[0] != "#"} == {"arxiv.org"}
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
        assert 'aria-label="' in drawing or 'aria-hidden="true"' in drawing
    assert "nan" not in found.text.lower().split()
    for rule in ("official", "exact"):
        for atol in TOLERANCES:
            assert f"{100 * facts.tensors.counts.sparsity(rule, atol):.2f} %" in found.text
    for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
        if 'class="chart"' in section and 'id="delta"' not in section:
            assert "<table>" in section
    for name in ("q_proj", "up_proj", "input_layernorm", "lm_head", "this pair"):
        assert name in found.text


def test_names_from_outside_cannot_write_into_the_page(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>&"'
    before = {**as_bfloat16(llama(1)), f"model.layers.0.{hostile}.weight": torch.ones(4, 4)}
    after = {name: tensor * 2 for name, tensor in before.items()}
    found = Outline(card_page(facts_of(write_pair(tmp_path / "<b>x", before, after))))
    assert not {"script", "b"} & set(found.tags)
    assert hostile in found.text


Change = Callable[[Weights, Weights], tuple[Weights, Weights]]
CASES: dict[str, tuple[Change, str]] = {
    "norms": (lambda a, b: (as_bfloat16(a), as_bfloat16(b)), "100 % of the layer-norm weights"),
    "types": (
        lambda a, b: (a, as_bfloat16(b)),
        "Stored types differ in 12 tensors (F32 against BF16)",
    ),
    "float32": (lambda a, b: (a, b), "Both checkpoints are stored in float32"),
    "equal": (lambda a, b: (as_bfloat16(a), as_bfloat16(a)), "the same weights, bit by bit"),
    "tolerance": (
        lambda a, b: (as_bfloat16(a), as_bfloat16(moved(as_bfloat16(a), 3e-6))),
        "The tolerance makes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_could_mislead_is_said(tmp_path: Path, case: str) -> None:
    change, words = CASES[case]
    page = card_page(facts_of(write_pair(tmp_path, *change(llama(), moved(llama())))))
    assert words in cautions(page)
    rounded = "once rounded to bfloat16, they moved by no more than 10⁻⁵" in Outline(page).text
    assert rounded == (case in ("types", "float32"))
    # Where the official rule rounds, what it says is not the tolerance's doing.
    assert ("The tolerance makes" in cautions(page)) == (case in ("norms", "tolerance"))


@pytest.mark.parametrize("trained", [True, False])
def test_layer_norms_that_could_have_moved_are_not_called_frozen_by_rounding(
    tmp_path: Path, trained: bool
) -> None:
    before = as_bfloat16(llama())
    after = as_bfloat16(moved(before, 0.05))
    if not trained:  # left out of the training, which moved the others by many steps
        after |= {name: tensor for name, tensor in before.items() if tensor.ndim == 1}
    assert "layer-norm" not in cautions(card_page(facts_of(write_pair(tmp_path, before, after))))


def test_a_resized_vocabulary_is_said_and_its_new_rows_are_stored(tmp_path: Path) -> None:
    before = as_bfloat16(llama())
    after = {**before, EMBEDDING: torch.cat([before[EMBEDDING], torch.ones(8, 16).bfloat16()])}
    facts = facts_of(write_pair(tmp_path, before, after), EMBEDDING)
    assert f"{EMBEDDING} has 50 and 58 rows: the first 50 count." in cautions(card_page(facts))
    (embedding,) = (t for t in facts.tensors if t.name == EMBEDDING)
    assert embedding.counts.numel == 50 * 16
    assert embedding.full_bytes == 58 * 16 * 2
    assert embedding.delta_bytes > 2 * HEADER.size  # more than two blocks without a change


def test_a_model_of_both_tables_has_the_numbers_of_table_6_and_the_method_of_table_1() -> None:
    models = paper_models(load_published())
    assert Model("Eurus-2-7B-PRIME (PRIME)", 77.04, 75.26) in models
    assert Model("DeepSeek-R1-Zero (GRPO)", 86.0, None) in models
    assert len(models) == 14


def test_the_command_writes_the_same_page_twice(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = list(map(str, folders))
    pages = [tmp_path / name for name in ("a.html", "b.html", "c.html")]
    assert main(["card", *sides, "--out", str(pages[0])]) == 0
    assert main(["card", *sides, "--out", str(pages[1]), "--threads", "2"]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert main(["card", *sides, "--out", str(pages[2]), "--no-rank"]) == 0
    assert "Ranks were not taken." in Outline(pages[2].read_text(encoding="utf-8")).text
    assert main(["card", sides[0], str(tmp_path / "none"), "--out", str(tmp_path / "d.html")]) == 1
    assert "rlsubnet card: error: " in capsys.readouterr().err
    assert not (tmp_path / "d.html").exists()


def test_weights_outside_any_layer_alone_make_a_card(tmp_path: Path) -> None:
    before = {"a": torch.randn(6, 4).bfloat16(), "zero": torch.zeros(4)}
    after = {"a": before["a"] * 2, "zero": torch.zeros(4)}
    page = card_page(facts_of(write_pair(tmp_path, before, after)))
    assert "4 weights that are zero are not shown." in Outline(page).text
