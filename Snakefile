# Which files come from which. What is trained, measured and drawn stands in config/{scale}.
from snakemake.utils import min_version

min_version("9.27")


# `configfile:` merges under --configfile: a demo key would leak into another scale.
if "scale" not in config:

    configfile: "config/demo/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/items.smk"


pathvars:
    results=config["results"],
    work=config["work"],
    logs=f"logs/{config['scale']}",
    benchmarks=f"{config['work']}/benchmarks",


wildcard_constraints:
    run=one_of(SCALE.runs),
    pair=one_of(SCALE.pairs),
    comparison=one_of(SCALE.comparisons),
    model=one_of(RELEASED_MODELS),
    data=one_of(config["data"]),


report: "workflow/rlsubnet/report/captions/workflow.rst"


# With `cached=True` tables and figures come from results/ alone; no other rule even exists.
if not config["cached"]:

    include: "workflow/rules/models.smk"
    include: "workflow/rules/data.smk"
    include: "workflow/rules/training.smk"
    include: "workflow/rules/trajectory.smk"
    include: "workflow/rules/updates.smk"
    include: "workflow/rules/overlap.smk"

    # Scores and answers come from one program a scale.
    if config["evaluation"]["backend"] == "olmes":

        include: "workflow/rules/olmes.smk"

    else:

        include: "workflow/rules/evaluation.smk"


include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        everything(),
    localrule: True
