"""Where runs were made, from their manifests."""

import csv
import json
from pathlib import Path

from rlsubnet.cli import main
from rlsubnet.machine import describe_environment, processor


def folder(root: Path, run: str, **facts: object) -> Path:
    final = root / run / "final"
    final.mkdir(parents=True)
    (final / "manifest.json").write_text(json.dumps({"row": {"run": run}, **facts}))
    return final


def test_each_run_has_a_row_that_says_its_machine(tmp_path):
    described = describe_environment(["numpy", "no-such-package"])
    assert described["packages"]["no-such-package"] is None
    finals = [folder(tmp_path, "dpo", **described), folder(tmp_path, "older")]
    out = tmp_path / "machines.csv"
    assert main(["machines", *map(str, finals), "--out", str(out)]) == 0
    with out.open() as stream:
        now, before = csv.DictReader(stream)
    assert now["run"] == "dpo" and processor() in now["device"]
    assert now["numpy"] and before["numpy"] == before["device"] == ""


def test_the_order_of_summation_that_was_asked_for_is_recorded(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert describe_environment([])["arithmetic"].endswith(", MKL_CBWR=COMPATIBLE")


def test_a_folder_without_a_manifest_is_refused(tmp_path, capsys):
    assert main(["machines", str(tmp_path), "--out", str(tmp_path / "out.csv")]) == 1
    assert f"{tmp_path}/manifest.json: expected the manifest of a trained run" in (
        capsys.readouterr().err
    )
