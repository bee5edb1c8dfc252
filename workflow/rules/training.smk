# Training runs, full and masked. What others wait for has priority over what nothing waits for.


SAVING = [run for run in SCALE.runs_of("native") if SCALE.saves_steps(run)]


# The text of this command is provenance: changing it repeats every training. So is `provenance`;
# `row`, as a function of the output, is not, and may hold where to log to.
rule train:
    input:
        init=init_of,
        data=lambda wildcards: sheets.data_file(SCALE, run_of(wildcards).data),
        mask=mask_of,
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
    log:
        "<logs>/train/{run}.log",
    benchmark:
        "<benchmarks>/train/{run}.tsv"
    wildcard_constraints:
        run=one_of(run for run in SCALE.runs_of("native") if run not in SAVING),
    priority: 10
    conda:
        ENVIRONMENT
    threads: threads_of("train")
    resources:
        **needs("train"),
    params:
        provenance=provenance_of,
        row=lambda wildcards, output: canonical(
            sheets.resolved_row(SCALE, wildcards.run)
        ),
        init=lambda wildcards, input: option("--init", input.init),
        mask=lambda wildcards, input: option("--mask", input.mask),
        folder=subpath(output.model, parent=True),
    shell:
        "rlsubnet train {wildcards.run} --row {params.row:q} {params.init:q} --data {input.data} {params.mask:q}"
        " --resume {params.folder}/resume --out {output.model} --metrics {output.metrics} > {log} 2>&1"


# A run that saves models along its way has one output more.
use rule train as train_with_steps with:
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
        steps=directory("<work>/runs/{run}/steps"),
    wildcard_constraints:
        run=one_of(SAVING),
    params:
        # The option rides on another: the text of the command is that of `train`.
        mask=lambda wildcards, input, output: [
            *option("--mask", input.mask),
            *option("--steps", output.steps),
        ],


# Where each run was made: other machines give other digits.
rule machines:
    input:
        [sheets.checkpoint_folder(SCALE, run) for run in SCALE.runs],
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
