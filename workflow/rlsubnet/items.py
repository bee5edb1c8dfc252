"""The paper's items: what each is called, what it reads, and which function makes it.

Rules, commands, plans, status and the report read this registry. A new table is a function in
`rlsubnet.report`, a caption in `report/captions/` and an entry here. Nothing is imported, so that
`rlsubnet --help` stays quick.
"""

from dataclasses import dataclass

# Judges the numbers of all other items, so that no row of the sheets names it.
VERDICTS = "verdicts"


@dataclass(frozen=True)
class Item:
    """A table, a figure, or the verdicts.

    Attributes:
        name: of its command, rule, files and caption.
        summary: what it shows, in one line of the help.
        label: what the HTML report lists it under.
        function: in `rlsubnet.report`; it takes a scale, its results and the published numbers
            and returns a DataFrame or a Figure.
        title: heading of the printed table; empty for figures.
        in_print: function that leaves out what is not printed of a long table.
        pair: kinds of results files that it reads of each pair that names it.
        runs: kinds that it reads of both runs of such a pair: full and sub, or start and run.
        tuned: kinds that it reads of the pair's tuned run alone.
        steps: kinds that it reads of the tuned run's saved steps, where there are any.
    """

    name: str
    summary: str
    label: str
    function: str
    title: str = ""
    in_print: str = ""
    pair: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def is_figure(self) -> bool:
        return self.name.startswith("fig")

    @property
    def files(self) -> dict[str, str]:
        """Return kind -> file below the results folder.

        >>> ITEMS["fig1"].files
        {'png': 'figures/fig1.png', 'pdf': 'figures/fig1.pdf'}
        """
        folder, kinds = (
            ("figures", ("png", "pdf")) if self.is_figure else ("tables", ("csv", "md", "tex"))
        )
        files = {kind: f"{folder}/{self.name}.{kind}" for kind in kinds}
        if self.name == VERDICTS:
            files |= {"html": "tables/verdicts.html", "top": "verdicts.csv"}
        return files


_ITEMS = (
    Item(
        "table1",
        "update sparsity by algorithm, beside the paper's",
        "Update sparsity",
        "tables.weights.table1",
        "Table 1: parameter update sparsity by algorithm",
        pair=("updates",),
    ),
    Item(
        "table2",
        "mean rank of update matrices and of a random control",
        "Rank of the updates",
        "tables.weights.table2",
        "Table 2: mean rank of update matrices, per cent of the maximum possible rank",
        pair=("ranks",),
    ),
    Item(
        "table3",
        "accuracy of full and subnetwork finetuning, with paired tests",
        "Accuracy, full against sub",
        "tables.accuracy.table3",
        "Table 3: accuracy of full finetuning and of finetuning the subnetwork alone",
        in_print="tables.accuracy.table3_in_print",
        runs=("scores", "answers"),
    ),
    Item(
        "table4",
        "overlap of subnetworks and what chance would give",
        "Overlap of subnetworks",
        "tables.weights.table4",
        "Table 4: overlap of two subnetworks, one-sided",
    ),
    Item(
        "table5",
        "update sparsity of SFT and RL, in and out of distribution",
        "In and out of distribution",
        "tables.weights.table5",
        "Table 5: update sparsity of SFT and RL, in and out of distribution",
        pair=("updates",),
    ),
    Item(
        "table6",
        "update sparsity at each tolerance",
        "Sparsity by tolerance",
        "tables.weights.table6",
        "Table 6: update sparsity (%) at each tolerance",
        pair=("updates",),
    ),
    Item(
        "section4",
        "weights that full and subnetwork finetuning share",
        "Same weights, full against sub",
        "tables.weights.section4",
        "Section 4: share of weights that are the same after full and subnetwork finetuning",
        pair=("updates",),
    ),
    Item(
        "section6",
        "sparsity with and without KL and clipping, and along a run",
        "KL, clipping and the course of training",
        "tables.weights.section6",
        "Section 6: KL regularization, gradient clipping and the course of training",
        in_print="tables.weights.section6_in_print",
        pair=("updates",),
        tuned=("metrics",),
        steps=("trajectory",),
    ),
    Item(
        "gains",
        "accuracy of every run against its start, beside its sparsity",
        "Accuracy against the start",
        "tables.accuracy.gains",
        "Gains: accuracy of every run against its start, and the sparsity of its update",
        in_print="tables.accuracy.gains_in_print",
        pair=("updates",),
        runs=("scores", "answers"),
    ),
    Item(
        VERDICTS,
        "each claim of the paper: what it says, what this scale shows, which word fits",
        "Each claim of the paper",
        "verdicts.verdicts",
        "Verdicts: each claim of the paper and what this scale shows",
    ),
    Item(
        "fig1",
        "update density of SFT against RL",
        "SFT against RL",
        "figures.fig1",
        pair=("updates",),
    ),
    Item(
        "fig2",
        "weights never updated, cancelled, in the subnetwork",
        "Never, cancelled, updated",
        "figures.fig2",
        steps=("trajectory",),
    ),
    Item(
        "fig3",
        "update sparsity by layer and matrix",
        "Sparsity by layer and matrix",
        "figures.fig3",
        pair=("updates",),
    ),
    Item(
        "fig4",
        "training loss of full and subnetwork finetuning",
        "Training loss, full against sub",
        "figures.fig4",
        runs=("metrics",),
    ),
    Item(
        "fig5",
        "update sparsity of saved steps",
        "Sparsity over training",
        "figures.fig5",
        steps=("trajectory",),
    ),
    Item(
        "fig6",
        "updates outside the final subnetwork over training",
        "Updates outside the subnetwork",
        "figures.fig6",
        steps=("trajectory",),
    ),
    Item(
        "fig7",
        "sparsity of saved steps and of consecutive ones",
        "Checkpoints of a run",
        "figures.fig7",
        steps=("trajectory", "step_scores"),
    ),
)
ITEMS = {item.name: item for item in _ITEMS}
