"""From the name of a paper item to its files: read, compute, present, write."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.report import figures
from rlsubnet.report.export import write_figure, write_table, write_text
from rlsubnet.report.figures import data
from rlsubnet.report.results import Results, check_paper_models
from rlsubnet.report.tables import TABLES
from rlsubnet.report.tables.accuracy import gains_in_print, section6_in_print, table3_in_print
from rlsubnet.report.verdicts import WORDS, counted, verdicts
from rlsubnet.report.verdicts.page import page

# What makes the tidy table, or tables, of a figure.
Frames = Callable[[Scale, Results, Published], Any]

_PERCENT = "All percentages are per cent of parameters, weighted by parameters."
_RULES = (
    "Sparsity is measured at tolerance 1e-5: column 'Sparsity' by the authors' rule "
    "(difference rounded to bfloat16), 'exact rule' in float32, 'Same bits' without tolerance."
)
_SAME_PATH = (
    "A sub that repeats full's seed, data and optimizer, masked after clipping, is bound to agree "
    "with it: the loss sees bfloat16 weights alone and AdamW treats each weight by itself, so the "
    "two part only where full moved a frozen weight for a while and back."
)
_SIMPO = (
    "The paper's Table 1 prints 86.5 for Llama-3-Instruct-8B-SimPO; its Table 6 prints 76.42 for "
    "it and 86.52 for Llama-3-Base-8B-SFT-SimPO."
)
_STEPS = (
    "'Sum of learning rates' adds up the rate of every step: AdamW moves a weight by at most about "
    "the rate a step. Compare sparsities of rows where it is the same."
)
_SEEDS = (
    "'mean of' k seeds: every item is averaged over the seeds first, which gives the standard "
    "error from the items; 'SD of seeds' is the sample standard deviation over seeds. Verdict and "
    "p of the mean go by sqrt(SE^2 + SD^2 / k), which is too large rather than too small"
)
_BESIDE = "Columns headed 'Paper' are printed values of arXiv 2505.11711, not measured here."

# The verdicts read the other tables, so that they are none of the package `tables`.
ALL_TABLES: Mapping[str, Frames] = {**TABLES, "verdicts": verdicts}

# item -> (title, notes below the table)
TITLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "table1": (
        "Table 1: parameter update sparsity by algorithm",
        (
            _RULES,
            _PERCENT,
            _STEPS,
            _BESIDE,
            "Never read a dense SFT row without SFT at RL's learning rate beside it: sparsity "
            "follows the learning rate times the number of steps first.",
            _SIMPO,
        ),
    ),
    "table2": (
        "Table 2: mean rank of update matrices, per cent of the maximum possible rank",
        (
            "Norms and vectors are left out, embedding and head are counted, as in the authors' "
            "code; every matrix weighs the same.",
            "The random control holds the same changed values at random positions. Where the two "
            "columns agree, full rank follows from scattered changes and is not specific to RL.",
            _BESIDE,
        ),
    ),
    "table3": (
        "Table 3: accuracy of full finetuning and of finetuning the subnetwork alone",
        (
            "Intervals are 95 %: Wilson's with one answer an item, clustered by item with several. "
            "p is McNemar's exact test on the same items, or a z test on the items' own means. k "
            "counts right answers, over all samples and seeds.",
            f"{_SEEDS}; it is printed as the mean's SE, and the CSV file has both.",
            "'not distinguishable': |delta| is at most 2 standard errors, or p is 0.05 or more. "
            "'no item differs': both runs scored the same on each item.",
            "Every seed on every task and level is in the CSV file.",
            _SAME_PATH,
            "Sampled accuracy is the primary measure: a greedy answer flips when a probability "
            "crosses one half.",
            "The choice tasks are made up; each stands for the paper's task beside it.",
            "The paper prints no counts and no per-item answers. Its counts are decoded from its "
            "percentages and the sizes of the public test sets; its tests are unpaired.",
        ),
    ),
    "table4": (
        "Table 4: overlap of two subnetworks, one-sided",
        (
            "o1 is the share of subnetwork 1 that lies in subnetwork 2, o2 the reverse. A null is "
            "what chance gives: 'uniform' draws as many weights anywhere (Appendix E), the others "
            "as many in each tensor, and in each tensor and exponent of the start's weights.",
            "Small weights show a bfloat16 change in every run, so exceeding the first two nulls "
            "does not by itself mean shared structure; the last null allows for it.",
            "Lift is the overlap over that of the null: 1 is chance, the most there can be is 100 "
            "over the larger null. Its interval is a bootstrap over tensors: it says how much the "
            "lift differs between tensors, not between runs.",
            "The paper has the first null alone. Its values stand beside every comparison on the "
            "same axis, whatever the algorithm.",
            _BESIDE,
        ),
    ),
    "table5": (
        "Table 5: update sparsity of SFT and RL, in and out of distribution",
        (
            _RULES,
            _PERCENT,
            _STEPS,
            "'In distribution' follows from the sheet: answers that the policy draws while it is "
            "trained, answers of the very model that training starts from, or the data set that "
            "this model was trained on just before. Everything else is 'no'. 'Paper: in "
            "distribution' is the paper's own mark for its model.",
            _BESIDE,
            "The paper's text gives about 90.0 for RFT (table: 91.2) and 6.8 for Zephyr (table: "
            "7.7).",
        ),
    ),
    "table6": (
        "Table 6: update sparsity (%) at each tolerance",
        (
            "Rule 'official': |bf16(difference)| <= bf16(tolerance), as the authors compute it; "
            "rule 'exact': in float32.",
            _PERCENT,
            _BESIDE,
            _SIMPO,
        ),
    ),
    "section4": (
        "Section 4: share of weights that are the same after full and subnetwork finetuning",
        (
            "The null row compares the start with the full run: it is what 'the same weights' "
            "means for two models that differ by all of finetuning.",
            "'Frozen and changed' counts weights outside the subnetwork that the masked run "
            "changed; it must be 0.",
            "At 1e-4, 100 % cannot be exact when a weight of size 2^-6 or more differs: one "
            "bfloat16 step is then 1.2e-4.",
            _SAME_PATH,
            _BESIDE,
        ),
    ),
    "section6": (
        "Section 6: KL regularization, gradient clipping and the course of training",
        (
            _RULES,
            _STEPS,
            "'Steps clipped': share of optimizer steps whose gradient was longer than 'Clipping "
            "at'. AdamW divides every gradient by its own size, so clipping all of them alike "
            "changes nothing; it only takes weight from single large ones.",
            "The paper prints no sparsity for training without clipping.",
            "Part (b) sees saved steps only and compares bits. 'Updated, then cancelled' at the "
            "end are the weights ever updated outside the final subnetwork: 8.5 % in the paper's "
            "Section 6, 8 % in its Figure 2. 'Still falling': over the last quarter of its steps "
            "sparsity fell by more than a tenth of its whole fall; a linear decay of the learning "
            "rate levels off by itself.",
            _BESIDE,
        ),
    ),
    "gains": (
        "Gains: accuracy of every run against its start, and the sparsity of its update",
        (
            "Held-out problems, the same for start and run: the interval is that of the paired "
            "difference, 1.96 standard errors from the items to each side.",
            f"{_SEEDS}; the CSV file has it.",
            "'95 % interval of the seeds' is Student's t interval of the gains of the single seeds "
            "(k - 1 degrees of freedom), which asks whether another seed would gain, too; with "
            "three seeds it is 2.5 standard deviations to each side.",
            "Sampled accuracy is the primary measure. Greedy accuracy is a threshold measure here: "
            "a small shift between two ways of answering flips most greedy answers at once.",
            "The paper prints no accuracy of its starting points; this table has no counterpart.",
        ),
    ),
    "verdicts": (
        "Verdicts: each claim of the paper and what this scale shows",
        (
            *(f"'{word}': {meaning}." for word, meaning in WORDS.items()),
            "Every rule is a function of plain numbers in report/verdicts/rules.py; its limits "
            "come from the paper's words and numbers.",
            "Each scale chooses learning rate and number of steps, and sparsity follows their "
            "product first. That RL is sparse here says what these runs did; whether RL is why is "
            "a claim of its own.",
            "DPO on out-of-distribution data, a control of Table 5, is judged under Takeaway 4 "
            "alone. Masked runs and other optimizers than AdamW are no part of Takeaway 1.",
            _SAME_PATH,
        ),
    ),
}


def _from_paper(
    draw: Callable[[pd.DataFrame, Mapping[str, Any]], Figure], item: str
) -> Callable[[pd.DataFrame, Published], Figure]:
    return lambda table, published: draw(table, published["figures"][item])


# item -> (what makes its tidy table, what draws it)
FIGURES: Mapping[str, tuple[Frames, Callable[[Any, Published], Figure]]] = {
    "fig1": (data.densities, lambda table, published: figures.fig1(table)),
    "fig2": (partial(data.trajectories, "fig2"), _from_paper(figures.fig2, "fig2")),
    "fig3": (data.layers, lambda table, published: figures.fig3(table)),
    "fig4": (data.losses, lambda table, published: figures.fig4(table)),
    "fig5": (partial(data.trajectories, "fig5"), _from_paper(figures.fig5, "fig5")),
    "fig6": (partial(data.trajectories, "fig6"), _from_paper(figures.fig6, "fig6")),
    "fig7": (
        data.checkpoints,
        lambda tables, published: figures.fig7(tables[0], tables[1], published["figures"]["fig7"]),
    ),
}


# Tables that print less than their CSV holds.
IN_PRINT: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "table3": table3_in_print,
    "section6": section6_in_print,
    "gains": gains_in_print,
}


def table_of(item: str, scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return one table, such as `table1`, `section4` or `verdicts`."""
    return ALL_TABLES[item](scale, results, published)


def figure_of(item: str, scale: Scale, results: Results, published: Published) -> Figure:
    """Return one figure of the paper, `fig1` to `fig7`."""
    make_frame, draw = FIGURES[item]
    return draw(make_frame(scale, results, published), published)


def write_item(item: str, scale: Scale, results: Results, published: Published) -> list[Path]:
    """Write one table or figure below the results folder and return its files.

    Raises:
        ValueError: an unknown item, a bad waist file, or a `paper_model` that the paper lacks.
        FileNotFoundError: a waist file that the sheets ask for is absent.
    """
    check_paper_models(((p.pair, p.paper_model) for p in scale.pairs.values()), published)
    if item in ALL_TABLES:
        title, notes = TITLES[item]
        frame = table_of(item, scale, results, published)
        stem = results.folder / "tables" / item
        if item == "verdicts":
            return _write_verdicts(frame, stem, title, notes)
        printed = IN_PRINT[item](frame) if item in IN_PRINT else frame
        return write_table(frame, stem, title, notes, printed)
    if item in FIGURES:
        figure = figure_of(item, scale, results, published)
        return write_figure(figure, results.folder / "figures" / item)
    raise ValueError(f"unknown item {item!r}; known: {[*ALL_TABLES, *FIGURES]}")


def _write_verdicts(
    frame: pd.DataFrame, stem: Path, title: str, notes: Sequence[str]
) -> list[Path]:
    """Write the verdicts as a table, as a page of the report, and as CSV at the top of results."""
    words = ", ".join(f"{word} {count}" for word, count in counted(frame))
    counts = f"{len(frame)} claims and rows: {words}."
    paths = write_table(frame, stem, title, [counts, *notes])
    shown, top = stem.with_suffix(".html"), stem.parent.parent / "verdicts.csv"
    write_text(shown, page(frame, title, counts, notes))
    write_text(top, paths[0].read_text(encoding="utf-8"))
    return [*paths, shown, top]
