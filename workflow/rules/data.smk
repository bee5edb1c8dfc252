# Training and evaluation data; what is sampled from a run waits for it.

FETCHED = data_of(*schema.FETCHED_KINDS)
MIXED = data_of(schema.MIXTURE)
MADE = [name for name in config["data"] if name not in FETCHED + MIXED]
SAMPLED = [name for name in MADE if config["data"][name].get("policy")]


rule data:
    input:
        policy=policy_of,
        source=source_of,
    output:
        ensure("<work>/data/{data}.jsonl", non_empty=True),
    log:
        "<logs>/data/{data}.log",
    benchmark:
        "<benchmarks>/data/{data}.tsv"
    wildcard_constraints:
        data=one_of(name for name in MADE if name not in SAMPLED),
    priority: 10
    conda:
        ENVIRONMENT
    threads: threads_of("data")
    resources:
        **needs("data", gpus=0),
    params:
        spec=lambda wildcards: canonical(config["data"][wildcards.data]),
        sheets=sheets_of_scale,
        policy=lambda wildcards, input: option("--policy", input.policy),
    shell:
        "rlsubnet data {wildcards.data} {params.sheets:q} {params.policy:q} --out {output} > {log} 2>&1"


# A model's own responses: the only data that a GPU makes.
use rule data as data_sampled with:
    wildcard_constraints:
        data=one_of(SAMPLED),
    resources:
        **needs("data"),


# The files of a published data set. Like `download` it needs the internet and nothing else.
rule fetch:
    output:
        directory("<work>/sources/{data}"),
    log:
        "<logs>/fetch/{data}.log",
    benchmark:
        "<benchmarks>/fetch/{data}.tsv"
    wildcard_constraints:
        data=one_of(FETCHED),
    conda:
        ENVIRONMENT
    threads: threads_of("download")
    resources:
        **needs("download"),
    params:
        spec=lambda wildcards: canonical(
            {
                key: config["data"][wildcards.data][key]
                for key in ("source", "revision", "files")
            }
        ),
        sheets=sheets_of_scale,
    shell:
        "rlsubnet fetch {wildcards.data} {params.sheets:q} --out {output} > {log} 2>&1"


rule adapt:
    input:
        "<work>/sources/{data}",
    output:
        ensure("<work>/data/{data}.jsonl", non_empty=True),
    log:
        "<logs>/adapt/{data}.log",
    benchmark:
        "<benchmarks>/adapt/{data}.tsv"
    wildcard_constraints:
        data=one_of(FETCHED),
    priority: 10
    conda:
        # With pyarrow, to read Parquet.
        "../../envs/open-instruct.yaml"
    threads: threads_of("data")
    resources:
        **needs("data"),
    params:
        spec=lambda wildcards: canonical(config["data"][wildcards.data]),
        sheets=sheets_of_scale,
    shell:
        "rlsubnet adapt {wildcards.data} {params.sheets:q} --source {input} --out {output} > {log} 2>&1"


# Several data sets of one kind as one.
rule mix:
    input:
        lambda wildcards: [
            layout.data_file(SCALE, part)
            for part in config["data"][wildcards.data]["parts"]
        ],
    output:
        ensure("<work>/data/{data}.jsonl", non_empty=True),
    log:
        "<logs>/mix/{data}.log",
    benchmark:
        "<benchmarks>/mix/{data}.tsv"
    wildcard_constraints:
        data=one_of(MIXED),
    priority: 10
    conda:
        ENVIRONMENT
    threads: threads_of("data")
    resources:
        **needs("data"),
    shell:
        "rlsubnet mix {input} --out {output} > {log} 2>&1"


rule contamination:
    input:
        train="<work>/data/{data}.jsonl",
        questions=[
            layout.data_file(SCALE, name) for name in config["contamination"]["items"]
        ],
    output:
        "<results>/contamination/{data}.csv",
    log:
        "<logs>/contamination/{data}.log",
    benchmark:
        "<benchmarks>/contamination/{data}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("data")
    resources:
        **needs("data"),
    params:
        questions=item_options(),
        ngram=config["contamination"]["ngram"],
        enough=config["contamination"]["enough"],
        threshold=config["contamination"]["threshold"],
        action=config["contamination"]["action"],
    shell:
        "rlsubnet contamination {input.train} --items {params.questions:q} --ngram {params.ngram}"
        " --enough {params.enough} --threshold {params.threshold} --action {params.action}"
        " --out {output} > {log} 2>&1"
