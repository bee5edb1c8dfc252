"""The card: its numbers are those of the other commands, its page is sound and asks for nothing."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import torch

from rlsubnet.card import facts
from rlsubnet.card.facts import Facts, cautions, measure_facts
from rlsubnet.card.page import card_page
from rlsubnet.checkpoints.checkpoint import Checkpoint, StoredWeights
from rlsubnet.checkpoints.delta_codec import HEADER
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.pair import pair_checkpoints
from rlsubnet.checkpoints.structure import read_delta
from rlsubnet.cli import main
from rlsubnet.data import load_published
from rlsubnet.measure.sparsity import TOLERANCES
from tests.checkpoints.checkpoint_files import count_updates, write_checkpoint

Weights = dict[str, torch.Tensor]
NORM = "model.layers.0.input_layernorm.weight"
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
        name: torch.ones(shape)
        if len(shape) == 1
        else 0.02 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def moved(weights: Weights, drift: float = 2e-5) -> Weights:
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + drift * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def as_bfloat16(weights: Weights) -> Weights:
    return {name: tensor.bfloat16() for name, tensor in weights.items()}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    before = as_bfloat16(llama())
    after = as_bfloat16(moved({name: tensor.float() for name, tensor in before.items()}))
    return (
        write_checkpoint(tmp_path / "init", before),
        write_checkpoint(tmp_path / "tuned", after, "sharded"),
    )


def facts_of(init: Path, tuned: Path, *common_rows: str) -> Facts:
    return measure_facts(pair_checkpoints(Checkpoint(init), Checkpoint(tuned), common_rows))


def test_the_facts_are_those_of_the_other_commands(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    facts = facts_of(*folders)
    pair = pair_checkpoints(*map(Checkpoint, folders))
    assert {t.name: t.counts for t in facts.tensors} == count_updates(pair, TOLERANCES)
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
    pack(StoredWeights(folders[0]), StoredWeights(folders[1]), tmp_path / "x.delta")
    stored = Delta(tmp_path / "x.delta")
    told = {t.name: t.delta_bytes for t in facts.tensors if t.counts.bitwise_changed}
    assert told == {name: stored.stored_bytes(name) for name in told}


class Outline(HTMLParser):
    """Collects what a page links to and loads, and checks that its elements nest."""

    VOID = frozenset(("meta", "link", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if tag == "a" and key == "href":
                self.links.append(str(value))
            elif key in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
                self.addresses.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def text_of(page: str) -> str:
    return " ".join(" ".join(outline(page).words).replace("\u00a0", " ").split())


def test_the_page_is_whole_and_loads_nothing(folders: tuple[Path, Path]) -> None:
    page = card_page(facts_of(*folders))
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links if link[0] == "#"} <= set(found.ids)
    assert found.addresses == ["data:,"]
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert {urlsplit(link).hostname for link in found.links if link[0] != "#"} == {"arxiv.org"}
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
        assert 'aria-label="' in drawing or 'aria-hidden="true"' in drawing
    assert "nan" not in text_of(page).lower().split()


def test_every_number_of_a_chart_stands_in_a_table(folders: tuple[Path, Path]) -> None:
    facts = facts_of(*folders)
    page = card_page(facts)
    text = text_of(page)
    counts = facts.counts
    for rule in ("official", "exact"):
        for atol in TOLERANCES:
            assert f"{100 * counts.sparsity(rule, atol):.2f} %" in text
    for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
        if 'class="chart"' in section and 'id="delta"' not in section:
            assert "<table>" in section
    for name in ("q_proj", "up_proj", "input_layernorm", "lm_head", "this pair"):
        assert name in text


def test_names_from_outside_cannot_write_into_the_page(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>&"'
    before = {**as_bfloat16(llama(1)), f"model.layers.0.{hostile}.weight": torch.ones(4, 4)}
    after = {name: tensor * 2 for name, tensor in before.items()}
    folder = tmp_path / "<b>x"
    page = card_page(
        facts_of(
            write_checkpoint(folder / "init", before), write_checkpoint(folder / "tuned", after)
        )
    )
    found = outline(page)
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert hostile in text_of(page).replace("\u00a0", " ")


def with_dtypes(before: Weights, after: Weights) -> tuple[Weights, Weights]:
    return before, as_bfloat16(after)


CASES: dict[str, tuple[Callable[[Weights, Weights], tuple[Weights, Weights]], str]] = {
    "norms": (lambda a, b: (as_bfloat16(a), as_bfloat16(b)), "100 % of the layer-norm weights"),
    "types": (with_dtypes, "Stored types differ in 12 tensors (F32 against BF16)"),
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
    before, after = change(llama(), moved(llama()))
    facts = facts_of(
        write_checkpoint(tmp_path / "init", before), write_checkpoint(tmp_path / "tuned", after)
    )
    said = " ".join(cautions(facts))
    assert words in said
    text = text_of(card_page(facts))
    assert words in text
    rounded = "once rounded to bfloat16, they moved by no more than 10⁻⁵" in text
    assert rounded == (case in ("types", "float32"))
    # Where the official rule rounds, what it says is not the tolerance's doing.
    assert ("The tolerance makes" in said) == (case in ("norms", "tolerance"))


@pytest.mark.parametrize("trained", [True, False])
def test_layer_norms_that_could_have_moved_are_not_called_frozen_by_rounding(
    tmp_path: Path, trained: bool
) -> None:
    before = as_bfloat16(llama())
    after = as_bfloat16(moved({k: v.float() for k, v in before.items()}, 0.05))
    if not trained:  # left out of the training, which moved the others by many steps
        after |= {name: tensor for name, tensor in before.items() if tensor.ndim == 1}
    facts = facts_of(
        write_checkpoint(tmp_path / "init", before), write_checkpoint(tmp_path / "tuned", after)
    )
    assert not any("layer-norm" in words for words in cautions(facts))


def test_a_resized_vocabulary_is_said_and_its_new_rows_are_stored(tmp_path: Path) -> None:
    before = as_bfloat16(llama())
    after = {**before, EMBEDDING: torch.cat([before[EMBEDDING], torch.ones(8, 16).bfloat16()])}
    folders = (
        write_checkpoint(tmp_path / "init", before), write_checkpoint(tmp_path / "tuned", after)
    )  # fmt: skip
    facts = facts_of(*folders, EMBEDDING)
    assert f"{EMBEDDING} has 50 and 58 rows: the first 50 count." in cautions(facts)
    (embedding,) = (t for t in facts.tensors if t.name == EMBEDDING)
    assert embedding.counts.numel == 50 * 16
    assert embedding.full_bytes == 58 * 16 * 2
    assert embedding.delta_bytes > 2 * HEADER.size  # more than two blocks without a change


def test_the_paper_beside_it_is_that_of_the_published_numbers() -> None:
    published = load_published()
    rows = published["table6"]["rows"]
    table6 = {row["rl"].rpartition("/")[2]: row for row in rows}
    table1 = {row["rl"]: row for row in published["table1"]["rows"]}
    for model in facts.MODELS:
        if model.name in table6:
            row = table6.pop(model.name)
            assert (model.sparsity, model.without) == (row["sparsity"][-1], row["sparsity"][0])
        else:
            assert (model.sparsity, model.without) == (table1[model.name]["sparsity"], None)
    assert not table6
    known = {model.name for model in facts.MODELS}
    assert set(table1) <= known
    for place, atol in enumerate(published["table6"]["tolerances"]):
        values = [row["sparsity"][place] for row in rows]
        assert facts.TOLERANCE_RANGE[atol] == (min(values), max(values))
    ranks = [row["update_rank"] for row in published["table2"]["rows"]]
    assert (min(ranks), max(ranks)) == facts.RANK_RANGE
    range_ = published["headline"]["sft_sparsity_range"]
    assert (range_["low"], range_["high"]) == facts.SFT_RANGE


def test_the_command_writes_the_same_page_twice(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = list(map(str, folders))
    pages = [tmp_path / name for name in ("a.html", "b.html", "c.html")]
    assert main(["card", *sides, "--out", str(pages[0])]) == 0
    assert main(["card", *sides, "--out", str(pages[1]), "--threads", "2"]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert main(["card", *sides, "--out", str(pages[2]), "--no-rank"]) == 0
    assert "Ranks were not taken." in text_of(pages[2].read_text(encoding="utf-8"))
    assert main(["card", sides[0], str(tmp_path / "none"), "--out", str(tmp_path / "d.html")]) == 1
    assert "rlsubnet card: error: " in capsys.readouterr().err
    assert not (tmp_path / "d.html").exists()


def test_weights_outside_any_layer_alone_make_a_card(tmp_path: Path) -> None:
    before = {"a": torch.randn(6, 4).bfloat16(), "zero": torch.zeros(4)}
    after = {"a": before["a"] * 2, "zero": torch.zeros(4)}
    page = card_page(
        facts_of(
            write_checkpoint(tmp_path / "init", before), write_checkpoint(tmp_path / "tuned", after)
        )
    )
    assert "4 weights that are zero are not shown." in text_of(page)
