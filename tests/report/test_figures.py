"""Figures: what the axes say, that colors are constant, that files repeat bit by bit."""

import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from rlsubnet.config import Pair
from rlsubnet.report import figure_data, style
from rlsubnet.report.figures import draw_fig3, draw_fig4
from rlsubnet.report.results import NOT_RUN, Results
from rlsubnet.report.tables import COLUMNS
from rlsubnet.report.write import make_item, write_item
from tests.report.small_results import (
    DPO_UPDATES,
    FIGURES,
    METRICS,
    csv_of,
    make_pair,
    make_run,
    with_pairs,
    with_rows,
    write_results,
)


@pytest.fixture
def everything(scale):
    """Return the scale with a pair for every figure."""
    return with_pairs(scale, dpo={"items": ("fig1", "fig2", "fig3", "fig5", "fig6", "fig7")})


def words(figure: Figure) -> list[str]:
    """Return every visible text of a figure, as it is drawn."""
    FigureCanvasAgg(figure).draw()
    found = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text.get_text() for text in found if text.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_fig1_bars_are_densities_and_the_papers_are_hatched(everything, results, published):
    figure = make_item("fig1", everything, results, published)
    # SFT left 2 of 10 weights unchanged, DPO 6 of 10.
    ours, papers = (axes.patches for axes in figure.axes)
    assert [(bar.get_x(), bar.get_width()) for bar in ours] == [(0, 80.0), (0, pytest.approx(40))]
    edges = [colors.to_hex(bar.get_edgecolor()).upper() for bar in ours]
    assert edges == [style.METHODS["SFT"].color, style.METHODS["DPO"].color]
    assert [axes.get_xlabel() for axes in figure.axes] == ["Updated weights (%)"] * 2
    # The paper's range of SFT stages, then every model of its Table 1.
    assert (papers[0].get_x(), papers[0].get_x() + papers[0].get_width()) == (85, 94)
    assert len(papers) == 1 + len(published["table1"]["rows"])
    assert [bool(bar.get_hatch()) for bar in (*ours, *papers)] == [False] * 2 + [True] * len(papers)


def test_fig3_average_is_black_and_weighted(everything, results, published):
    figure = draw_fig3(figure_data.layers(everything, results))
    axes = figure.axes[0]
    lines = {colors.to_hex(line.get_color()): line for line in axes.get_lines()}
    assert lines["#000000"].get_ydata().tolist() == [60.0]
    assert sorted(line.get_ydata()[0] for line in axes.get_lines()) == [50.0, 60.0, 100.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "Sparsity (%)")
    assert legend(figure) == ["average of the layer", "q_proj", "input_layernorm"]
    # All panels share an axis, which shows the lowest point of each; four stand as a square.
    rows = [("a", "DPO", 0, "average", 90.0), ("b", "DPO", 0, "average", 10.0)]
    figure = draw_fig3(pd.DataFrame(rows, columns=COLUMNS["layers"]))
    assert all(axes.get_ylim()[0] < 10 < 90 < axes.get_ylim()[1] for axes in figure.axes)
    one = figure_data.layers(everything, results)
    four = pd.concat([one.assign(label=f"pair {number}") for number in range(4)])
    places = [axes.get_subplotspec().get_geometry()[:2] for axes in draw_fig3(four).axes]
    assert places == [(2, 2)] * 4


def test_pairs_that_share_a_label_stay_apart(everything, results, published):
    pair = dataclasses.replace(everything.pairs["dpo"], items=("fig3",))
    pairs = {name: dataclasses.replace(pair, pair=name) for name in ("dpo", "dpo_seed")}
    table = figure_data.layers(dataclasses.replace(everything, pairs=pairs), results)
    assert table["label"].unique().tolist() == ["label of dpo (dpo)", "label of dpo (dpo_seed)"]


def test_fig4_shows_the_difference_and_how_often_sub_is_lower(everything, results, published):
    table = figure_data.losses(everything, results)
    # full 0.7, 0.6, 0.5; sub 0.7, 0.4, 0.5.
    assert table["difference"].round(12).tolist() == [0.0, -0.2, 0.0]
    figure = draw_fig4(table)
    top, bottom = figure.axes
    assert legend(figure) == ["full finetuning", "subnetwork only"]
    assert (top.get_ylabel(), bottom.get_xlabel()) == ("Training loss", "Optimizer step")
    assert "mean -0.067; sub lower in 33 % of steps" in words(figure)
    shorter = METRICS.replace("3,0.5,,,1.0,,0.001,64\n", "")
    results = Results(write_results(results.folder, {"metrics/dpo_sub.csv": shorter}))
    with pytest.raises(ValueError, match=r"dpo_sub\.csv: 2 steps, expected the 3 steps"):
        figure_data.losses(everything, results)


def test_fig4_draws_the_mean_of_the_seeds_over_each_seed(seeded, results, published):
    other = {
        f"metrics/{run}.csv": METRICS.replace("1,0.7", f"1,{loss}")
        for run, loss in (("dpo_seed", 0.9), ("dpo_seed_sub", 0.8))
    }
    write_results(results.folder, other)
    table = figure_data.losses(seeded, results)
    assert table["label"].unique().tolist() == ["label of dpo_vs_sub"]
    assert table["seed"].unique().tolist() == ["42", "123", figure_data.MEAN]
    # Seed 42: sub 0.2 lower at step 2; seed 123: 0.1 lower at step 1. Of six steps two are lower.
    mean = table[table["seed"] == figure_data.MEAN]
    assert mean["difference"].round(12).tolist() == [-0.05, -0.1, 0.0]
    assert table["mean_difference"].iloc[0] == pytest.approx(-0.05)
    assert table["share_better_percent"].iloc[0] == pytest.approx(100 / 3)
    figure = draw_fig4(table)
    assert "label of dpo_vs_sub\nmean of 2 seeds" in words(figure)
    # Two light lines and a strong one for each of full and sub.
    assert [line.get_alpha() for line in figure.axes[0].get_lines()] == [0.25, 0.25, None] * 2


def test_fig4_shows_the_reward_where_responses_are_drawn(everything, results, published):
    online = with_rows(everything, make_run("dpo", algorithm="prime"))
    for run, reward in (("dpo", 0.5), ("dpo_sub", 0.75)):
        text = csv_of("metrics", f"1,0,{reward},0,1,,1e-3,64")
        write_results(results.folder, {f"metrics/{run}.csv": text})
    figure = draw_fig4(figure_data.losses(online, results))
    assert figure.axes[0].get_ylabel() == "Training reward"
    assert "mean +0.25; sub higher in 100 % of steps" in words(figure)


@pytest.mark.parametrize("settings", [2, 3, 5])
def test_fig4_keeps_several_settings_apart(settings, everything, results, published):
    one = figure_data.losses(everything, results)
    labels = [f"setting {number}, of full against its subnetwork" for number in range(settings)]
    figure = draw_fig4(pd.concat([one.assign(label=label) for label in labels]))
    assert len(figure.axes) == 2 * settings
    FigureCanvasAgg(figure).draw()
    # Two pixels are less than the space between letters.
    boxes = [axes.get_tightbbox().padded(-1) for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_fig1_keeps_controls_apart_and_labels_from_overlapping(everything, results, published):
    long = "from the start to SFT at RL's learning rate, out of distribution"
    again = dataclasses.replace(make_pair("again", "sft", "again", "SFT", "fig1"), label=long)
    rft = make_pair("rft", "sft", "rft", "RFT", "fig1")
    runs = [make_run(name, algorithm="sft") for name in ("again", "rft")]
    write_results(results.folder, {f"updates/{run.run}.csv": DPO_UPDATES for run in runs})
    changed = with_rows(everything, rft, again, *runs)
    table = figure_data.densities(changed, results, published)
    ours = table[table["origin"] == "ours"].set_index("method")["stage"]
    assert ours["RFT"] == figure_data.CONTROL_STAGE and ours["DPO"] == figure_data.RL_STAGE
    assert ours["SFT"].tolist() == [figure_data.SFT_STAGE, figure_data.CONTROL_STAGE]
    figure = make_item("fig1", changed, results, published)
    assert {"SFT", "RL", "Controls"} <= set(words(figure))
    for axes in figure.axes:
        texts = [*axes.get_yticklabels(), *axes.texts]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_fig2_takes_the_last_saved_step(everything, results, published):
    figure = make_item("fig2", everything, results, published)
    ours = [bar for bar in figure.axes[0].patches if bar.get_y() > 0.5]
    assert [bar.get_width() for bar in ours] == [70.0, 10.0, 20.0]
    paper = [bar for bar in figure.axes[0].patches if bar.get_y() < 0.5]
    assert [bar.get_width() for bar in paper] == [72, 8, 20]


def test_trajectory_figures_draw_per_cent_in_the_algorithms_color(everything, results, published):
    expected = {"fig5": [90.0, 80.0], "fig6": [10.0, 0.0], "fig7": [90.0, 80.0]}
    for item, values in expected.items():
        line = make_item(item, everything, results, published).axes[0].get_lines()[0]
        assert line.get_ydata() == pytest.approx(values)
        assert line.get_color() == style.METHODS["DPO"].color


def test_fig6_prints_both_shares_ever_updated_outside(everything, nothing, results, published):
    entry = {"ever_updated_outside_final": 12.5, "trend": "goes up and down"}
    figure = make_item("fig6", nothing, results, {"figures": {"fig6": entry}})
    assert "paper: goes up and down;\nabout 12.5 % ever updated outside" in words(figure)
    # Cancelled at the last step: 1 of 10.
    figure = make_item("fig6", everything, results, published)
    assert "label of dpo: 10.0 % ever updated outside" in words(figure)


def test_fig7_draws_accuracy_below_sparsity(everything, results, published):
    table = figure_data.step_accuracies(everything, results)
    assert set(table["label"]) == {"label of dpo"}
    sampled = table[table["decoding"] == "sampled"]
    # All levels together: 10, 12 and 20 of 40 right; step 0 is the start.
    assert sampled["step"].tolist() == [0, 5, 10]
    assert sampled["accuracy_percent"].tolist() == [25.0, 30.0, 50.0]
    assert sampled["low_percent"].tolist() == pytest.approx([20, 25, 45])
    figure = make_item("fig7", everything, results, published)
    [axes] = [axes for axes in figure.axes if axes.get_ylabel() == "Accuracy (%)"]
    first, second = axes.get_lines()
    assert first.get_ydata().tolist() == [25.0, 30.0, 50.0]
    assert second.get_ydata().tolist() == [10.0, 50.0, 90.0]
    assert first.get_color() == style.METHODS["DPO"].color
    assert legend(figure) == ["arith, sampled (95 % interval)", "arith, greedy"]
    [band] = axes.collections
    corners = band.get_paths()[0].vertices
    assert {(0.0, 20.0), (0.0, 30.0), (10.0, 55.0)} <= {(x, round(y, 6)) for x, y in corners}


def test_fig7_takes_no_suites_and_refuses_one_that_no_step_has(everything, results, published):
    config = {**everything.config, "evaluation": {"step_suites": []}}
    figure = make_item("fig7", dataclasses.replace(everything, config=config), results, published)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["(a) against the start", "(b) consecutive saved steps"]
    evaluation = {"backend": "native", "step_suites": ["other"]}
    config = {**everything.config, "evaluation": evaluation}
    with pytest.raises(ValueError, match=r"step_scores/dpo\.csv: no task other_sampled; found"):
        figure_data.step_accuracies(dataclasses.replace(everything, config=config), results)


@pytest.mark.parametrize("item", FIGURES)
@pytest.mark.parametrize("rows", ["everything", "nothing"])
def test_text_is_at_least_7_pt_inside_the_page_and_says_what_was_not_run(
    item, rows, request, results, published
):
    figure = make_item(item, request.getfixturevalue(rows), results, published)
    if rows == "nothing":
        assert any(NOT_RUN in text for text in words(figure))
    assert figure.get_figwidth() in (style.COLUMN_WIDTH, style.TEXT_WIDTH)
    for text in figure.findobj(Text):
        assert text.get_fontsize() >= 7, text.get_text()
    FigureCanvasAgg(figure).draw()
    # In inches; two hundredths are less than a stroke's width and its rounding.
    drawn = figure.get_tightbbox()
    assert drawn.x0 > -0.02 and drawn.x1 < figure.get_figwidth() + 0.02
    assert drawn.y0 > -0.02 and drawn.y1 < figure.get_figheight() + 0.02


def test_files_repeat_bit_by_bit_in_another_process(everything, results, published, tmp_path):
    code = (
        "import pickle, sys; from rlsubnet.report.write import write_item; "
        "facts = pickle.load(open(sys.argv[1], 'rb')); "
        "[write_item(item, *facts) for item in sys.argv[2:]]"
    )
    first = [path for item in FIGURES for path in write_item(item, everything, results, published)]
    written = {path: path.read_bytes() for path in first}
    assert [path.suffix for path in written] == [".png", ".pdf"] * len(FIGURES)
    for path in written:
        path.unlink()
    (tmp_path / "facts").write_bytes(pickle.dumps((everything, results, published)))
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", code, str(tmp_path / "facts"), *FIGURES]
    subprocess.run(command, check=True, env=environment)
    for path, content in written.items():
        assert path.read_bytes() == content
        if path.suffix == ".pdf":  # text stays text: embedded fonts, not drawn glyphs
            assert b"/FontFile2" in content
            assert b"/Type3" not in content and b"CreationDate" not in content


# How linear RGB is seen with a color vision deficiency (Machado et al. 2009)
VISION = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def lab(color: str, vision: str) -> np.ndarray:
    """Return a color as it is seen, in CIELAB."""
    rgb = np.array(colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_algorithms_can_be_told_apart_without_full_color_vision(vision):
    seen = {name: lab(look.color, vision) for name, look in style.METHODS.items()}
    for first, second in itertools.combinations(seen, 2):
        # 2.3 is just noticeable.
        distance = np.linalg.norm(seen[first] - seen[second])
        assert distance > 12, (first, second, round(float(distance), 1))


def test_every_method_has_a_color_and_marker_of_its_own():
    looks = list(style.METHODS.values())
    assert len({color for _, color, _ in looks}) == len({marker for *_, marker in looks}) == 12
    assert set(get_args(get_type_hints(Pair)["method"])) == set(style.METHODS)
