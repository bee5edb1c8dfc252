"""Where runs are trained by the real verl: start, prompts, and what they leave."""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.verl.command import Places
from tests.backends import verl_runs
from tests.sheets_of_row import train_command


class Workplace:
    """A folder with the tiny model, its prompts, and the runs that were trained from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.init = folder / "init"
        verl_runs.save_model(self.init)

    def train(self, row: Mapping[str, Any], mask: Path | None = None, prompts: int = 64) -> Path:
        out = self.folder / row["run"]
        out.mkdir(exist_ok=True)
        verl_runs.rlsubnet(out / "log", *self._words(row, mask, prompts))
        return out

    def train_until_killed(
        self,
        row: Mapping[str, Any],
        mask: Path,
        prompts: int,
        moment: Callable[[Places], bool],
        workers: bool = True,
    ) -> Path:
        out = self.folder / row["run"]
        places = Places(self.init, out / "verl")
        out.mkdir(exist_ok=True)
        process = verl_runs.start_rlsubnet(out / "log", *self._words(row, mask, prompts))
        while not moment(places):
            assert process.poll() is None, (out / "log").read_text()[-6000:]
            time.sleep(0.001)
        verl_runs.kill_all(process, workers)
        return out

    def _words(self, row: Mapping[str, Any], mask: Path | None, prompts: int) -> list[str]:
        data = self.folder / f"prompts_{prompts}.jsonl"
        verl_runs.save_prompts(data, prompts)
        words = train_command(self.folder / row["run"], row, data, self.init, mask)
        return [*words, "--threads", "3"]

    def frozen(self, run: Path, mask: Path) -> tuple[int, int, int]:
        out = run / "frozen.csv"
        words = ("frozen", self.init, run / "final", "--mask", mask, "--out", out)
        verl_runs.rlsubnet(run / "log", *words)
        rows = list(csv.DictReader(out.open()))
        columns = ("frozen_changed", "subnetwork_changed", "subnetwork")
        frozen, changed, size = (sum(int(row[column]) for row in rows) for column in columns)
        return frozen, changed, size
