"""Pieces of HTML that every section is made of."""

import math
import re
from collections.abc import Sequence
from html import escape

from rlsubnet.measure.sparsity import TABLE_TOLERANCE


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


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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


# The tolerance of the paper's tables, as the page writes it.
AT = power(TABLE_TOLERANCE)


def unbroken(page: str) -> str:
    """Return a page whose numbers stay on the line of their units.

    >>> unbroken("13.0 % of 520.06 kB").count("\\u00a0")
    2
    """
    return re.sub(r"(?<=\d) (?=(?:%|kB|MB|GB|B)(?!\w))|(?<=×) | (?=×)", "\u00a0", page)


def size(nbytes: float) -> str:
    """Return a number of bytes in the unit that reads best.

    >>> size(980), size(16_060_522_240)
    ('980 B', '16.06 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes:.0f} B"


def paragraph(words: str) -> str:
    """Return a paragraph of HTML that is safe already."""
    return f"<p>{words}</p>"


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], ours: int | None = None
) -> str:
    """Return a table; the first column names its row, ``ours`` is the row to be marked.

    It scrolls by itself where the page is narrow, with the keyboard as well.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for number, (first, *cells) in enumerate(rows):
        marked = ' class="ours"' if number == ours else ""
        joined = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f'<tr{marked}><th scope="row">{escape(first)}</th>{joined}</tr>')
    label = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<caption>{label}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def numbers(summary: str, content: str) -> str:
    """Return a part that opens when it is wanted."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure(chart: str, caption: str, key: str = "") -> str:
    """Return a chart with its legend and what it shows."""
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="Chart">{chart}</div>'
        f"{key}<figcaption>{caption}</figcaption></figure>"
    )


def section(anchor: str, heading: str, *content: str) -> str:
    """Return a section that a link leads to."""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-h">'
        f'<h2 id="{anchor}-h">{escape(heading)}</h2>{"".join(content)}</section>'
    )
