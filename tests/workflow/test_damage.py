"""A checkpoint that was damaged after the workflow had made it."""

import os

import pytest

pytestmark = pytest.mark.slow

MODEL = "work/micro/runs/dpo/final/model.safetensors"
UPDATES = "results/micro/updates/dpo.csv"


def test_a_model_cut_short_behind_the_workflows_back_is_named_and_can_be_made_again(
    finished, tmp_path
):
    project = finished.copy_to(tmp_path, "work", "results", ".snakemake")
    model, updates = project.root / MODEL, project.root / UPDATES
    before = model.stat()
    os.truncate(model, before.st_size - 100)
    # As a damaged disk would leave it: nothing tells Snakemake.
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    updates.unlink()

    failed = project.snakemake(UPDATES)
    output = failed.stdout + failed.stderr
    assert failed.returncode == 1
    sizes = f"the header describes {before.st_size} bytes, the file has {before.st_size - 100}"
    assert f"{MODEL}: {sizes} (cut short)" in output
    assert not updates.exists()

    # What docs/CLUSTER.md says.
    for words in (("-f", "work/micro/runs/dpo/final"), (UPDATES,)):
        done = project.snakemake(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert model.read_bytes() == (finished.root / MODEL).read_bytes()
    assert updates.read_bytes() == (finished.root / UPDATES).read_bytes()
