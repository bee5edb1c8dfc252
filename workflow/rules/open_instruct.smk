# Training runs whose recipe says `backend: open_instruct`: DPO on the GPUs of one node or several.


# Its text and `provenance` are what a run follows from, as in rule `train`. An interrupted run goes on
# from the last save that is whole, in a folder beside the outputs.
rule train_open_instruct:
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
        "<logs>/train_open_instruct/{run}.log",
    benchmark:
        "<benchmarks>/train_open_instruct/{run}.tsv"
    wildcard_constraints:
        run=one_of(SCALE.runs_of("open_instruct")),
    priority: 10
    conda:
        "../../envs/open-instruct.yaml"
    threads: threads_of("train_open_instruct")
    resources:
        **needs("train_open_instruct"),
    params:
        provenance=provenance_of,
        row=lambda wildcards, output: canonical(
            sheets.resolved_row(SCALE, wildcards.run)
        ),
        where=lambda wildcards, output: [
            *installation("open_instruct"),
            *nodes_of("train_open_instruct"),
        ],
        mask=lambda wildcards, input: option("--mask", input.mask),
        folder=subpath(output.model, parent=True),
    shell:
        "rlsubnet train_open_instruct {wildcards.run} --row {params.row:q} {params.where:q} --init {input.init}"
        " --data {input.data} {params.mask:q} --scratch {params.folder}/open_instruct"
        " --out {output.model} --metrics {output.metrics} > {log} 2>&1"
