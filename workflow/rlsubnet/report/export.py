"""Tables as CSV, Markdown and LaTeX, figures as PNG and PDF; every file is complete or absent."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rlsubnet.files import replacing
from rlsubnet.report.columns import Column, column
from rlsubnet.report.style import paper_style

# CSV keeps six significant digits: more than any count of a demo supports, and stable bits.
_CSV_FLOAT = "%.6g"
_HEADER_WIDTH = 12  # characters a line of a heading in LaTeX
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def write_table(
    frame: pd.DataFrame, stem: Path, title: str, notes: Sequence[str] = ()
) -> list[Path]:
    """Write a table as `stem`.csv, .md and .tex and return the three paths.

    Args:
        frame: the table; rows that share a value of column `part` stand together in print.
        stem: path without suffix, such as `results/demo/tables/table1`.
        title: heading in Markdown, caption in LaTeX.
        notes: sentences below the printed table.
    """
    contents = {
        ".csv": frame.to_csv(index=False, float_format=_CSV_FLOAT, lineterminator="\n"),
        ".md": markdown(frame, title, notes),
        ".tex": latex(frame, title, notes, label=stem.name),
    }
    paths = [stem.with_name(stem.name + suffix) for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return paths


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

    >>> frame = pd.DataFrame({"part": ["measured"], "algorithm": ["DPO"], "sparsity_percent": [62.06]})
    >>> print(markdown(frame, "Table 1"))
    # Table 1
    <BLANKLINE>
    **measured**
    <BLANKLINE>
    | Algorithm | Sparsity (%) |
    |:--|--:|
    | DPO | 62.1 |
    <BLANKLINE>
    """  # noqa: E501 - one line of a doctest
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
    r"""Return the table as LaTeX (booktabs, adjustbox), one tabular per part.

    >>> frame = pd.DataFrame({"algorithm": ["DPO_NORM"], "sparsity_percent": [62.06]})
    >>> print(latex(frame, "Table 1", label="table1"))
    % \usepackage{booktabs,adjustbox}
    \begin{table}[htbp]
    \centering\small
    \caption{Table 1}\label{tab:table1}
    \begin{adjustbox}{max width=\textwidth}
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
    lines = [
        r"% \usepackage{booktabs,adjustbox}",
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{escape_latex(_caption(title))}}}"
        + (rf"\label{{tab:{label}}}" if label else ""),
    ]
    for number, (part, block) in enumerate(_blocks(frame)):
        lines += [r"\par\medskip"] if number else []
        lines += [rf"\textbf{{{escape_latex(part)}}}\par\smallskip"] if part else []
        alignment = "".join("r" if _is_number(block[name]) else "l" for name in block.columns)
        lines += [r"\begin{adjustbox}{max width=\textwidth}", rf"\begin{{tabular}}{{{alignment}}}"]
        lines += [r"\toprule", _latex_header(list(block.columns), alignment)]
        lines += [r"\midrule", *(_latex_row(cells) for cells in _printed(block))]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}"]
    lines += [rf"\par\smallskip\footnotesize {escape_latex(' '.join(notes))}"] if notes else []
    return "\n".join([*lines, r"\end{table}", ""])


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
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_header(names: Sequence[str], alignment: str) -> str:
    """Return the header row; long headings are broken, so that numbers set the columns' width."""
    cells = []
    for name, side in zip(names, alignment, strict=True):
        lines = [escape_latex(line) for line in textwrap.wrap(column(name).header, _HEADER_WIDTH)]
        broken = r"\\".join(lines)
        cells.append(rf"\shortstack[{side}]{{{broken}}}" if len(lines) > 1 else lines[0])
    return " & ".join(cells) + r" \\"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


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
    least = 10.0**-kind.digits
    if kind.positive and isinstance(value, float) and value < least:
        return f"< {least:.{kind.digits}f}"
    return f"{value:,.{kind.digits}f}"
