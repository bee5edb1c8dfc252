"""Subcommands: what ``rlsubnet --help`` says of them, and the module that each one lives in.

A module offers ``add_commands(subcommands)`` and is imported when one of its commands is run. It
imports what is heavy (numpy, torch, pandas) when the command works, so that each ``--help`` and the
differ stay quick. The items of the paper are listed in ``rlsubnet.items``.
"""

# Group -> module -> command -> summary.
GROUPS = {
    "measure": {
        "measure": {
            "updates": "count which weights finetuning changed, at every tolerance",
            "mask": "write the mask of a pair: one bit per weight that finetuning changed",
            "frozen": "check that masked training left every weight outside its mask bit-identical",
            "union": "the weights that are in at least one of several masks: ever updated",
            "overlap": "one-sided overlaps of two subnetworks (Table 4) beside what chance would "
            "give",
            "rank": "rank of every update matrix (Table 2) beside a random control",
            "trajectory": "classify weights over the saved steps of a run: never updated, "
            "cancelled, subnetwork",
            "card": "write one page of HTML about a pair: all measurements, with the paper's "
            "beside them",
        },
    },
    "delta": {
        "delta": {"delta": "store a tuned checkpoint as its sparse, lossless difference from init"},
    },
    "train and evaluate": {
        "data": {
            "download": "fetch a Hugging Face checkpoint: checked, resumable, complete or absent",
            "data": "make one data set, as JSON lines",
            "fetch": "fetch the files of a published data set: checked, resumable, complete or "
            "absent",
            "adapt": "bring fetched files into JSON lines: preference pairs, or evaluation items",
            "mix": "make one data set out of others, one after the other",
            "contamination": "count the evaluation items that stand in training prompts",
        },
        "train": {
            "train": "train one run: full, or with a mask only a subnetwork",
        },
        "evaluate": {
            "evaluate": "score a model on all its test suites",
            "evaluate_steps": "score the start and every saved step of a run (Figure 7)",
            "evaluate_olmes": "score a model with allenai/olmes",
            "evaluate_steps_olmes": "score the start and every saved step of a run with "
            "allenai/olmes (Figure 7)",
            "prefetch_olmes": "fetch the data of olmes's tasks and count their items",
        },
    },
    "paper items": {
        "report": {
            "machines": "where each run was made: CPU or GPU, how it summed, versions",
            "compare": "verdicts and headline numbers of two results folders, beside each other",
        },
    },
    "workflow": {
        "pipeline": {
            "check": "validate a config and its sheets and say what they plan",
            "plan": "say what each table and figure costs: runs, GPU hours, disk",
            "status": "say what is done, running, failed and missing, per table and figure",
            "resume": "go on after a killed run: cancel what it left, unlock, continue",
        },
    },
}
MODULES = {
    command: module
    for modules in GROUPS.values()
    for module, commands in modules.items()
    for command in commands
}
SUMMARIES = {
    command: summary
    for modules in GROUPS.values()
    for commands in modules.values()
    for command, summary in commands.items()
}


def modules_for(command: str | None) -> list[str]:
    """Return the modules to import for a command; all of them for one that is not known.

    >>> modules_for("updates"), modules_for(None)
    (['measure'], [])
    """
    if command is None:
        return []
    if command in MODULES:
        return [MODULES[command]]
    return [module for modules in GROUPS.values() for module in modules]


def grouped_help(width: int) -> str:
    """Return all commands and their summaries, group by group."""
    import textwrap

    from rlsubnet.items import ITEMS

    lines = []
    for group, modules in GROUPS.items():
        listed = {name: text for commands in modules.values() for name, text in commands.items()}
        if "report" in modules:
            listed = {name: item.summary for name, item in ITEMS.items()} | listed
        lines.append(f"\n{group}:")
        for name, text in listed.items():
            lines += textwrap.wrap(
                text, width, initial_indent=f"  {name:<22}", subsequent_indent=" " * 24
            )
    return "\n".join(lines).strip()
