"""Forest plots as one SVG file of its own: for a README, in light and dark, with alt text."""

from collections.abc import Sequence

from lm_eval_specfair.escape import xml
from lm_eval_specfair.reporting.page.drawings import text_width
from lm_eval_specfair.reporting.page.forest_plot import PlotRows
from lm_eval_specfair.reporting.page.shell import render_template

_NAMES, _TRACK, _VALUES = 160, 210, 110  # widths in pixels; two panels make 800
_TOP, _ROW, _BOTTOM = 70, 18, 10


def forest_svg(plots: Sequence[PlotRows], *, title: str, description: str) -> str:
    """An SVG document: panels of one row a group, beside each other, their rows matched by name.

    Title and description (the main values as text; shown where there is no panel) are for screen
    readers.
    """
    names = list(dict.fromkeys(row.name for plot in plots for row in plot.rows))
    panels = [
        {"plot": plot, "rows": [(names.index(row.name), row) for row in plot.rows]}
        for plot in plots
    ]
    return render_template(
        "forest.svg.j2",
        title=xml(title),
        description=xml(description),
        names=[_fitted(xml(name)) for name in names],
        panels=panels,
        width=_NAMES + max(len(plots), 1) * (_TRACK + _VALUES),
        height=_TOP + max(len(names), 1) * _ROW + _BOTTOM,
        names_width=_NAMES,
        track=_TRACK,
        values=_VALUES,
        top=_TOP,
        row=_ROW,
    )


def _fitted(name: str) -> str:
    """A name cut to the width of its column."""
    cut = name
    while text_width(cut) * 12 / 11 > _NAMES - 12:
        cut = cut[:-1]
    return name if cut == name else f"{cut[:-1]}\u2026"
