"""One function per figure: a tidy table in, a `Figure` out; no file access and no statistics."""

from rlsubnet.report.figures.draw import fig1, fig2, fig3, fig4, fig5, fig6, fig7

__all__ = ["fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7"]
