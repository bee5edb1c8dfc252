# Which files and options a rule takes, from the wildcards and the sheets.


def run_of(wildcards):
    return SCALE.runs[wildcards.run]


def pair_of(wildcards):
    return SCALE.pairs[wildcards.pair]


def pair_checkpoints(wildcards):
    """Return the two checkpoint folders of a pair, as named inputs."""
    pair = pair_of(wildcards)
    return {
        side: sheets.checkpoint_folder(SCALE, getattr(pair, side))
        for side in ("init", "tuned")
    }


def common_rows(wildcards):
    names = pair_of(wildcards).common_rows
    return ["--common-rows", *names] if names else []


def option(name, files):
    """Return a command-line option with its file, or nothing where the input is empty."""
    return [name, str(files)] if files else []


def policy_of(wildcards):
    policy = config["data"][wildcards.data].get("policy")
    return [sheets.checkpoint_folder(SCALE, policy)] if policy else []


def init_of(wildcards):
    """Return the checkpoint a run starts from; pretraining starts from an architecture."""
    run = run_of(wildcards)
    return (
        []
        if run.algorithm == "pretrain"
        else [sheets.checkpoint_folder(SCALE, run.init)]
    )


def mask_of(wildcards):
    """Return the mask of a run: it puts the full run before the masked one."""
    mask = run_of(wildcards).mask
    return [sheets.mask_file(SCALE, mask)] if mask else []


def mask_rule(wildcards):
    if wildcards.official:
        return f"--rule official --atol {config['measure']['table_tolerance']}"
    return "--rule bitwise"


def comparison_masks(wildcards):
    comparison = SCALE.comparisons[wildcards.comparison]
    pairs = (comparison.pair1, comparison.pair2)
    return [sheets.mask_file(SCALE, pair, official=True) for pair in pairs]


def suite_options():
    suites = config["evaluation"]["suites"]
    return [
        word
        for name in suites
        for word in ("--suite", f"{name}={sheets.data_file(SCALE, name)}")
    ]


def evaluation_settings():
    return canonical({k: v for k, v in config["evaluation"].items() if k != "suites"})


def provenance_of(wildcards):
    """Return what a run's result follows from: a run is repeated when this changes."""
    row = sheets.resolved_row(SCALE, wildcards.run)
    del row["wandb"], row["recipe"]["save_every"]  # neither changes a bit of the result
    return canonical(row)
