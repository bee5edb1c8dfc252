"""Claims of the paper beside a small scale whose numbers can be worked out by hand."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from rlsubnet.config import Comparison, load_config
from rlsubnet.report.results import Results
from rlsubnet.report.verdicts import verdicts
from rlsubnet.report.verdicts.numbers import Pace, pace_of
from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN, WORDS
from rlsubnet.report.write import write_item
from tests.report import small_results as small
from tests.report.small_results import with_rows

ANSWERS = [("arith_sampled", "1", f"p{item}", 4, 2) for item in range(4)]
SCORES = small.csv_of("scores", "arith_sampled,all,16,8,0.0,1.0,clustered,native,ab")
OVERLAPS = small.csv_of(
    "overlap",
    "uniform,0.75,0.6,0.5,0.4,1.5,1.4,1.6",
    "per_tensor,0.75,0.6,0.7,0.56,1.07,1.0,1.1",
    "per_magnitude,0.75,0.6,0.75,0.6,1.0,0.9,1.1",
)
# Ten weights, a constant rate: 9, 8, 7, 6 of them unchanged after steps 10 to 40.
STEPS = ["10,0.9,0.9,0.0,9,0,1", "20,0.8,0.9,0.1,8,0,2", "30,0.7,0.9,0.05,7,0,3"]
TRAJECTORY = small.csv_of("trajectory", *STEPS, "40,0.6,0.9,0.0,5,1,4")


@pytest.fixture
def full(scale, results, repository: Path):
    """Return the small scale with recipes and answers; full answers 8 of 16, sub and start too."""
    answers = small.answers_csv(ANSWERS)
    runs = ("sft", "dpo", "dpo_sub")
    small.write_results(
        results.folder,
        {f"answers/{run}.csv.gz": answers for run in runs}
        | {f"scores/{run}.csv": SCORES for run in runs}
        | {"overlap/seed.csv": OVERLAPS, "trajectory/dpo.csv": TRAJECTORY},
    )
    recipes = load_config([repository / "config" / "demo" / "config.yaml"])["recipes"]
    config = {**scale.config, "recipes": {**recipes, "sft": {**recipes["rl"], "lr": 1e-3}}}
    base = small.make_run("base", algorithm="pretrain", init="tiny", data="text")
    sft = small.make_run("sft", algorithm="sft", init="base", recipe="sft")
    return with_rows(dataclasses.replace(scale, config=config), base, sft)


def judged(scale, results, published) -> dict[str, dict[str, str]]:
    rows = verdicts(scale, results, published).to_dict("records")
    return {str(row["id"]): {str(k): str(v) for k, v in row.items()} for row in rows}


def word(found: dict[str, dict[str, str]], id: str) -> str:
    return found[id]["verdict"]


def test_observations_are_judged_here_and_numbers_on_the_same_model(full, results, published):
    found = judged(full, results, published)
    # DPO leaves 6 of 10 weights unchanged, the SFT stage 2 of 10.
    assert word(found, "takeaway1/sparse") == AGREES
    assert found["takeaway1/sparse"]["here"] == "60.0 % (dpo)"
    assert word(found, "takeaway1/sft_dense") == word(found, "fig1") == AGREES
    # Full and sub share 9 of 10 weights, start and full 6 of 10: 10 <= 40 / 2.
    assert word(found, "conjecture1/weights_1e-5") == AGREES
    assert found["conjecture1/weights_1e-5"]["here"] == (
        "90.000 % (dpo_sub); null, start against full: 60.0 % (dpo_sub)"
    )
    # 100 % at 1e-4, the null 80 %.
    assert word(found, "conjecture1/weights_1e-4") == AGREES
    # Norms: 2 of 2 unchanged. Ranks (100 + 75) / 2, below 95.
    assert word(found, "takeaway2/norms") == AGREES
    assert word(found, "takeaway2/full_rank") == DIFFERS
    # Loss 0.6 -> 0.4 at one step of three.
    assert word(found, "fig4") == DIFFERS
    for id in ("table1/Llama-3.1-Tulu-3-8B-DPO", "table4/Seed", "takeaway1/often_above_70"):
        assert word(found, id) == NOT_COMPARABLE
    row = found["table1/Llama-3.1-Tulu-3-8B-DPO"]
    assert (row["paper"], row["here"]) == ("81.4 %", "60.0 % (dpo)")


def test_every_claim_and_row_has_one_id_one_word_and_a_rule(full, results, published):
    found = judged(full, results, published)
    for table in ("table1", "table2", "table5", "table6", "table3a", "table3b", "table4"):
        rows = [id for id in found if id.startswith(f"{table}/")]
        assert len(rows) == len(published[table]["rows"])
    assert word(found, "table1/DeepSeek-R1-Zero") == NOT_RUN
    frame = verdicts(full, results, published)
    assert frame["id"].is_unique and len(frame) == len(found)
    assert set(frame["verdict"]) <= set(WORDS)
    assert (frame[["claim", "where", "paper", "decided_by"]] != "").all(axis=None)
    assert not [id for id in frame["id"] if re.search(r"\s", id)]
    places = [f"Takeaway {n}" for n in range(1, 5)] + [f"Figure {n}" for n in range(1, 8)]
    where = " ".join(frame["where"])
    assert [place for place in (*places, "Conjecture 1") if place not in where] == []
    empty = dataclasses.replace(full, pairs={}, comparisons={}, runs={})
    assert set(verdicts(empty, results, published)["verdict"]) == {NOT_RUN}


def test_sft_at_rls_rate_and_steps_decides_whether_rl_is_the_reason(full, results, published):
    assert word(judged(full, results, published), "takeaway1/because_rl") == NOT_RUN
    control = small.make_run("again", algorithm="sft")
    pair = small.make_pair("again", "sft", "again", "SFT", "table1")
    for updates, verdict in ((small.DPO_UPDATES, DIFFERS), (small.SFT_UPDATES, AGREES)):
        small.write_results(results.folder, {"updates/again.csv": updates})
        fresh = Results(results.folder)
        found = judged(with_rows(full, pair, control), fresh, published)
        assert word(found, "takeaway1/because_rl") == verdict
        assert word(found, "takeaway1/sft_dense") == AGREES  # the control is no SFT stage
    other = dataclasses.replace(control, set="steps=400")
    found = judged(with_rows(full, pair, other), results, published)
    assert word(found, "takeaway1/because_rl") == NOT_RUN


def test_overlap_and_equal_accuracy_are_judged_by_what_else_explains_them(full, results, published):
    found = judged(full, results, published)
    assert word(found, "takeaway3/seed") == AGREES
    # 0.75 of 0.75: a ratio of 1, its interval from 0.9 to 1.1.
    assert word(found, "takeaway3/seed_structure") == DIFFERS
    assert "ratio 1.000 (0.900 to 1.100) (seed)" in found["takeaway3/seed_structure"]["here"]
    assert word(found, "takeaway3/data") == NOT_RUN
    renamed = Comparison("seed", "dpo", "dpo_seed", "data", ("table4",), "A", "B", "")
    data = dataclasses.replace(full, comparisons={"seed": renamed})
    assert word(judged(data, results, published), "takeaway3/data") == AGREES
    # Equal accuracy says nothing where full gained nothing.
    assert word(found, "conjecture1/accuracy") == AGREES
    gains = dataclasses.replace(full.pairs["dpo"], items=("gains",))
    found = judged(with_rows(full, gains), results, published)
    assert word(found, "conjecture1/accuracy") == NOT_COMPARABLE
    assert "full - start: 0.0 points (dpo)" in found["conjecture1/accuracy"]["here"]


def test_the_course_of_a_run_is_judged_by_its_saved_steps(full, results, published):
    items = tuple(f"fig{number}" for number in (2, 5, 6, 7))
    shown = with_rows(full, dataclasses.replace(full.pairs["dpo"], items=items))
    found = judged(shown, results, published)
    # Never 5, subnetwork 4, cancelled 1 of ten.
    assert word(found, "fig2") == AGREES
    assert found["fig2"]["here"] == "never 50.0 %, subnetwork 40.0 %, cancelled 10.0 % (dpo)"
    assert word(found, "fig5/decay") == word(found, "fig7/all_steps_sparse") == AGREES
    # The recipe's rate falls linearly to 0: no convergence could be told from it.
    assert word(found, "fig5/convergence") == NOT_COMPARABLE
    constant = with_rows(shown, small.make_run("dpo", set="schedule=constant"))
    # The last quarter takes 10 of 40 points, more than an eighth.
    assert word(judged(constant, results, published), "fig5/convergence") == DIFFERS
    # 0, 10, 5, 0: a peak in the middle.
    assert word(found, "fig6") == AGREES


def test_released_checkpoints_of_the_paper_are_compared_number_by_number(full, results, published):
    tulu = "Llama-3.1-Tulu-3-8B"
    # Of ten weights, one cannot come nearer than 80: paper 81.4, more than 0.5 away.
    text = small.updates_csv(6, 6, 6, 6, q_bitwise=2)
    small.write_results(results.folder, {"updates/released.csv": text})
    items = "table1,table5"
    pair = small.make_pair("released", f"{tulu}-SFT", f"{tulu}-DPO", "DPO", items, f"{tulu}-DPO")
    found = judged(with_rows(full, pair), results, published)
    assert word(found, f"table1/{tulu}-DPO") == DIFFERS
    assert found[f"table1/{tulu}-DPO"]["here"] == f"80.0 % ({tulu}-DPO)"
    # Table 5 shortens its name.
    assert word(found, "table5/Llama-3.1-8B-DPO/DPO") == DIFFERS
    rows = [{**row, "sparsity": 80.4} for row in published["table1"]["rows"]]
    near = {**published, "table1": {**published["table1"], "rows": rows}}
    assert word(judged(with_rows(full, pair), results, near), f"table1/{tulu}-DPO") == AGREES
    # Another start is another pair.
    other = dataclasses.replace(pair, init="Llama-3.1-8B")
    found = judged(with_rows(full, other), results, near)
    assert word(found, f"table1/{tulu}-DPO") == NOT_COMPARABLE


def test_in_and_out_of_distribution_are_compared_at_equal_rate_and_steps(full, results, published):
    updates = {"updates/rft.csv": small.DPO_UPDATES, "updates/ood.csv": small.SFT_UPDATES}
    small.write_results(results.folder, updates)
    rft, ood = small.make_run("rft", algorithm="rft"), small.make_run("ood", init="base")
    inside = small.make_pair("rft", "sft", "rft", "RFT", "table5", "Qwen2.5-Math-7B")
    outside = small.make_pair("ood", "base", "ood", "DPO", "table1,table5", "Llama-3.1-8B-SFT")
    both = with_rows(full, inside, rft, outside, ood)
    found = judged(both, results, published)
    for claim in ("sft_in_distribution", "rl_out_of_distribution", "data_decides"):
        assert word(found, f"takeaway4/{claim}") == AGREES
    # DPO on other data is a control of Table 5, whatever table shows it.
    assert "ood" not in found["takeaway1/sparse"]["here"]
    # No more are runs of another optimizer than the paper's.
    other = with_rows(both, small.make_run("dpo", set="optimizer=sgd"))
    assert word(judged(other, results, published), "takeaway1/sparse") == NOT_RUN
    faster = dataclasses.replace(ood, set="lr=1e-3")
    found = judged(with_rows(both, faster), results, published)
    assert word(found, "takeaway4/data_decides") == NOT_RUN


def with_grpo(scale, results, run: str, metrics: str, updates=small.DPO_UPDATES, **more):
    """Return the scale with a GRPO run, whose files are written."""
    files = {f"updates/{run}.csv": updates, f"metrics/{run}.csv": metrics}
    small.write_results(results.folder, files)
    pair = small.make_pair(run, "sft", run, "GRPO", "section6")
    return with_rows(scale, pair, small.make_run(run, algorithm="grpo", **more))


def test_leaving_out_clipping_says_something_only_if_clipping_acted(full, results, published):
    # The gradient's norm is 1.0 at every step.
    both = with_grpo(full, results, "clipped", small.METRICS, set="clip=0.5")
    both = with_grpo(both, results, "free", small.METRICS, set="clip=null")
    again = {"set": "clip=null", "seed": 7}
    both = with_grpo(both, results, "seed", small.METRICS, small.SFT_UPDATES, **again)
    found = judged(both, results, published)
    assert word(found, "takeaway4/clipping") == AGREES
    assert found["takeaway4/clipping"]["here"] == (
        "60.0 % with (clipped), 60.0 % without (free), clipping at 0.5 acted at 100 % of the "
        "steps; seeds alone differ by 40.0 points"
    )
    assert word(found, "takeaway4/kl") == NOT_RUN
    weak = {"metrics/clipped.csv": small.METRICS.replace(",1.0,", ",0.1,")}
    fresh = Results(small.write_results(results.folder, weak))
    assert word(judged(both, fresh, published), "takeaway4/clipping") == NOT_COMPARABLE


def test_a_random_subnetwork_decides_whether_it_takes_this_one(full, results, published):
    control = small.make_run("random", mask="dpo:random")
    pair = small.make_pair("dpo_vs_random", "dpo", "random", "DPO", "section4")
    gained = [small.make_pair(run, "sft", run, "DPO", "gains") for run in ("dpo", "random")]
    shown = with_rows(full, pair, control, *gained)
    # Of 16 answers the start has 8 right, full 12 and the control 9: four items, control - full
    # 0, -1/4, -1/4, -1/4; their mean -3/16, its standard error 1/8 / sqrt(4) = 1/16, z = -3.
    better, half = (small.answers_csv([(*row[:4], right) for row in ANSWERS]) for right in (3, 2))
    half = half.replace(",p0,4,2", ",p0,4,3")
    small.write_results(
        results.folder,
        {
            # Full and sub differ in one weight of ten, full and the control in four.
            "updates/dpo_vs_random.csv": small.DPO_UPDATES,
            "updates/random.csv": small.DPO_UPDATES,
            "frozen/random.csv": small.FROZEN,
            "answers/dpo.csv.gz": better,
            "answers/random.csv.gz": half,
            "scores/random.csv": SCORES,
        },
    )
    found = judged(shown, results, published)
    assert word(found, "conjecture1/this_subnetwork_weights") == AGREES
    assert found["conjecture1/this_subnetwork_weights"]["here"] == (
        "the same at 1e-5: 60.000 % for full and random, 90.000 % for full and sub"
    )
    assert word(found, "conjecture1/this_subnetwork_accuracy") == AGREES
    assert found["conjecture1/this_subnetwork_accuracy"]["here"] == (
        "random - dpo: -18.8 points (SE 6.2, p 0.003), where dpo gained 25.0 on its start"
    )
    # The control's rows are no proof of the conjecture itself.
    assert "random" not in found["conjecture1/weights_1e-5"]["here"]


@pytest.mark.parametrize(("kl", "verdict"), [(0.09, AGREES), (0.099, NOT_COMPARABLE)])
def test_a_kl_term_says_something_only_if_it_lowered_the_divergence(
    kl, verdict, full, results, published
):
    # Without the term the divergence is 0.1, with it a tenth less, or a hundredth.
    both = with_grpo(full, results, "free", small.METRICS.replace(",,,", ",,0.1,"))
    logged = small.METRICS.replace(",,,", f",,{kl},")
    both = with_grpo(both, results, "kl", logged, set="kl_coef=0.1")
    assert word(judged(both, results, published), "takeaway4/kl") == verdict


def test_the_pace_of_a_chain_of_runs_sums_their_steps(full):
    first = small.make_run("first")
    second = small.make_run("second", init="first", set="steps=50")
    pair = small.make_pair("chain", "sft", "second", "RAFT++", "")
    chain = with_rows(full, pair, first, second)
    assert pace_of(chain, pair) == Pace(3e-6, 250, "linear", "adamw")
    other_rate = with_rows(chain, pair, dataclasses.replace(second, set="lr=1e-3"))
    assert pace_of(other_rate, pair) is None
    assert pace_of(chain, dataclasses.replace(pair, init="somewhere")) is None


def test_files_stand_where_the_report_and_a_reader_look(full, results, published):
    paths = write_item("verdicts", full, results, published)
    names = [str(path.relative_to(results.folder)) for path in paths]
    kinds = ("csv", "md", "tex", "html")
    assert names == [*(f"tables/verdicts.{kind}" for kind in kinds), "verdicts.csv"]
    top = (results.folder / "verdicts.csv").read_text()
    assert top == paths[0].read_text()
    rows = list(csv.DictReader(top.splitlines()))
    page = paths[3].read_text()
    assert page.count("<tr><td>") == len(rows)
    assert page.count('<span class="word agrees">') == sum(r["verdict"] == AGREES for r in rows)
    assert "p &lt; 0.05" in page
    counts = ", ".join(f"{w} {sum(row['verdict'] == w for row in rows)}" for w in WORDS)
    for path in paths[1:4]:
        assert counts in path.read_text()
    text = paths[2].read_text()
    blocks = text.split(r"\begin{longtable}")[1:]
    assert len(blocks) == text.count(r"\end{longtable}") == 11
    assert text.count(r"\caption{") == 1 and text.count(r"\caption*{") == 10
    assert text.count(r"\addlinespace") == len(rows)
    for block in blocks:
        first, *lines = block.splitlines()
        cells = [line for line in lines if line.endswith(r"\addlinespace")]
        # As many as have a width, and the verdict.
        widths = first.count(r"\linewidth")
        assert {line.replace(r"\&", "").count("&") for line in cells} == {widths}
