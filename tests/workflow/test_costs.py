"""What a scale costs, on numbers that can be added up by hand."""

import pytest

from rlsubnet.cli import main
from rlsubnet.config.plan import Cost, item_costs, item_needs


@pytest.fixture
def scale(micro):
    """Return the micro scale, trained from a released model of 1,000 weights on one GPU."""
    micro.replace("config.yaml", "models:\n", "models:\n  b: {source: x, parameters: 1000}\n")
    micro.set_cell("runs.tsv", "sft", "init", "b")
    micro.edit("config.yaml", lambda text: text + "resources: {train: {gpus: 1, runtime: 30, "
               "disk_mb: 2}, evaluate: {gpus: 2, runtime: 15, disk_mb: 3}}\n")  # fmt: skip
    return micro.load()


def test_an_item_needs_all_that_its_checkpoints_wait_for(scale):
    needs = item_needs(scale, "table3")
    assert (needs.models, needs.runs) == ({"b"}, {"sft", "dpo", "dpo_sub"})
    assert (needs.masks, needs.evaluated) == ({"dpo"}, {"dpo", "dpo_sub"})
    assert item_needs(scale, "table4").masks == {"dpo__official", "dpo_seed123__official"}


def test_costs_are_time_limits_times_gpus_and_bytes_of_what_is_kept(scale):
    costs = item_costs(scale)
    # Three runs of half an hour on one GPU, two evaluations of a quarter on two. Model and three
    # runs of 2,000 bytes, one mask of a bit a weight. An evaluation fills more than a training.
    assert costs["table3"] == Cost(3, 3 * 0.5 + 2 * 0.5, 4 * 2000 + 125, 3e6)
    # Two runs after the same start; two masks. One run saves three steps, each a tenth of a model.
    assert costs["table4"] == Cost(3, 1.5, 4 * 2000 + 2 * 125 + 3 * 200, 2e6)
    assert "table5" not in costs


def test_the_whole_counts_what_items_share_once(scale):
    # base is pretrained and stands in a pair: five runs, all evaluated, and the saved steps of one
    # for Figure 7. The weights of base have no count.
    assert item_costs(scale)["all"] == Cost(5, 5 * 0.5 + 6 * 0.5, 5 * 2000 + 3 * 125 + 3 * 200, 3e6)


def test_the_command_prints_the_paper_scale(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main(["plan", "--scale", "paper"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    # Table 3: full and sub, 8 GPUs for at most 48 hours each by DPO and 72 by PRIME, and one for 8
    # to evaluate each.
    assert lines["table3"][:2] == ["4", "1,952"]
    assert int(lines["table4"][0]) == 4
    # Figure 7: one run of PRIME, and one GPU for 8 hours to evaluate its saved steps.
    assert lines["fig7"][:2] == ["1", "584"]
    # Under way PRIME fills the most: two saves of 183 GB, a merged model twice, 21 deltas. DPO
    # fills two saves and the weights it exports.
    assert (lines["table4"][3], lines["fig7"][3], lines["table1"][3]) == ("280", "430", "0")
    assert main(["plan", "--scale", "nowhere"]) == 1
    assert "config/nowhere/config.yaml" in capsys.readouterr().err
