"""Checks of the numbers and names in a data set's specification; each names the key."""

from collections.abc import Iterable


def check_count(key: str, value: int) -> None:
    """Raise ValueError unless ``value`` is at least 1."""
    if value < 1:
        raise ValueError(f"{key}: expected at least 1, found {value}")


def check_share(key: str, value: float) -> None:
    """Raise ValueError unless ``value`` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{key}: expected a share between 0 and 1, found {value}")


def check_name(key: str, value: str, names: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``names``."""
    names = tuple(names)
    if value not in names:
        raise ValueError(f"{key}: expected one of {', '.join(names)}, found {value!r}")
