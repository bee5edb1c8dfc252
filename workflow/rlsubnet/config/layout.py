"""Where the files of a scale lie, and which of them each table and figure reads."""

from rlsubnet.config.scale import (
    ITEMS,
    MESSAGE_PAIR_KINDS,
    PROMPT_KIND,
    VERDICTS,
    Comparison,
    Pair,
    Scale,
    data_kind,
    saves_steps,
)

# Folder under results/ and what one file in it belongs to.
PAIR_WAIST = {
    "table1": ("updates",),
    "table2": ("ranks",),
    "table5": ("updates",),
    "table6": ("updates",),
    "section4": ("updates",),
    "section6": ("updates",),
    "gains": ("updates",),
    "fig1": ("updates",),
    "fig3": ("updates",),
}
# These read both runs of a pair: full and sub, or start and run.
RUN_WAIST = {
    "table3": ("scores", "answers"),
    "gains": ("scores", "answers"),
    "fig4": ("metrics",),
}
# These read the saved steps of a pair's tuned run, where it saves any.
STEPS_WAIST = {
    **dict.fromkeys(("section6", "fig2", "fig5", "fig6"), ("trajectory",)),
    "fig7": ("trajectory", "step_scores"),
}
# These read the tuned run alone.
TUNED_WAIST = {"section6": ("metrics",)}
SUFFIX = {"answers": ".csv.gz"}


def checkpoint_folder(scale: Scale, name: str) -> str:
    """Return the Hugging Face folder of a run or of a model with a source."""
    work = scale.config["work"]
    return f"{work}/runs/{name}/final" if name in scale.runs else f"{work}/models/{name}"


def data_file(scale: Scale, name: str) -> str:
    """Return the JSON-lines file of one entry of the config's ``data``."""
    return f"{scale.config['work']}/data/{name}.jsonl"


def source_folder(scale: Scale, name: str) -> str:
    """Return the folder of a data set's fetched files."""
    return f"{scale.config['work']}/sources/{name}"


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


def mask_file(scale: Scale, pair: str, kind: str = "") -> str:
    """Return a pair's mask.

    Args:
        scale: for its folders.
        pair: name of the pair.
        kind: empty for bitwise, ``official`` for the authors' rule at the table tolerance,
            ``random`` for as many weights of each tensor at random positions.
    """
    kind = f"__{kind}" if kind else ""
    return f"{scale.config['work']}/masks/{pair}{kind}.safetensors"


def _waist(scale: Scale, kind: str, name: str) -> str:
    return f"{scale.config['results']}/{kind}/{name}{SUFFIX.get(kind, '.csv')}"


def _pair_files(scale: Scale, pair: Pair, item: str) -> list[str]:
    runs = [name for name in (pair.init, pair.tuned) if name in scale.runs]
    # olmes evaluates released checkpoints as well: what a run gained over one is known.
    released = item == "gains" and scale.config["evaluation"]["backend"] == "olmes"
    evaluated = [pair.init, pair.tuned] if released else runs
    files = [_waist(scale, kind, pair.pair) for kind in PAIR_WAIST.get(item, ())]
    files += [_waist(scale, kind, name) for kind in RUN_WAIST.get(item, ()) for name in evaluated]
    if pair.tuned in scale.runs:
        files += _steps_files(scale, pair.tuned, STEPS_WAIST.get(item, ()))
        files += [_waist(scale, kind, pair.tuned) for kind in TUNED_WAIST.get(item, ())]
    if item == "section4":
        # The null row: the pair that a masked run has its mask from, start against full.
        masks = [scale.runs[run].mask_pair for run in runs if scale.runs[run].mask]
        files += [_waist(scale, "updates", mask) for mask in masks]
    # A masked run counts only once its frozen weights were found untouched.
    files += [_waist(scale, "frozen", run) for run in runs if scale.runs[run].mask]
    return files


def _steps_files(scale: Scale, run: str, kinds: tuple[str, ...]) -> list[str]:
    """Return the files on a run's saved steps; none on their accuracy where no suite is named."""
    if not saves_steps(scale, run):
        return []
    evaluated = scale.config["evaluation"]["step_suites"]
    return [_waist(scale, kind, run) for kind in kinds if kind != "step_scores" or evaluated]


def _comparison_files(scale: Scale, comparison: Comparison) -> list[str]:
    pairs = (comparison.pair1, comparison.pair2)
    return [
        _waist(scale, "overlap", comparison.comparison),
        *(_waist(scale, "updates", pair) for pair in pairs),
    ]


def item_files(scale: Scale, item: str) -> list[str]:
    """Return the waist files that a table or figure reads: those of the rows that name it.

    The verdicts read what all other items read, and whether clipping acted in runs of section 6.
    """
    if item == VERDICTS:
        others = [file for other in ITEMS if other != item for file in item_files(scale, other)]
        ablated = [pair.tuned for pair in scale.pairs.values() if "section6" in pair.items]
        metrics = [_waist(scale, "metrics", run) for run in ablated if run in scale.runs]
        return list(dict.fromkeys([*others, *metrics]))
    files: list[str] = []
    for pair in scale.pairs.values():
        if item in pair.items:
            files += _pair_files(scale, pair, item)
    for comparison in scale.comparisons.values():
        if item in comparison.items:
            files += _comparison_files(scale, comparison)
    return list(dict.fromkeys(files))


def waist_files(scale: Scale) -> list[str]:
    """Return every waist file that the scale makes, whether a table reads it or not."""
    files = [f"{scale.config['results']}/machines.csv"] if scale.runs else []
    files += [_waist(scale, "updates", pair) for pair in scale.pairs]
    files += [
        _waist(scale, "ranks", pair.pair) for pair in scale.pairs.values() if "table2" in pair.items
    ]
    files += [_waist(scale, "overlap", comparison) for comparison in scale.comparisons]
    for run in scale.runs.values():
        files.append(_waist(scale, "metrics", run.run))
        files += [_waist(scale, "frozen", run.run)] if run.mask else []
        if scale.config["evaluation"]["suites"]:
            files += [_waist(scale, kind, run.run) for kind in ("scores", "answers")]
        files += _steps_files(scale, run.run, ("trajectory",))
    # Evaluating every saved step takes as long as evaluating as many runs: where it is drawn.
    drawn = [pair.tuned for pair in scale.pairs.values() if "fig7" in pair.items]
    for name in dict.fromkeys(drawn):
        files += _steps_files(scale, name, ("step_scores",))
    return files
