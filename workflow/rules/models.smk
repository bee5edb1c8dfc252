# Starting points that no run makes.


rule download:
    output:
        directory("<work>/models/{model}"),
    log:
        "<logs>/download/{model}.log",
    benchmark:
        "<benchmarks>/download/{model}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("download")
    resources:
        **needs("download"),
    params:
        source=lambda wildcards: config["models"][wildcards.model]["source"],
        revision=lambda wildcards: config["models"][wildcards.model]["revision"],
    shell:
        "rlsubnet download {params.source:q} --revision {params.revision:q} --out {output} > {log} 2>&1"
