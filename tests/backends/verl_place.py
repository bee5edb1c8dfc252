"""Where runs are trained by the real verl: start, prompts, and what they leave."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

from rlsubnet.backends.rows import verl_row
from rlsubnet.backends.verl.command import Places
from tests.backends import verl_runs


class Workplace:
    """A folder with the tiny model, its prompts, and the runs that were trained from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.init = folder / "init"
        verl_runs.save_model(self.init)

    def train(self, row: str, mask: Path | None = None, prompts: int = 64) -> Path:
        """Train a row and return its folder: final/, metrics.csv, log and perhaps steps/."""
        out = self._folder(row)
        out.mkdir(exist_ok=True)
        verl_runs.rlsubnet(out / "log", *self._words(row, mask, prompts))
        return out

    def train_until_killed(
        self,
        row: str,
        mask: Path,
        prompts: int,
        moment: Callable[[Places], bool],
        workers: bool = True,
    ) -> Path:
        """Begin a row, or go on with it, kill its processes at a moment and return its folder."""
        out = self._folder(row)
        places = Places(self.init, out / "verl")
        out.mkdir(exist_ok=True)
        process = verl_runs.start_rlsubnet(out / "log", *self._words(row, mask, prompts))
        while not moment(places):
            assert process.poll() is None, (out / "log").read_text()[-6000:]
            time.sleep(0.001)
        verl_runs.kill_all(process, workers)
        return out

    def _words(self, row: str, mask: Path | None, prompts: int) -> list[object]:
        values, out = verl_row(json.loads(row)["run"], row), self._folder(row)
        data = self.folder / f"prompts_{prompts}.jsonl"
        verl_runs.save_prompts(data, prompts)
        return [
            *("train_verl", values["run"], "--row", row, "--init", self.init),
            *("--data", data, "--scratch", out / "verl", "--threads", 3),
            *("--out", out / "final", "--metrics", out / "metrics.csv"),
            *(("--mask", mask) if mask else ()),
            *(("--steps", out / "steps") if values["recipe"]["checkpoint_every"] else ()),
        ]

    def _folder(self, row: str) -> Path:
        return self.folder / str(json.loads(row)["run"])

    def frozen(self, run: Path, mask: Path) -> tuple[int, int, int]:
        """Return how many frozen weights changed, how many of the mask did, and its size."""
        out = run / "frozen.csv"
        words = ("frozen", self.init, run / "final", "--mask", mask, "--out", out)
        verl_runs.rlsubnet(run / "log", *words)
        rows = list(csv.DictReader(out.open()))
        columns = ("frozen_changed", "subnetwork_changed", "subnetwork")
        frozen, changed, size = (sum(int(row[column]) for row in rows) for column in columns)
        return frozen, changed, size
