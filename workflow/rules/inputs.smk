# Which files and options a rule takes, from the wildcards and the sheets.


def run_of(wildcards):
    return SCALE.runs[wildcards.run]


def pair_of(wildcards):
    return SCALE.pairs[wildcards.pair]


def pair_checkpoints(wildcards):
    """Return the two checkpoint folders of a pair, as named inputs."""
    pair = pair_of(wildcards)
    return {
        side: layout.checkpoint_folder(SCALE, getattr(pair, side))
        for side in ("init", "tuned")
    }


def common_rows_of(*pairs):
    """Return the option that names the tensors of which common rows are measured."""
    names = dict.fromkeys(name for pair in pairs for name in pair.common_rows)
    return ["--common-rows", *names] if names else []


def common_rows(wildcards):
    return common_rows_of(pair_of(wildcards))


def option(name, files):
    """Return a command-line option with its file, or nothing where the input is empty."""
    return [name, str(files)] if files else []


def contamination_of(data):
    """Return the report on a data set as an input, nothing where none is asked for."""
    file = layout.contamination_file(SCALE, data)
    return [file] if file else []


def contaminations_of(wildcards):
    """Return the reports on all that a run, and what it starts from, has learned from."""
    return layout.contamination_files(SCALE, wildcards.run)


def item_options():
    items = config["contamination"]["items"]
    return [f"{name}={layout.data_file(SCALE, name)}" for name in items]


def data_of(*kinds):
    """Return the names of the data sets of some kinds."""
    return [name for name, spec in config["data"].items() if spec["kind"] in kinds]


def policy_of(wildcards):
    policy = config["data"][wildcards.data].get("policy")
    return [layout.checkpoint_folder(SCALE, policy)] if policy else []


def source_of(wildcards):
    """Return the local file that a data set is read from, nothing where it is made up."""
    spec = config["data"][wildcards.data]
    return [spec["source"]] if spec["kind"] in schema.WORD_KINDS else []


def init_of(wildcards):
    """Return the checkpoint a run starts from; pretraining starts from an architecture."""
    start = layout.start_of(SCALE, wildcards.run)
    return [start] if start else []


def mask_of(wildcards):
    """Return the mask of a run: it puts the full run before the masked one."""
    mask = layout.mask_of(SCALE, wildcards.run)
    return [mask] if mask else []


def mask_rule(wildcards):
    if wildcards.kind == "__official":
        return f"--rule official --atol {config['measure']['table_tolerance']}"
    if wildcards.kind == "__random":
        return f"--rule random --seed {config['measure']['seed']}"
    return "--rule bitwise"


def compared_pairs(wildcards):
    comparison = SCALE.comparisons[wildcards.comparison]
    return SCALE.pairs[comparison.pair1], SCALE.pairs[comparison.pair2]


def comparison_masks(wildcards):
    pairs = compared_pairs(wildcards)
    return [layout.mask_file(SCALE, pair.pair, "official") for pair in pairs]


def comparison_init(wildcards):
    """Return the start of both pairs; the sheets were checked for it."""
    return layout.checkpoint_folder(SCALE, compared_pairs(wildcards)[0].init)


def comparison_common_rows(wildcards):
    return common_rows_of(*compared_pairs(wildcards))


def suite_options(key="suites"):
    return [
        word
        for name in config["evaluation"][key]
        for word in ("--suite", f"{name}={layout.data_file(SCALE, name)}")
    ]


def evaluation_settings(**changes):
    """Return how answers are sampled, as provenance."""
    return canonical(schema.read_sampling(config["evaluation"]).model_dump() | changes)


def olmes_settings(*keys):
    """Return what olmes is asked, as provenance."""
    return canonical(schema.olmes_settings(config["evaluation"], *keys))


def contamination_option(wildcards, input):
    files = [str(file) for file in input.contamination]
    return ["--contamination", *files] if files else []


def trained_by(trainer, with_steps=False):
    """Return the pattern of the runs of a trainer: those that save models along their way, or not."""
    runs = SCALE.runs_of(trainer)
    return one_of(run for run in runs if SCALE.saves_steps(run) == with_steps)


def provenance_of(wildcards):
    """Return what a run's result follows from: a run is repeated when this changes."""
    return canonical(SCALE.row(wildcards.run).provenance())
