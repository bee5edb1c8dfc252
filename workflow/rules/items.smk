# The paper's items and what they, and target `all`, ask for.
TABLES = [item for item in sheets.ITEMS if not item.startswith("fig")]
FIGURES = [item for item in sheets.ITEMS if item.startswith("fig")]
TITLES = {
    "table1": "Update sparsity",
    "table2": "Rank of the updates",
    "table3": "Accuracy, full against sub",
    "table4": "Overlap of subnetworks",
    "table5": "In and out of distribution",
    "table6": "Sparsity by tolerance",
    "section4": "Same weights, full against sub",
    "section6": "KL, clipping and the course of training",
    "gains": "Accuracy against the start",
    "verdicts": "Each claim of the paper",
    "fig1": "SFT against RL",
    "fig2": "Never, cancelled, updated",
    "fig3": "Sparsity by layer and matrix",
    "fig4": "Training loss, full against sub",
    "fig5": "Sparsity over training",
    "fig6": "Updates outside the subnetwork",
    "fig7": "Checkpoints of a run",
}


# A clone may be without the folder.
COMPARED = config["reference"] != "" and Path(config["reference"]).is_dir()


def labels_of(item):
    """Return what the HTML report lists an item under."""
    return {"item": item, "shows": TITLES[item]}


def item_rows(item):
    """Return the sheet rows an item prints: a changed label draws it again."""
    rows = [*SCALE.pairs.values(), *SCALE.comparisons.values()]
    if item == "verdicts":  # all rows, whatever they are called
        return [str(dataclasses.replace(row, label="")) for row in rows]
    used = [row for row in rows if item in row.items]
    ends = {getattr(row, side, "") for row in used for side in ("init", "tuned")}
    return [
        str(row)
        for row in [*used, *(SCALE.runs[run] for run in SCALE.runs if run in ends)]
    ]


def everything():
    """Return what target ``all`` asks for: models too, so that a fresh clone trains them."""
    drawn = [*rules.tables.input, *rules.figures.input]
    if config["cached"]:
        return drawn
    models = [sheets.checkpoint_folder(SCALE, run) for run in SCALE.runs]
    compared = [rules.compare.output.csv] if COMPARED else []
    return [*models, *sheets.waist_files(SCALE), *drawn, *compared]
