# How well each run does, asked by allenai/olmes; all its suites in one job.
OLMES = f"{config['work']}/olmes"


# Where compute nodes have no internet: Snakemake runs it on the machine that it was started on.
rule prefetch_olmes:
    output:
        f"{OLMES}/prefetched.json",
    log:
        "<logs>/prefetch_olmes.log",
    benchmark:
        "<benchmarks>/prefetch_olmes.tsv"
    localrule: True
    conda:
        "../../envs/olmes.yaml"
    params:
        settings=olmes_settings("suites", "step_suites"),
        sheets=sheets_of_scale,
        cache=f"{OLMES}/cache",
    shell:
        "rlsubnet prefetch_olmes {params.sheets:q}"
        " --cache {params.cache} --out {output} > {log} 2>&1"


# A released checkpoint is evaluated, too, where a table asks what a run gained over it.
rule evaluate_olmes:
    input:
        model=lambda wildcards: layout.checkpoint_folder(SCALE, wildcards.run),
        data=rules.prefetch_olmes.output,
        # No score without a word on whether training held its items; a newer report repeats none.
        contamination=lambda wildcards: ancient(contaminations_of(wildcards)),
    output:
        scores="<results>/scores/{run}.csv",
        answers="<results>/answers/{run}.csv.gz",
    log:
        "<logs>/evaluate_olmes/{run}.log",
    benchmark:
        "<benchmarks>/evaluate_olmes/{run}.tsv"
    wildcard_constraints:
        run=one_of([*SCALE.runs, *RELEASED_MODELS]),
    conda:
        "../../envs/olmes.yaml"
    threads: threads_of("evaluate")
    resources:
        **needs("evaluate"),
    params:
        settings=olmes_settings("suites"),
        sheets=sheets_of_scale,
        contamination=contamination_option,
        cache=f"{OLMES}/cache",
        raw=f"{OLMES}/runs/{{run}}",
    shell:
        "rlsubnet evaluate_olmes {input.model} {params.sheets:q}"
        " {params.contamination:q} --gpus {resources.gpu_slots} --cache {params.cache} --raw {params.raw}"
        " --scores {output.scores} --answers {output.answers} > {log} 2>&1"


rule evaluate_steps_olmes:
    input:
        init=init_of,
        steps="<work>/runs/{run}/steps",
        data=rules.prefetch_olmes.output,
        contamination=lambda wildcards: ancient(contaminations_of(wildcards)),
    output:
        "<results>/step_scores/{run}.csv",
    log:
        "<logs>/evaluate_steps_olmes/{run}.log",
    benchmark:
        "<benchmarks>/evaluate_steps_olmes/{run}.tsv"
    conda:
        "../../envs/olmes.yaml"
    threads: threads_of("evaluate")
    resources:
        **needs("evaluate"),
    params:
        settings=olmes_settings("step_suites"),
        sheets=sheets_of_scale,
        contamination=contamination_option,
        cache=f"{OLMES}/cache",
        raw=f"{OLMES}/steps/{{run}}",
    shell:
        "rlsubnet evaluate_steps_olmes {input.init} {input.steps} {params.sheets:q}"
        " {params.contamination:q} --gpus {resources.gpu_slots} --cache {params.cache} --raw {params.raw}"
        " --out {output} > {log} 2>&1"
