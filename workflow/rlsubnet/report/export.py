"""Tables as CSV, Markdown, LaTeX and HTML, figures as PNG and PDF; each file complete or absent."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from rlsubnet.files import replacing
from rlsubnet.report import load_yaml
from rlsubnet.report.style import paper_style


@dataclass(frozen=True)
class Column:
    """Heading and number of decimals of one column; `digits` is None for text and counts.

    A `positive` number is never printed as 0: below the last decimal it is printed as a bound. A
    `scientific` one is printed as the paper writes tolerances; `digits` are those of its mantissa.
    Sentences have a `width`, a share of LaTeX's line, and are broken within it.
    """

    header: str
    digits: int | None = None
    positive: bool = False
    scientific: bool = False
    width: float = 0.0


_COLUMNS = {name: Column(**entry) for name, entry in load_yaml("columns.yaml").items()}
_AT_TOLERANCE = re.compile(r"(paper_)?sparsity_(1e-\d+)_percent")


def column(name: str) -> Column:
    """Return heading and decimals of a column.

    >>> column("paper_sparsity_1e-8_percent").header
    'Paper: 1e-8 (%)'
    """
    if name in _COLUMNS:
        return _COLUMNS[name]
    if match := _AT_TOLERANCE.fullmatch(name):
        return Column(f"{'Paper: ' if match[1] else ''}{match[2]} (%)", 2)
    raise ValueError(f"no heading declared for column {name!r}")


def tolerance_name(atol: float) -> str:
    """Return a tolerance as the paper writes it.

    >>> tolerance_name(1e-05), tolerance_name(2.5e-4)
    ('1e-5', '2.5e-4')
    """
    mantissa, exponent = f"{atol:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


# What Snakemake prints beside an item in the HTML report, and what stands below its table.
_CAPTIONS = Path(__file__).with_name("captions")
# CSV keeps six significant digits: more than any count of a demo supports, and stable bits.
_CSV_FLOAT = "%.6g"
# LaTeX, in characters: a line of a heading, a line of a cell of a wide part, and what an upright
# page holds in print of 6 points.
_HEADER_WIDTH, _CELL_WIDTH, _LINE_WIDTH = 12, 25, 160
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


def notes_of(name: str) -> list[str]:
    """Return the sentences below a printed table, from the comment that ends its caption.

    There `{word}` stands for a note of `shared_notes.txt`, which several tables have.
    """
    shared = dict(note.split(": ", 1) for note in _text("shared_notes.txt").split("\n\n"))
    _, _, below = _text(f"{name}.rst").partition("\n..\n")
    notes = (note.format_map(shared) for note in below.split("\n   * ")[1:])
    return [" ".join(note.split()) for note in notes]


def _text(name: str) -> str:
    return (_CAPTIONS / name).read_text(encoding="utf-8")


def write_table(
    frame: pd.DataFrame,
    stem: Path,
    title: str,
    notes: Sequence[str] = (),
    printed: pd.DataFrame | None = None,
) -> list[Path]:
    """Write a table as `stem`.csv, .md and .tex and return the three paths.

    Rows that share a value of column `part` stand together in print; `printed` is what Markdown and
    LaTeX show where it is not all of `frame`.
    """
    shown = frame if printed is None else printed
    contents = {
        ".csv": frame.to_csv(index=False, float_format=_CSV_FLOAT, lineterminator="\n"),
        ".md": markdown(shown, title, notes),
        ".tex": latex(shown, title, notes, label=stem.name),
    }
    paths = [stem.with_name(stem.name + suffix) for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_text(path, content)
    return paths


def write_text(path: Path, content: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `stem`.png and .pdf, without dates, and return the two paths."""
    metadata: dict[str, dict[str, str | None]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": "rlsubnet", "Producer": None},
    }
    paths = []
    with paper_style():
        for suffix, entries in metadata.items():
            path = stem.with_name(stem.name + suffix)
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=entries)
            paths.append(path)
    return paths


def markdown(frame: pd.DataFrame, title: str, notes: Sequence[str] = ()) -> str:
    """Return the table as Markdown: one block per part, without columns empty in that part.

    >>> row = {"part": ["measured"], "algorithm": ["DPO"], "sparsity_percent": [62.06]}
    >>> print(markdown(pd.DataFrame(row), "Table 1"))
    # Table 1
    <BLANKLINE>
    **measured**
    <BLANKLINE>
    | Algorithm | Sparsity (%) |
    |:--|--:|
    | DPO | 62.1 |
    <BLANKLINE>
    """
    lines = [f"# {title}", ""]
    for part, block in _blocks(frame):
        lines += [f"**{part}**", ""] if part else []
        headers = [_escape_markdown(column(name).header) for name in block.columns]
        rules = ["--:" if _is_number(block[name]) else ":--" for name in block.columns]
        lines.append("| " + " | ".join(headers) + " |")
        lines.append("|" + "|".join(rules) + "|")
        for cells in _printed(block):
            lines.append("| " + " | ".join(_escape_markdown(cell) for cell in cells) + " |")
        lines.append("")
    lines += [f"* {note}" for note in notes] + ([""] if notes else [])
    return "\n".join(lines)


def latex(frame: pd.DataFrame, title: str, notes: Sequence[str] = (), label: str = "") -> str:
    r"""Return the table as LaTeX: a float for each part, on its side where the part is wide.

    Shrunk into one upright page, the widest parts would be printed in letters of 3 points.

    >>> frame = pd.DataFrame({"algorithm": ["DPO_NORM"], "sparsity_percent": [62.06]})
    >>> print(latex(frame, "Table 1", label="table1"))
    % \usepackage{adjustbox,booktabs,caption,rotating}
    \begin{table}[htbp]
    \centering\small
    \caption{Table 1}\label{tab:table1}
    \begin{adjustbox}{max width=\linewidth}
    \begin{tabular}{lr}
    \toprule
    Algorithm & Sparsity (\%) \\
    \midrule
    DPO\_NORM & 62.1 \\
    \bottomrule
    \end{tabular}
    \end{adjustbox}
    \end{table}
    <BLANKLINE>
    """
    blocks = list(_blocks(frame)) or [("", frame)]
    prose = any(column(name).width for name in frame.columns)
    if prose:
        return "\n".join([*_latex_prose(blocks, title, notes, label), ""])
    lines = [r"% \usepackage{adjustbox,booktabs,caption,rotating}"]
    for number, (part, block) in enumerate(blocks):
        wide = not block.empty and _width(block) > _LINE_WIDTH
        environment, place = ("sidewaystable", "") if wide else ("table", "[htbp]")
        caption = ": ".join([_caption(title), part] if part else [_caption(title)])
        lines += [rf"\begin{{{environment}}}{place}", r"\centering\small"]
        # All parts are one table and have one number.
        lines += [r"\ContinuedFloat"] if number else []
        named = rf"\label{{tab:{label}}}" if label and not number else ""
        lines += [rf"\caption{{{escape_latex(caption)}}}{named}"]
        lines += [] if block.empty else _latex_tabular(block, wide)
        if notes and number == len(blocks) - 1:
            lines += [rf"\par\smallskip\footnotesize {escape_latex(' '.join(notes))}"]
        lines += [rf"\end{{{environment}}}"]
    return "\n".join([*lines, ""])


def _latex_tabular(block: pd.DataFrame, wide: bool) -> list[str]:
    """Return one part as lines of LaTeX; in a wide one, long text is broken within its cell."""
    sides = ["r" if _is_number(block[name]) else "l" for name in block.columns]
    headers = [column(name).header for name in block.columns]
    return [
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        r"\toprule",
        _latex_row(headers, sides, _HEADER_WIDTH),
        r"\midrule",
        *(_latex_row(cells, sides, _CELL_WIDTH if wide else None) for cells in _printed(block)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
    ]


def _latex_prose(
    blocks: Sequence[tuple[str, pd.DataFrame]], title: str, notes: Sequence[str], label: str
) -> Iterator[str]:
    """Yield a table of sentences, which breaks across pages that lie on their side."""
    yield r"% \usepackage{array,booktabs,caption,longtable,pdflscape}"
    yield r"\begin{landscape}\footnotesize"
    for number, (part, block) in enumerate(blocks):
        kinds = [column(name) for name in block.columns]
        sides = [
            rf">{{\raggedright\arraybackslash}}p{{{kind.width}\linewidth}}" if kind.width else "l"
            for kind in kinds
        ]
        yield rf"\begin{{longtable}}{{{''.join(sides)}}}"
        caption = escape_latex(": ".join([_caption(title), part] if part else [_caption(title)]))
        # All parts are one table and have one number.
        yield (
            rf"\caption*{{{caption}}}" if number else rf"\caption{{{caption}}}\label{{tab:{label}}}"
        )
        headers = " & ".join(escape_latex(kind.header) for kind in kinds)
        yield from (r"\\", r"\toprule", rf"{headers} \\", r"\midrule", r"\endhead")
        for cells in _printed(block):
            texts = [escape_latex(cell).replace("/", r"/\allowbreak{}") for cell in cells]
            yield " & ".join(texts) + r" \\ \addlinespace"
        yield from (r"\bottomrule", r"\end{longtable}")
    yield escape_latex(" ".join(notes))
    yield r"\end{landscape}"


def _width(block: pd.DataFrame) -> int:
    headers = [_lines(column(name).header, _HEADER_WIDTH) for name in block.columns]
    cells = zip(*_printed(block), strict=True)
    return sum(max(map(len, (*a, *b))) + 2 for a, b in zip(headers, cells, strict=True))


def _caption(title: str) -> str:
    """Return a title as LaTeX needs it, which numbers tables itself.

    >>> _caption("Table 2: mean rank"), _caption("Gains: accuracy")
    ('Mean rank (Table 2 of arXiv 2505.11711)', 'Gains: accuracy')
    """
    match = re.fullmatch(r"((?:Table|Section) \d+): (.)(.*)", title)
    return f"{match[2].upper()}{match[3]} ({match[1]} of arXiv 2505.11711)" if match else title


def escape_latex(text: str) -> str:
    r"""Return text that LaTeX prints as it stands here.

    >>> escape_latex("sft_rl_lr: 5 % & more")
    'sft\\_rl\\_lr: 5 \\% \\& more'
    """
    return text.translate(_LATEX)


def _lines(text: str, width: int) -> list[str]:
    """Return text in lines of at most ``width`` characters, longer words whole; never no line."""
    return textwrap.wrap(text, width, break_long_words=False) or [""]


def _latex_row(cells: Sequence[str], sides: Sequence[str], width: int | None) -> str:
    """Return one row; cells longer than ``width`` characters are broken between words."""
    broken = []
    for cell, side in zip(cells, sides, strict=True):
        lines = _lines(cell, width) if width else [cell]
        text = r"\\".join(map(escape_latex, lines))
        broken.append(rf"\shortstack[{side}]{{{text}}}" if len(lines) > 1 else text)
    return " & ".join(broken) + r" \\"


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _blocks(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (part, rows of that part without columns that are empty there), in row order."""
    if "part" not in frame.columns:
        yield "", frame
        return
    for part, block in frame.groupby("part", sort=False):
        filled = [name for name in block.columns if not _is_empty(block[name])]
        yield str(part), block[[name for name in filled if name != "part"]]


def _is_empty(values: pd.Series) -> bool:
    return bool((values.isna() | (values.astype(str) == "")).all())


def _is_number(values: pd.Series) -> bool:
    present = values.dropna()
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present.tolist()
    )


def _printed(block: pd.DataFrame) -> Iterator[list[str]]:
    kinds = [column(name) for name in block.columns]
    for row in block.itertuples(index=False, name=None):
        yield [_cell(value, kind) for value, kind in zip(row, kinds, strict=True)]


def _cell(value: object, kind: Column) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if kind.digits is None or isinstance(value, str):
        return str(value)
    if kind.scientific and isinstance(value, float):
        return tolerance_name(float(f"{value:.{kind.digits}e}")) if value else "0"
    least = 10.0**-kind.digits
    if kind.positive and isinstance(value, float) and value < least:
        return f"< {least:.{kind.digits}f}"
    text = f"{value:,.{kind.digits}f}"
    # A small negative number rounds to "-0.0".
    return text.removeprefix("-") if not text.strip("-0.,") else text


def write_page(
    path: Path,
    title: str,
    lead: Sequence[str],
    notes: Sequence[str],
    parts: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    colors: Mapping[str, str],
    word: int = 0,
    style: str = "",
) -> None:
    """Write an HTML page of tables; a part is (heading, headers, rows), its cells are HTML.

    `colors` are those of the words in column `word`, `style` is CSS of this page alone.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["escape"] = escape
    page = environment.get_template("page.html.j2")
    facts = {"title": title, "lead": lead, "notes": notes, "parts": parts}
    write_text(path, page.render(facts, colors=colors, word=word, style=style))
