"""For each claim of the paper: what it says, what this scale shows, and one of four words.

`rules` decides, from plain numbers alone; `numbers` brings them, the two modules of claims put them
into words, and `page` shows them in the HTML report.
"""

from collections.abc import Iterator

import pandas as pd

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.report.results import Results
from rlsubnet.report.verdicts.claims import (
    course_claims,
    overlap_claims,
    reason_claims,
    sparsity_claims,
    subnetwork_claims,
)
from rlsubnet.report.verdicts.numbers import Source
from rlsubnet.report.verdicts.rules import WORDS, Line
from rlsubnet.report.verdicts.table_claims import table_claims

__all__ = ["WORDS", "counted", "verdicts"]

PARTS = {
    "Section 3: RL's updates are sparse and of full rank (Takeaways 1 and 2)": sparsity_claims,
    "Section 4: the subnetwork alone gives the same model (Conjecture 1)": subnetwork_claims,
    "Section 5: subnetworks overlap (Takeaway 3)": overlap_claims,
    "Section 6: why the updates are sparse (Takeaway 4)": reason_claims,
    "Section 6 and Appendix D: the course of a run": course_claims,
}


def verdicts(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return one row a claim: part, id, claim, where, paper, here, verdict, decided_by.

    `here` names runs and pairs; an id is stable, such as `takeaway1/sparse` or `table4/Seed`.
    """
    source = Source(scale, results, published)
    rows = [(part, *each) for part, claims in PARTS.items() for each in claims(source)]
    rows += [(_table_of(each), *each) for each in table_claims(source)]
    return pd.DataFrame(rows, columns=["part", *Line._fields]).astype(object)


def _table_of(row: Line) -> str:
    return f"{row.where.split('(')[0]}: every row"


def counted(frame: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """Yield each of the four words with the number of claims that it is said of."""
    for word in WORDS:
        yield word, int((frame["verdict"] == word).sum())
