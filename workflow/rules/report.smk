# The paper's tables and figures, one rule each, from the small files in results/ alone.


for item in [item for item in TABLES if item != "verdicts"]:

    rule:
        name:
            item
        input:
            waist=sheets.item_files(SCALE, item),
        output:
            csv=report(
                f"<results>/tables/{item}.csv",
                caption=f"../report/{item}.rst",
                category="Tables",
                labels=labels_of(item),
            ),
            md=f"<results>/tables/{item}.md",
            tex=f"<results>/tables/{item}.tex",
        log:
            f"<logs>/{item}.log",
        benchmark:
            f"<benchmarks>/{item}.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            item=item,
            config=CONFIG_FILES,
            results=subpath(output.csv, ancestor=2),
            rows=item_rows(item),
        shell:
            "rlsubnet {params.item} --config {params.config} --results {params.results} > {log} 2>&1"


# The verdicts are a page of their own in the report: it shows HTML, not CSV.
rule verdicts:
    input:
        waist=sheets.item_files(SCALE, "verdicts"),
    output:
        top="<results>/verdicts.csv",
        csv="<results>/tables/verdicts.csv",
        md="<results>/tables/verdicts.md",
        tex="<results>/tables/verdicts.tex",
        page=report(
            "<results>/tables/verdicts.html",
            caption="../report/verdicts.rst",
            category="Verdicts",
            labels=labels_of("verdicts"),
        ),
    log:
        "<logs>/verdicts.log",
    benchmark:
        "<benchmarks>/verdicts.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=CONFIG_FILES,
        results=subpath(output.csv, ancestor=2),
        rows=item_rows("verdicts"),
    shell:
        "rlsubnet verdicts --config {params.config} --results {params.results} > {log} 2>&1"


for item in FIGURES:

    rule:
        name:
            item
        input:
            waist=sheets.item_files(SCALE, item),
        output:
            png=report(
                f"<results>/figures/{item}.png",
                caption=f"../report/{item}.rst",
                category="Figures",
                labels=labels_of(item),
            ),
            pdf=f"<results>/figures/{item}.pdf",
        log:
            f"<logs>/{item}.log",
        benchmark:
            f"<benchmarks>/{item}.tsv"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            item=item,
            config=CONFIG_FILES,
            results=subpath(output.png, ancestor=2),
            rows=item_rows(item),
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
                caption="../report/comparison.rst",
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
