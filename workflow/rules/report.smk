# The paper's tables and figures, one rule each, from the small files in results/ alone.


for item in ITEMS.values():

    rule:
        name:
            item.name
        input:
            results=layout.item_files(SCALE, item.name),
        output:
            **item_outputs(item),
        log:
            f"<logs>/{item.name}.log",
        benchmark:
            f"<benchmarks>/{item.name}.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            item=item.name,
            config=CONFIG_FILES,
            results=subpath(output[0], ancestor=2),
            rows=item_rows(item.name),
        shell:
            "rlsubnet {params.item} --config {params.config} --results {params.results} > {log} 2>&1"


# Beside the committed results: which words and numbers another machine gave.
if COMPARED:

    rule compare:
        input:
            yours=[f"<results>/tables/{item}.csv" for item in TABLES],
            machines="<results>/machines.csv",
            reference=[f"{config['reference']}/tables/{item}.csv" for item in TABLES],
        output:
            csv="<results>/tables/comparison.csv",
            md="<results>/tables/comparison.md",
            tex="<results>/tables/comparison.tex",
            page=report(
                "<results>/tables/comparison.html",
                caption=caption("comparison"),
                category="Comparison",
                labels={"item": "comparison", "shows": "Yours beside the reference"},
            ),
        log:
            "<logs>/compare.log",
        benchmark:
            "<benchmarks>/compare.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            results=subpath(output.csv, ancestor=2),
            reference=lambda wildcards, input: Path(input.reference[0]).parents[1],
        shell:
            "rlsubnet compare {params.results} {params.reference} > {log} 2>&1"


rule tables:
    input:
        expand("<results>/tables/{item}.{kind}", item=TABLES, kind=["csv", "md", "tex"]),
    localrule: True


rule figures:
    input:
        expand("<results>/figures/{item}.{kind}", item=FIGURES, kind=["png", "pdf"]),
    localrule: True
