# Training runs, full and masked. What others wait for has priority over what nothing waits for.


# The text of this command is provenance: changing it repeats every training. So is `provenance`;
# where the sheets lie, a function of the output, is not. An interrupted run goes on from its last
# saved state, in a folder beside the outputs.
rule train:
    input:
        init=init_of,
        data=lambda wildcards: layout.data_file(SCALE, run_of(wildcards).data),
        mask=mask_of,
        # Read before, so that no run learns what it is evaluated on; a newer report repeats no run.
        checked=lambda wildcards: ancient(contamination_of(run_of(wildcards).data)),
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
    log:
        "<logs>/train/{run}.log",
    benchmark:
        "<benchmarks>/train/{run}.tsv"
    wildcard_constraints:
        run=trained_by("native"),
    priority: 10
    conda:
        ENVIRONMENT
    threads: threads_of("train")
    resources:
        **needs("train"),
    params:
        provenance=provenance_of,
        sheets=sheets_of_scale,
    shell:
        "rlsubnet train {wildcards.run} {params.sheets:q} --threads {threads} > {log} 2>&1"


# A run that saves models along its way has one output more.
use rule train as train_with_steps with:
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
        steps=directory("<work>/runs/{run}/steps"),
    wildcard_constraints:
        run=trained_by("native", with_steps=True),


# DPO on the GPUs of one node or several.
use rule train as train_open_instruct with:
    wildcard_constraints:
        run=trained_by("open_instruct"),
    conda:
        "../../envs/open-instruct.yaml"
    threads: threads_of("train_open_instruct")
    resources:
        **needs("train_open_instruct"),


# PRIME and GRPO on the GPUs of one node or several.
use rule train as train_verl with:
    wildcard_constraints:
        run=trained_by("verl"),
    conda:
        "../../envs/verl.yaml"
    threads: threads_of("train_verl")
    resources:
        **needs("train_verl"),


use rule train_verl as train_verl_with_steps with:
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
        steps=directory("<work>/runs/{run}/steps"),
    wildcard_constraints:
        run=trained_by("verl", with_steps=True),


# Where each run was made: other machines give other digits.
rule machines:
    input:
        [layout.checkpoint_folder(SCALE, run) for run in SCALE.runs],
    output:
        "<results>/machines.csv",
    log:
        "<logs>/machines.log",
    benchmark:
        "<benchmarks>/machines.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "rlsubnet machines {input} --out {output} > {log} 2>&1"


# Fails when a weight outside the mask moved.
rule frozen:
    input:
        init=init_of,
        tuned="<work>/runs/{run}/final",
        mask=mask_of,
    output:
        "<results>/frozen/{run}.csv",
    log:
        "<logs>/frozen/{run}.log",
    benchmark:
        "<benchmarks>/frozen/{run}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("measure")
    resources:
        **needs("measure"),
    shell:
        "rlsubnet frozen {input.init} {input.tuned} --mask {input.mask} --out {output} > {log} 2>&1"
