"""Where the files of a scale lie, and which of them each table and figure reads."""

from dataclasses import dataclass
from pathlib import Path

from rlsubnet.columns import results_file
from rlsubnet.config.model import MESSAGE_PAIR_KINDS, PROMPT_KIND
from rlsubnet.config.scale import Scale, data_kind
from rlsubnet.config.schema import Pair
from rlsubnet.items import ITEMS, VERDICTS, Item


def checkpoint_folder(scale: Scale, name: str) -> str:
    work = scale.config["work"]
    return f"{work}/runs/{name}/final" if name in scale.runs else f"{work}/models/{name}"


def data_file(scale: Scale, name: str) -> str:
    return f"{scale.config['work']}/data/{name}.jsonl"


@dataclass(frozen=True)
class RunFiles:
    """What a training run reads and writes."""

    data: Path
    scratch: Path  # a folder of this run alone, removed at the end: a killed run goes on from it
    model: Path
    metrics: Path
    init: Path | None = None  # None: random weights
    mask: Path | None = None  # None: all weights are trained
    steps: Path | None = None  # a folder for models saved along the run; None where none are


def start_of(scale: Scale, name: str) -> str | None:
    """Return the checkpoint that a run starts from; None in pretraining, from random weights."""
    run = scale.runs[name]
    return None if run.algorithm == "pretrain" else checkpoint_folder(scale, run.init)


def mask_of(scale: Scale, name: str) -> str | None:
    """Return the mask of a run; None where all weights are trained."""
    run = scale.runs[name]
    return mask_file(scale, run.mask_pair, run.mask_kind) if run.mask else None


def run_files(scale: Scale, name: str) -> RunFiles:
    run, folder = scale.runs[name], Path(scale.config["work"]) / "runs" / name
    backend, init, mask = scale.backend_of(name), start_of(scale, name), mask_of(scale, name)
    return RunFiles(
        data=Path(data_file(scale, run.data)),
        scratch=folder / ("resume" if backend == "native" else backend),
        model=folder / "final",
        metrics=Path(_results(scale, "metrics", name)),
        init=Path(init) if init else None,
        mask=Path(mask) if mask else None,
        steps=folder / "steps" if scale.saves_steps(name) else None,
    )


def contamination_file(scale: Scale, name: str) -> str | None:
    """Return what is said of evaluation items in a data set's prompts, if anything is asked.

    Only published prompts are asked about: the splits of made-up data share none.
    """
    asked = data_kind(scale.config, name) in (*MESSAGE_PAIR_KINDS, PROMPT_KIND)
    if not (asked and scale.config["contamination"]["items"]):
        return None
    return f"{scale.config['results']}/contamination/{name}.csv"


def contamination_files(scale: Scale, name: str) -> list[str]:
    """Return the reports on all that a model has learned from in this scale, its start's included.

    None of a released model: what it learned from is not known here.
    """
    files: list[str] = []
    while name in scale.runs:
        run = scale.runs[name]
        file = contamination_file(scale, run.data)
        files += [file] if file else []
        name = run.init
    return list(dict.fromkeys(files))


def mask_name(pair: str, kind: str = "") -> str:
    """Return the name of a pair's mask.

    Its ``kind`` is empty for bitwise, ``official`` for the authors' rule at the table tolerance,
    ``random`` for as many weights of each tensor at random positions.
    """
    return f"{pair}__{kind}" if kind else pair


def mask_file(scale: Scale, pair: str, kind: str = "") -> str:
    return f"{scale.config['work']}/masks/{mask_name(pair, kind)}.safetensors"


def _results(scale: Scale, kind: str, name: str) -> str:
    return f"{scale.config['results']}/{results_file(kind, name)}"


def _pair_files(scale: Scale, pair: Pair, item: Item) -> list[str]:
    runs = [name for name in (pair.init, pair.tuned) if name in scale.runs]
    # olmes evaluates released checkpoints as well: what a run gained over one is known.
    released = item.name == "gains" and scale.config["evaluation"]["backend"] == "olmes"
    evaluated = [pair.init, pair.tuned] if released else runs
    files = [_results(scale, kind, pair.pair) for kind in item.pair]
    files += [_results(scale, kind, name) for kind in item.runs for name in evaluated]
    if pair.tuned in scale.runs:
        files += _steps_files(scale, pair.tuned, item.steps)
        files += [_results(scale, kind, pair.tuned) for kind in item.tuned]
    if item.name == "section4":
        # The null row: the pair that a masked run has its mask from, start against full.
        masks = [scale.runs[run].mask_pair for run in runs if scale.runs[run].mask]
        files += [_results(scale, "updates", mask) for mask in masks]
    # A masked run counts only once its frozen weights were found untouched.
    files += [_results(scale, "frozen", run) for run in runs if scale.runs[run].mask]
    return files


def _steps_files(scale: Scale, run: str, kinds: tuple[str, ...]) -> list[str]:
    """Return the files on a run's saved steps; none on their accuracy where no suite is named."""
    if not scale.saves_steps(run):
        return []
    evaluated = scale.config["evaluation"]["step_suites"]
    return [_results(scale, kind, run) for kind in kinds if kind != "step_scores" or evaluated]


def item_files(scale: Scale, name: str) -> list[str]:
    """Return the results files that a table or figure reads: those of the rows that name it.

    The verdicts read what all other items read.
    """
    if name == VERDICTS:
        others = [file for other in ITEMS if other != name for file in item_files(scale, other)]
        return list(dict.fromkeys(others))
    files: list[str] = []
    for pair in scale.pairs.values():
        if name in pair.items:
            files += _pair_files(scale, pair, ITEMS[name])
    for comparison in scale.comparisons.values():
        if name in comparison.items:
            files.append(_results(scale, "overlap", comparison.comparison))
            pairs = (comparison.pair1, comparison.pair2)
            files += [_results(scale, "updates", pair) for pair in pairs]
    return list(dict.fromkeys(files))


def results_files(scale: Scale) -> list[str]:
    """Return every results file that the scale makes, whether a table reads it or not."""
    files = [f"{scale.config['results']}/machines.csv"] if scale.runs else []
    files += [_results(scale, "updates", pair) for pair in scale.pairs]
    for pair in scale.pairs.values():
        if any("ranks" in ITEMS[item].pair for item in pair.items):
            files.append(_results(scale, "ranks", pair.pair))
    files += [_results(scale, "overlap", comparison) for comparison in scale.comparisons]
    for run in scale.runs.values():
        files.append(_results(scale, "metrics", run.run))
        files += [_results(scale, "frozen", run.run)] if run.mask else []
        if scale.config["evaluation"]["suites"]:
            files += [_results(scale, kind, run.run) for kind in ("scores", "answers")]
        files += _steps_files(scale, run.run, ("trajectory",))
    # Evaluating every saved step takes as long as evaluating as many runs: where it is drawn.
    drawn = [
        pair.tuned
        for pair in scale.pairs.values()
        if any("step_scores" in ITEMS[item].steps for item in pair.items)
    ]
    for name in dict.fromkeys(drawn):
        files += _steps_files(scale, name, ("step_scores",))
    return files
