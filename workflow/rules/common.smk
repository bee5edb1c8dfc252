# What the rules share: the scale, read and checked before any job, and small input functions.
import dataclasses
import json
import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from rlsubnet.config import SheetError, layout, load_scale, read, schema

CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles]

try:
    config = read.complete_config(config, CONFIG_FILES)
    SCALE = load_scale(config)
    SITE = read.load_site()
except (SheetError, OSError) as error:
    # Snakemake prints a WorkflowError without a traceback.
    raise WorkflowError(str(error)) from error

RELEASED_MODELS = [
    name for name, model in config["models"].items() if "source" in model
]
ENVIRONMENT = "../../envs/demo.yaml"


def one_of(names):
    """Return the pattern of a wildcard that is one of ``names``, or of one that matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def canonical(value):
    """Return JSON that is the same text for the same value: as a parameter it is provenance."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def memory(kind):
    """Return the memory of a job in MB, more with each attempt of a profile's ``retries``."""
    return lambda wildcards, attempt: config["resources"][kind]["mem_mb"] * attempt


def needs(kind, **changes):
    """Return the resources of a job; a change in them repeats nothing."""
    wanted = {**config["resources"][kind], **changes}
    return {"mem_mb": memory(kind), **read.job_resources(wanted, SITE, kind)}


def sheets_of_scale(wildcards, output):
    """Return the options that name the sheets; as a function of the output they are no provenance.

    What a job takes from them is a parameter of its rule besides.
    """
    given = workflow.config_settings.config.items()
    laid_over = ["--set", *(f"{key}={value}" for key, value in given)] if given else []
    return ["--config", *CONFIG_FILES, *laid_over]


def threads_of(kind):
    return config["resources"][kind]["threads"]
