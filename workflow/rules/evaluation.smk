# How well each run does; all its suites in one process.


rule evaluate:
    input:
        model="<work>/runs/{run}/final",
        suites=[
            sheets.data_file(SCALE, name) for name in config["evaluation"]["suites"]
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
    shell:
        "rlsubnet evaluate {input.model} {params.suites:q} --settings {params.settings:q}"
        " --scores {output.scores} --answers {output.answers} > {log} 2>&1"
