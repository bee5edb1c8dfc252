"""The page of a card: the numbers, rows and charts that ``card.html.j2`` puts into words.

It asks for nothing from outside: no script, no font, no picture; a policy in its head says so to
the browser.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jinja2

from rlsubnet import __version__
from rlsubnet.card import charts
from rlsubnet.card.charts import Band, Bar, DotRow, Series
from rlsubnet.card.facts import EXPONENT_BIAS, Facts, Tensors, frozen_norms, step_size
from rlsubnet.checkpoints.structure import MatrixRank
from rlsubnet.data import Published, load_published
from rlsubnet.measure.rank import mean_rank_share
from rlsubnet.measure.sparsity import RULES, TABLE_TOLERANCE, TOLERANCES

# Share of the weights from which on the tolerance's doing is worth a word.
_WORTH_A_WORD = 0.02
# Bins with a smaller share of the weights than this are left out at both ends.
_SMALL_BIN = 1e-5
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# What the template reads by the name of a section.
Section = dict[str, Any]


def per_cent(share: float, digits: int = 2) -> str:
    """Return a share in [0, 1] in per cent; what is not all or nothing never reads so.

    >>> per_cent(0.7604), per_cent(1.0), per_cent(0.999999), per_cent(0.000001)
    ('76.04 %', '100 %', '> 99.99 %', '< 0.01 %')
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    least = 10.0**-digits
    if 100 * share < least:
        return f"< {least:.{digits}f} %"
    if 100 * share > 100 - least:
        return f"> {100 - least:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def power(value: float) -> str:
    """Return a power of ten as one writes it.

    >>> power(1e-5)
    '10⁻⁵'
    """
    return "10" + str(round(math.log10(value))).translate(_RAISED)


def measured(value: float) -> str:
    """Return a number with two digits, small ones as a power of ten.

    >>> measured(0.0078125), measured(9.7e-05), measured(0.0)
    ('0.0078', '9.7 × 10⁻⁵', '0')
    """
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.2g}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} × {power(10.0 ** int(exponent))}"


def size(nbytes: float) -> str:
    """Return a number of bytes in the unit that reads best.

    >>> size(980), size(16_060_522_240)
    ('980 B', '16.06 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes:.0f} B"


def unbroken(page: str) -> str:
    """Return a page whose numbers stay on the line of their units.

    >>> unbroken("13.0 % of 520.06 kB").count("\\u00a0")
    2
    """
    return re.sub(r"(?<=\d) (?=(?:%|kB|MB|GB|B)(?!\w))|(?<=×) | (?=×)", "\u00a0", page)


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


# The tolerance of the paper's tables, as the page writes it.
AT = power(TABLE_TOLERANCE)


def capitalized(note: str) -> str:
    """Return a note with a capital in front, unless it begins with a name."""
    return note[0].upper() + note[1:] if note.partition(" ")[0].isalpha() else note


def by_tolerance(tensors: Tensors, published: Published) -> Section:
    """Return what counts as unchanged at each tolerance, beside the range of Table 6."""
    labels, counts = ["same bits", *map(power, TOLERANCES)], tensors.counts
    shares = [
        [tensors.same_bits, *(counts.sparsity(rule, atol) for atol in TOLERANCES)] for rule in RULES
    ]
    series = [
        Series(f"this pair, {rule} rule", _points(enumerate(found)), look, ("main", "over")[look])
        for look, (rule, found) in enumerate(zip(RULES, shares, strict=True))
    ]
    table6 = published["table6"]
    columns = zip(table6["tolerances"], *(row["sparsity"] for row in table6["rows"]), strict=True)
    band = Band(
        "the paper's 12 models, lowest to highest (Table 6)",
        tuple((TOLERANCES.index(atol) + 1.0, min(col), max(col)) for atol, *col in columns),
    )
    # In other types the official rule rounds first: that is not the tolerance's doing.
    hides = tensors.sparsity - tensors.same_bits if tensors.dtypes == {"BF16"} else 0.0
    places = {float(place): label for place, label in enumerate(labels)}
    title = "Sparsity against tolerance"
    return {
        "hides": hides if hides >= _WORTH_A_WORD else 0.0,
        "chart": charts.line_chart(title, series, places, "tolerance", band, ceiling=100.0),
        "legend": charts.legend(series, band),
        "rows": [(label, *map(per_cent, row)) for label, *row in zip(labels, *shares, strict=True)],
    }


def _points(shares: Iterable[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(place), 100 * share) for place, share in shares)


def layer_chart(
    title: str, tensors: Tensors, share: Callable[[Tensors], float], **axis: Any
) -> Section:
    """Return a line over the layers of all weights, and one per matrix kind, vectors in grey.

    Without layers there is no chart.
    """
    if not tensors.inside:
        return {"chart": ""}

    def points(part: Tensors) -> tuple[tuple[float, float], ...]:
        return _points((layer, share(found)) for layer, found in part.by_layer().items())

    kinds = tensors.inside.by_kind()
    series = [Series("whole layer", points(tensors), len(kinds), "main")]
    for look, (kind, part) in enumerate(kinds.items()):
        series.append(Series(kind, points(part), look, "faint" if part.are_vectors else ""))
    labels = {float(layer): str(layer) for layer in tensors.by_layer()}
    chart = charts.line_chart(title, series, labels, "layer", **axis)
    return {"chart": chart, "legend": charts.legend(series)}


def by_layer(tensors: Tensors) -> Section:
    """Return sparsity by layer and matrix, as Figure 3 of the paper has it."""
    kinds, layers = list(tensors.inside.by_kind()), tensors.by_layer()
    title = "Sparsity by layer and matrix"
    return {
        **layer_chart(title, tensors, lambda part: part.sparsity, ceiling=100.0, height=380),
        "rows": [
            *((kind, *_shares(part)) for kind, part in tensors.by_kind().items()),
            ("all", *_shares(tensors)),
        ],
        "kinds": kinds,
        "layer_rows": [(str(layer), *_by_kind(part, kinds)) for layer, part in layers.items()],
    }


def _shares(tensors: Tensors) -> tuple[str, ...]:
    """Return weights and three readings of their sparsity, as the tables print them."""
    counts = tensors.counts
    found = (*(counts.sparsity(rule, TABLE_TOLERANCE) for rule in RULES), tensors.same_bits)
    return (f"{counts.numel:,}", *map(per_cent, found))


def _by_kind(layer: Tensors, kinds: Sequence[str]) -> list[str]:
    """Return the sparsity of a layer, and of each kind in it."""
    found = [layer, *map(layer.by_kind().get, kinds)]
    return [per_cent(part.sparsity) if part else "none" for part in found]


def rank_shares(ranks: Sequence[MatrixRank]) -> tuple[float, float]:
    """Return the mean share of the largest rank, of the updates and of their controls."""
    return (
        mean_rank_share((rank.measured.rank, rank.max_rank) for rank in ranks),
        mean_rank_share((rank.control, rank.max_rank) for rank in ranks),
    )


def _rank_chart(of_kinds: dict[str, list[MatrixRank]]) -> str:
    rows, lowest = [], 100.0
    for kind, ranks in of_kinds.items():
        dots = []
        for rank in ranks:
            found, most = rank.measured.rank, rank.max_rank
            dots.append((100 * found / most, "dot", f"{rank.tensor}: rank {found} of {most}"))
        control = 100 * rank_shares(ranks)[1]
        dots.append((control, "cross", f"random control, {kind}: {control:.2f} % on average"))
        lowest = min(lowest, *(value for value, _, _ in dots))
        rows.append(DotRow(kind, tuple(dots)))
    low = max(0.0, lowest - max(1.0, (100 - lowest) * 0.1))
    title = "Rank of the update of every matrix"
    return charts.dot_rows(title, rows, "rank of the update, % of the largest possible", low, 100.0)


def _rank_row(kind: str, ranks: Sequence[MatrixRank]) -> tuple[str, ...]:
    mean, control = rank_shares(ranks)
    lowest = min(ranks, key=lambda one: one.measured.rank / one.max_rank)
    effective = fmean(one.measured.effective_rank / one.max_rank for one in ranks)
    stable = fmean(one.measured.stable_rank / one.max_rank for one in ranks)
    low = f"{lowest.measured.rank} of {lowest.max_rank}"
    return kind, str(len(ranks)), per_cent(mean), low, *map(per_cent, (control, effective, stable))


def rank(tensors: Tensors, published: Published) -> Section:
    """Return the ranks of all update matrices, nothing where they were not taken."""
    if not (ranks := tensors.ranks):
        return {}
    with_ranks = Tensors(t for t in tensors if t.ranks)
    of_kinds = {kind: part.ranks for kind, part in with_ranks.by_kind().items()}
    mean, control = rank_shares(ranks)
    printed = [row["update_rank"] for row in published["table2"]["rows"]]
    all_full = all(one.measured.rank == one.control == one.max_rank for one in ranks)
    return {
        "number": len(ranks),
        "mean": mean,
        "control": control,
        # Below the largest possible one, with the control's, within one.
        "like_the_control": sum(
            one.measured.rank < one.max_rank and abs(one.measured.rank - one.control) <= 1
            for one in ranks
        ),
        "printed": (min(printed), max(printed)),
        # One sentence does where all points of the chart would be one.
        "chart": "" if all_full else _rank_chart(of_kinds),
        "rows": [_rank_row(kind, ranks) for kind, ranks in of_kinds.items()],
    }


def norms(tensors: Tensors) -> Section:
    """Return how far the weights moved."""
    rows = []
    for kind, part in {**tensors.by_kind(), "all": tensors}.items():
        found = part.norms
        sizes = f"{found.init:.4g}", measured(found.update), per_cent(found.relative, 3)
        moves = measured(found.update_rms), measured(part.counts.max_abs_diff)
        rows.append((kind, *sizes, *moves))
    title = "Relative size of the update by layer"
    return {"rows": rows, **layer_chart(title, tensors, lambda part: part.norms.relative)}


def by_magnitude(tensors: Tensors) -> Section:
    """Return how visible a change is in small and large weights; no bars where all are zero."""
    counts = tensors.by_exponent
    weights, total = counts[:, 0], int(counts[:, 0].sum())
    kept = [e for e in range(1, len(weights)) if weights[e] >= max(1, _SMALL_BIN * total)]
    if not kept:
        return {}
    bars, rows = [], []
    for exponent in range(kept[0], kept[-1] + 1):
        here, changed = counts[exponent].tolist()
        low = 2.0 ** (exponent - EXPONENT_BIAS)
        share, density = here / total, changed / here if here else 0.0
        span = f"{measured(low)} to {measured(2 * low)}"
        hint = f"{span}: {per_cent(share)} of the weights, of which {per_cent(density)} changed"
        # Where float32 is stored, all steps are finer than the tolerance.
        shaded = tensors.dtypes == {"BF16"} and step_size(low) <= TABLE_TOLERANCE
        bars.append(Bar(measured(low), 100 * share, 100 * density, hint, shaded))
        rows.append((span, f"{here:,}", f"{changed:,}", per_cent(density)))
    return {
        "chart": charts.bar_panels(
            "Weights and changed weights by magnitude",
            bars,
            ("share of all weights", "changed, of the weights of this size (any bit)"),
            "size of the weight before finetuning: each bar from its label to twice that",
        ),
        "rows": rows,
        "zeros": int(weights[0]),
        "left_out": total - int(weights[0]) - int(weights[kept[0] : kept[-1] + 1].sum()),
        "shaded": any(bar.shaded for bar in bars),
    }


def delta(facts: Facts) -> Section:
    """Return what it takes to store the update, nothing for fp8 codes, whose delta is another."""
    if facts.quantized:
        return {}
    stored = sum(tensor.delta_bytes for tensor in facts.tensors)
    full = sum(tensor.full_bytes for tensor in facts.tensors)
    share = stored / full
    label = f"{size(stored)}, {per_cent(share, 1)} of {size(full)}"
    chart = charts.share_bar("Size of a delta beside the file", share, label)
    return {"share": share, "full": full, "label": label, "chart": chart}


class Model(NamedTuple):
    """A model among those of the paper, in per cent as printed there.

    ``sparsity`` is that at 1e-5, ``without`` that at 1e-8, in effect without a tolerance; None
    where the paper does not print it.
    """

    name: str
    sparsity: float
    without: float | None


def paper_models(published: Published) -> list[Model]:
    """Return the models of Table 6, then those that Table 1 alone has."""
    table1 = {row["rl"]: row for row in published["table1"]["rows"]}
    table6 = {row["rl"].rpartition("/")[2]: row for row in published["table6"]["rows"]}
    methods = {name: row["algo"] for name, row in {**table6, **table1}.items()}
    printed = {name: (row["sparsity"], None) for name, row in table1.items()}
    printed |= {name: (row["sparsity"][-1], row["sparsity"][0]) for name, row in table6.items()}
    return [
        Model(f"{name} ({methods[name]})", *printed[name])
        for name in [*table6, *(name for name in table1 if name not in table6)]
    ]


def beside_the_paper(tensors: Tensors, published: Published) -> Section:
    """Return this pair among the models that the paper measured."""
    changed = tensors.counts.bitwise_changed / tensors.counts.numel
    ours = Model("this pair", 100 * tensors.sparsity, 100 - 100 * changed)
    models = sorted([*paper_models(published), ours], key=lambda model: -model.sparsity)
    rows = []
    for model in models:
        dots = [(model.sparsity, "dot", f"{model.name}: {model.sparsity:.2f} % at {AT}")]
        if model.without is not None:
            smallest = "same bits" if model is ours else f"at {power(1e-8)}"
            hint = f"{model.name}: {model.without:.2f} %, {smallest}"
            dots.insert(0, (model.without, "hollow", hint))
        rows.append(DotRow(model.name, tuple(dots), model is ours))
    range_ = published["headline"]["sft_sparsity_range"]
    low, high = range_["low"], range_["high"]
    return {
        "chart": charts.dot_rows(
            "Sparsity of this pair and of the paper's models",
            rows,
            "share of unchanged weights",
            0.0,
            100.0,
            (low, high, f"supervised finetuning in the paper: {low:g} to {high:g} %"),
        ),
        "sft": (low, high),
        "rows": [
            (name, "not printed" if without is None else f"{without:.2f} %", f"{sparsity:.2f} %")
            for name, sparsity, without in models
        ],
        "ours": models.index(ours),
    }


def card_page(facts: Facts) -> str:
    """Return a card as one HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (per_cent, measured, size, capitalized):
        environment.filters[word.__name__] = word
    environment.filters["number"] = "{:,}".format
    tensors, published = facts.tensors, load_published()
    counts = tensors.counts
    page = environment.get_template("card.html.j2").render(
        facts=facts,
        weights=tensors,
        version=__version__,
        at=AT,
        names=[short_name(name) for name in facts.names],
        # The one type in which all weights are stored, if there is one.
        all_in="".join(tensors.dtypes) if len(tensors.dtypes) == 1 else "",
        retyped=any(before != after for before, after in (t.dtypes for t in tensors)),
        moved=counts.numel - counts.unchanged["official", TABLE_TOLERANCE],
        exact=counts.sparsity("exact", TABLE_TOLERANCE),
        frozen=frozen_norms(tensors),
        tolerance=by_tolerance(tensors, published),
        layers=by_layer(tensors),
        rank=rank(tensors, published),
        norms=norms(tensors),
        magnitude=by_magnitude(tensors),
        delta=delta(facts),
        paper=beside_the_paper(tensors, published),
    )
    return unbroken(page.lstrip())
