# One job on two nodes, as a rule of the workflow starts it.
import sys

from rlsubnet.backends.launch import launched
from rlsubnet.config.read import job_resources, load_site

WANTED = {"runtime": 10, "gpus": 2, "nodes": 2}


rule train:
    output:
        "trained/done",
    log:
        "trained.log",
    threads: 1
    resources:
        **job_resources(WANTED, load_site(), "train"),
        mem_mb=1500,
    params:
        command=launched(
            2,
            "torchrun",
            1,
            sys.executable,
            ["-m", "tests.slurm.masked_training", "trained"],
        ),
    shell:
        "{params.command:q} > {log} 2>&1 && touch {output}"
