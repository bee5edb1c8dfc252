# How well each run does; all its suites in one process.


rule evaluate:
    input:
        model="<work>/runs/{run}/final",
        suites=[
            layout.data_file(SCALE, name) for name in config["evaluation"]["suites"]
        ],
    output:
        scores="<results>/scores/{run}.csv",
        answers="<results>/answers/{run}.csv.gz",
    log:
        "<logs>/evaluate/{run}.log",
    benchmark:
        "<benchmarks>/evaluate/{run}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("evaluate")
    resources:
        **needs("evaluate"),
    params:
        suites=suite_options(),
        settings=evaluation_settings(),
        sheets=sheets_of_scale,
    shell:
        "rlsubnet evaluate {input.model} {params.suites:q} {params.sheets:q}"
        " --scores {output.scores} --answers {output.answers} > {log} 2>&1"


rule evaluate_steps:
    input:
        init=init_of,
        steps="<work>/runs/{run}/steps",
        suites=[
            layout.data_file(SCALE, name)
            for name in config["evaluation"]["step_suites"]
        ],
    output:
        "<results>/step_scores/{run}.csv",
    log:
        "<logs>/evaluate_steps/{run}.log",
    benchmark:
        "<benchmarks>/evaluate_steps/{run}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("evaluate")
    resources:
        **needs("evaluate"),
    params:
        suites=suite_options("step_suites"),
        settings=evaluation_settings(samples=config["evaluation"]["step_samples"]),
        sheets=sheets_of_scale,
    shell:
        "rlsubnet evaluate_steps {input.init} {input.steps} {params.suites:q} {params.sheets:q}"
        " --out {output} > {log} 2>&1"
