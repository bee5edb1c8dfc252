"""What the package holds beside code: the numbers that the paper prints, never mixed with ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PUBLISHED = Path(__file__).with_name("published.yaml")
REQUIRED = (
    *("headline", "table1", "table2", "table3a", "table3b", "table3_counts", "conjecture1"),
    *("table4", "table5", "table6", "figures", "section6"),
)

Published = Mapping[str, Any]


def load_published(path: Path = PUBLISHED) -> Published:
    """Return the published numbers.

    Raises:
        ValueError: not YAML, or a table of the paper is missing.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    missing = [key for key in REQUIRED if not isinstance(data, dict) or key not in data]
    if missing:
        raise ValueError(f"{path}: keys missing: {missing}")
    return data
