# Training runs whose recipe says `backend: verl`: PRIME and GRPO on the GPUs of one node or several.


VERL_RUNS = SCALE.runs_of("verl")
VERL_SAVING = [run for run in VERL_RUNS if SCALE.saves_steps(run)]


# Its text and `provenance` are what a run follows from, as in rule `train`. An interrupted run goes on
# from the last save that is whole, in a folder beside the outputs.
rule train_verl:
    input:
        init=init_of,
        data=lambda wildcards: sheets.data_file(SCALE, run_of(wildcards).data),
        mask=mask_of,
        # Read before, so that no run learns what it is evaluated on; a newer report repeats no run.
        checked=lambda wildcards: ancient(contamination_of(run_of(wildcards).data)),
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
    log:
        "<logs>/train_verl/{run}.log",
    benchmark:
        "<benchmarks>/train_verl/{run}.tsv"
    wildcard_constraints:
        run=one_of(run for run in VERL_RUNS if run not in VERL_SAVING),
    priority: 10
    conda:
        "../../envs/verl.yaml"
    threads: threads_of("train_verl")
    resources:
        **needs("train_verl"),
    params:
        provenance=provenance_of,
        row=lambda wildcards, output: canonical(
            sheets.resolved_row(SCALE, wildcards.run)
        ),
        where=lambda wildcards, output: [
            *installation("verl"),
            *nodes_of("train_verl"),
        ],
        mask=lambda wildcards, input: option("--mask", input.mask),
        folder=subpath(output.model, parent=True),
    shell:
        "rlsubnet train_verl {wildcards.run} --row {params.row:q} {params.where:q} --init {input.init}"
        " --data {input.data} {params.mask:q} --threads {threads} --scratch {params.folder}/verl"
        " --out {output.model} --metrics {output.metrics} > {log} 2>&1"


# A run that saves models along its way has one output more.
use rule train_verl as train_verl_with_steps with:
    output:
        model=directory("<work>/runs/{run}/final"),
        metrics="<results>/metrics/{run}.csv",
        steps=directory("<work>/runs/{run}/steps"),
    wildcard_constraints:
        run=one_of(VERL_SAVING),
    params:
        # The option rides on another: the text of the command is that of `train_verl`.
        mask=lambda wildcards, input, output: [
            *option("--mask", input.mask),
            *option("--steps", output.steps),
        ],
