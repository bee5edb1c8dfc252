# The paper's items and what they, and target `all`, ask for.
from rlsubnet.items import ITEMS, VERDICTS

TABLES = [name for name, item in ITEMS.items() if not item.is_figure]
FIGURES = [name for name, item in ITEMS.items() if item.is_figure]


# A clone may be without the folder.
COMPARED = config["reference"] != "" and Path(config["reference"]).is_dir()


def caption(name):
    """Return what the HTML report says of an item."""
    return f"../rlsubnet/report/captions/{name}.rst"


def shown(item, kind, category):
    """Return the file of an item that the HTML report shows."""
    return report(
        f"<results>/{item.files[kind]}",
        caption=caption(item.name),
        category=category,
        labels={"item": item.name, "shows": item.label},
    )


def item_outputs(item):
    """Return the files of an item by their kind, the one for the HTML report marked."""
    kind, category = ("png", "Figures") if item.is_figure else ("csv", "Tables")
    if item.name == VERDICTS:  # a page: the report shows HTML better than CSV
        kind, category = "html", "Verdicts"
    others = {k: f"<results>/{file}" for k, file in item.files.items()}
    return {**others, kind: shown(item, kind, category)}


def item_rows(item):
    """Return the sheet rows an item prints: a changed label draws it again."""
    rows = [*SCALE.pairs.values(), *SCALE.comparisons.values()]
    if item == VERDICTS:  # all rows, whatever they are called
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
    models = [layout.checkpoint_folder(SCALE, run) for run in SCALE.runs]
    compared = [rules.compare.output.csv] if COMPARED else []
    return [*models, *layout.results_files(SCALE), *drawn, *compared]
