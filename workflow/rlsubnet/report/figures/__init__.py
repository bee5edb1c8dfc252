"""One function per figure: a tidy table in, a `Figure` out; no file access and no statistics."""

from rlsubnet.report.figures.density import fig1
from rlsubnet.report.figures.layers import fig3
from rlsubnet.report.figures.loss import fig4
from rlsubnet.report.figures.trajectory import fig2, fig5, fig6, fig7

__all__ = ["fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7"]
