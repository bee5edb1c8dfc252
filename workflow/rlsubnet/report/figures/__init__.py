"""One function per figure of the paper: `data` computes its tidy table, `draw` draws it."""

from matplotlib.figure import Figure

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.report.figures import data, draw
from rlsubnet.report.results import Results


def fig1(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig1(data.densities(scale, results, published))


def fig2(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig2(data.trajectories("fig2", scale, results), published["figures"]["fig2"])


def fig3(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig3(data.layers(scale, results))


def fig4(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig4(data.losses(scale, results))


def fig5(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig5(data.trajectories("fig5", scale, results), published["figures"]["fig5"])


def fig6(scale: Scale, results: Results, published: Published) -> Figure:
    return draw.fig6(data.trajectories("fig6", scale, results), published["figures"]["fig6"])


def fig7(scale: Scale, results: Results, published: Published) -> Figure:
    steps = data.trajectories("fig7", scale, results)
    accuracies = data.step_accuracies(scale, results)
    return draw.fig7(steps, accuracies, published["figures"]["fig7"])
