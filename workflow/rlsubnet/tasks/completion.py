"""What a model answered."""

from typing import NamedTuple


class Completion(NamedTuple):
    """One generated response: its text without the end token, and whether it ended by itself."""

    text: str
    finished: bool
