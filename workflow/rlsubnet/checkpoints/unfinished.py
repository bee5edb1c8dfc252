"""What an interrupted pass had finished, kept beside its result until that is complete."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.files import write_json

ASKED = "asked.json"


class Unfinished:
    """A hidden folder beside a result: what was asked, and one file per finished part.

    It appears with the first part that is saved. Parts of a pass that was asked something else, or
    of files that have changed since, are removed: ``begun_anew`` tells so.

    Args:
        result: the file that the pass is to write; None keeps nothing.
        asked: all that the parts depend on, as JSON values.
    """

    def __init__(self, result: Path | None, asked: Mapping[str, Any]) -> None:
        self._folder = parts_folder(result) if result else None
        # As it comes back from a file: tuples are lists there.
        self._asked = json.loads(json.dumps(asked))
        self.begun_anew = self.any_saved() and self._stored_question() != self._asked
        if self.begun_anew:
            self.discard()

    def _stored_question(self) -> object:
        assert self._folder is not None
        try:
            return json.loads((self._folder / ASKED).read_bytes())
        except (OSError, ValueError):
            return None

    def load(self, number: int) -> Any:
        """Return what was saved of a part, None where it is not finished."""
        if self._folder is None or not (file := self._folder / _part(number)).exists():
            return None
        return json.loads(file.read_bytes())

    def save(self, number: int, found: Any) -> None:
        """Keep what was found in a part."""
        if self._folder is None:
            return
        if not (self._folder / ASKED).exists():
            write_json(self._folder / ASKED, self._asked)
        write_json(self._folder / _part(number), found)

    def any_saved(self) -> bool:
        """Return whether a part is finished."""
        return self._folder is not None and self._folder.exists()

    def discard(self) -> None:
        """Remove all parts."""
        if self._folder is not None and self._folder.exists():
            shutil.rmtree(self._folder)


def parts_folder(result: Path) -> Path:
    """Return where the finished parts of a result wait until it is complete.

    >>> parts_folder(Path("/results/dpo.csv")).as_posix()
    '/results/.dpo.csv.parts'
    """
    target = Path(os.path.realpath(result))
    return target.with_name(f".{target.name}.parts")


def _part(number: int) -> str:
    return f"part-{number:05d}.json"
