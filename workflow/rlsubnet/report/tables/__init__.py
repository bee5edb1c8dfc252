"""One function per table of the paper: a scale and its waist files in, a DataFrame out."""

from rlsubnet.report.tables.accuracy import gains, table3
from rlsubnet.report.tables.sections import section4, section6
from rlsubnet.report.tables.updates import table1, table2, table4, table5, table6

TABLES = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "section4": section4,
    "section6": section6,
    "gains": gains,
}

__all__ = [
    "TABLES",
    "gains",
    "section4",
    "section6",
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
]
