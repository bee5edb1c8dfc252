# Training and evaluation data; what is sampled from a run waits for it.


rule data:
    input:
        policy=policy_of,
    output:
        ensure("<work>/data/{data}.jsonl", non_empty=True),
    log:
        "<logs>/data/{data}.log",
    benchmark:
        "<benchmarks>/data/{data}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    threads: threads_of("data")
    resources:
        **needs("data"),
    params:
        spec=lambda wildcards: canonical(config["data"][wildcards.data]),
        policy=lambda wildcards, input: option("--policy", input.policy),
    shell:
        "rlsubnet data {wildcards.data} --spec {params.spec:q} {params.policy:q} --out {output} > {log} 2>&1"
