"""One file says what a cluster wants; the profile and every rule read it."""

import re

import pytest
import yaml

from rlsubnet.config import SheetError, load_site
from rlsubnet.config.schema import Site


def test_the_example_says_every_key_and_its_default(repository, tmp_path):
    example = repository / "config" / "site.example.yaml"
    written = yaml.safe_load(example.read_text(encoding="utf-8"))
    assert list(written) == list(Site.model_fields)
    assert written == load_site(example) == load_site(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: me", "site.yaml, top level: unknown key 'acount' (did you mean 'account'?)"),
        ("partition: a b", "site.yaml, key partition: found 'a b', expected a text without spaces"),
        ("retries: -1", "site.yaml, key retries: expected a whole number of at least 0, found -1"),
        ("status_command: sstat", "site.yaml, key status_command:"),
        ("kinds: {train: {acount: me}}", "site.yaml, key kinds.train: unknown key 'acount'"),
        ("kinds: {trian: {qos: high}}", "key kinds.trian: unknown value 'trian' (did you"),
    ],
)
def test_a_mistake_in_the_site_file_is_named(tmp_path, text, message):
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SheetError) as error:
        load_site(tmp_path / "site.yaml")
    assert message in str(error.value)


def test_a_mistake_in_the_site_file_stops_snakemake_before_any_job(project):
    (project.root / "config/site.yaml").write_text("partitions: gpu", encoding="utf-8")
    result = project.snakemake("--dry-run")
    assert result.returncode == 1
    assert "config/site.yaml, top level: unknown key 'partitions'" in result.stdout + result.stderr


SITE = """\
account: lab
partition: short
gpu_partition: big
gpu_type: a100
constraint: ib
kinds: {train_open_instruct: {partition: long, qos: high, extra: --exclusive}}
per_group: 3
"""


def resources_of(output: str, rule: str) -> dict[str, str]:
    """Return the resources of the first job of a rule in a dry run."""
    block = re.search(rf"^rule {rule}:\n((?:    .*\n)+)", output, flags=re.MULTILINE)
    assert block, output
    line = re.search(r"^    resources: (.*)$", block[1], flags=re.MULTILINE)
    assert line, block[1]
    return dict(part.split("=", 1) for part in line[1].split(", "))


def test_the_profile_asks_slurm_for_what_the_site_file_says(project):
    (project.root / "config/site.yaml").write_text(SITE, encoding="utf-8")
    project.sheets.edit("config.yaml", lambda text: text + "resources: {train: {gpus: 2}}\n")
    result = project.snakemake("--profile", "slurm", "--dry-run", "verdicts")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    training, data = resources_of(output, "train"), resources_of(output, "data")
    assert (training["slurm_account"], training["slurm_partition"]) == ("lab", "big")
    assert (training["gres"], training["constraint"]) == ("gpu:a100:2", "ib")
    assert (data["slurm_account"], data["slurm_partition"]) == ("lab", "short")
    assert "gres" not in data


def test_a_kind_of_job_may_differ_from_the_others(project):
    (project.root / "config/site.yaml").write_text(SITE, encoding="utf-8")
    target = "work/paper/runs/dpo/final"
    output = project.snakemake("--profile", "slurm", "--dry-run", target, scale="paper").stdout
    found = resources_of(output, "train_open_instruct")
    assert (found["slurm_partition"], found["gres"]) == ("long", "gpu:a100:8")
    assert (found["qos"], found["slurm_extra"]) == ("high", "--exclusive")


@pytest.mark.parametrize("scale", ["micro", "demo"])
def test_without_a_site_file_jobs_name_no_partition_or_account(project, scale):
    output = project.snakemake("--profile", "slurm", "--dry-run", "fig1", scale=scale).stdout
    assert not {"slurm_partition", "slurm_account"} & set(resources_of(output, "train"))


def test_several_nodes_are_refused_where_a_job_is_one_process(project):
    project.sheets.edit("config.yaml", lambda text: text + "resources: {train: {nodes: 2}}\n")
    result = project.snakemake("--dry-run")
    assert result.returncode == 1
    assert "resources.train.nodes: expected 1" in result.stdout + result.stderr


def test_the_site_file_is_the_users_and_not_gits(repository):
    ignored = (repository / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "config/site.yaml" in ignored
