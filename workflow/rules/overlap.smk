# How much of one subnetwork lies in another.


rule overlap:
    input:
        masks=comparison_masks,
    output:
        "<results>/overlap/{comparison}.csv",
    log:
        "<logs>/overlap/{comparison}.log",
    benchmark:
        "<benchmarks>/overlap/{comparison}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("measure")
    resources:
        **needs("measure"),
    shell:
        "rlsubnet overlap {input.masks} --out {output} > {log} 2>&1"
