"""Tables and figures from the files of a results folder.

Everything here reads `results/{scale}/` and the paper's numbers in `data` and nothing else: no
checkpoint, no torch. `results` reads and computes, `paired` compares two runs, `settings` asks the
sheets, `tables` and `figures` present, `verdicts` judges, `export` writes, and `items` joins them:
one call makes one item of the paper.

Shares are ratios in [0, 1] until a table or an axis shows them: there, and in the CSV files of the
tables, they are per cent as the paper prints them, and the column's name ends in `_percent`
(`_points` for differences). Columns that start with `paper_` hold printed values, never ours.
"""

from pathlib import Path
from typing import Any

import yaml


def load_yaml(name: str) -> Any:
    """Return what a YAML file of this folder holds."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
