"""A comparison as one page that needs nothing else: plots, tables, no request to anywhere."""

import re
from collections.abc import Callable, Sequence

from markupsafe import Markup

from lm_eval_specfair.metrics.compare import Candidate
from lm_eval_specfair.metrics.groups import display_name
from lm_eval_specfair.reporting.compare import ComparisonReport
from lm_eval_specfair.reporting.compare_tables import footnotes, tables, title, words
from lm_eval_specfair.reporting.pages import page
from lm_eval_specfair.reporting.tables import shortened

_WIDTH, _LABELS, _RIGHT, _ROW = 720, 190, 30, 20
_NUMBER = re.compile(r"[<+-]?[0-9.,]+")


def as_html(report: ComparisonReport) -> str:
    """The page."""
    return page(
        "compare.html.j2",
        title=title(report),
        verdicts=report.verdicts,
        pareto=_pareto(report),
        forests=[_forest(report, candidate) for candidate in report.comparison.candidates],
        tables=tables(report),
        footnotes=footnotes(report),
        sort_key=sort_key,
    )


def sort_key(cell: str) -> str:
    """What a cell is sorted by: its first number where it starts with one, else its text."""
    found = _NUMBER.match(cell)
    return cell if found is None else found.group().lstrip("<+").replace(",", "")


def _forest(report: ComparisonReport, candidate: Candidate) -> Markup:
    """Each group's change with its interval, the greatest loss on top; nothing if none is known."""
    name, sign = report.metric.name, -1 if report.metric.lower_is_better else 1
    known = [
        (group, figure.value, *_ends(figure.low, figure.high, figure.value))
        for group, changes in candidate.groups.items()
        if (change := changes[name]) is not None
        for figure in [change.difference]
    ]
    if not known:
        return Markup("")
    known.sort(key=lambda each: sign * each[1])
    place = _scale(min(0.0, *(low for *_, low, _ in known)), max(0.0, *(e[3] for e in known)))
    height = _ROW * len(known) + 40
    said = f"{candidate.name}: change in {words(name)} against the base, with 95% intervals"
    rows = []
    for number, (group, value, low, high) in enumerate(known):
        y = 14 + _ROW * number
        kind = "gain" if sign * value >= 0 else "loss"
        rows.append(
            Markup(
                '<text x="{x}" y="{text}" text-anchor="end">{label}</text>'
                '<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
                '<circle class="{kind}" cx="{value:.1f}" cy="{y}" r="4"/>'
            ).format(
                x=_LABELS - 8,
                text=y + 4,
                label=shortened(display_name(group, report.comparison.group_by), 28),
                low=place(low),
                high=place(high),
                value=place(value),
                y=y,
                kind=kind,
            )
        )
    bottom = height - 30
    zero = Markup('<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{y}"/>').format(
        x=place(0), y=bottom
    )
    axis = [
        Markup('<text x="{x:.1f}" y="{y}" text-anchor="middle">{label}</text>').format(
            x=place(value), y=height - 12, label=f"{value:+.2f}"
        )
        for value in _ticks(min(e[2] for e in known), max(e[3] for e in known))
    ]
    return _figure(said, height, [zero, *rows, *axis])


def _pareto(report: ComparisonReport) -> Markup:
    """Each run's mean over groups against its worst group; nothing with fewer than two groups."""
    name = report.metric.name
    points = [
        (run, found.mean.value, found.worst.value, not found.beaten_by)
        for run, standings in report.comparison.standings.items()
        if (found := standings.get(name)) is not None
    ]
    if not points or len(report.comparison.groups) < 2:
        return Markup("")
    height, pad = 320, 0.15
    means, worsts = [p[1] for p in points], [p[2] for p in points]
    across = _padded(means, pad)
    up = _padded(worsts, pad)
    place = _scale(*across)
    marks = []
    for run, mean, worst, on_front in points:
        x = place(mean)
        y = (height - 50) - (worst - up[0]) / (up[1] - up[0]) * (height - 70)
        # Labels stay inside: to the left of points in the right half.
        left = x > _LABELS + (_WIDTH - _LABELS - _RIGHT) / 2
        marks.append(
            Markup(
                '<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
                '<text x="{tx:.1f}" y="{ty:.1f}" text-anchor="{anchor}">{label}</text>'
            ).format(
                kind="gain" if on_front else "loss",
                x=x,
                y=y,
                tx=x + (-10 if left else 10),
                ty=y + 4,
                anchor="end" if left else "start",
                label=f"{shortened(run, 40)} ({mean:.2f}, {worst:.2f})",
            )
        )
    axes = Markup(
        '<line class="axis" x1="{l}" x2="{r}" y1="{b}" y2="{b}"/>'
        '<line class="axis" x1="{l}" x2="{l}" y1="10" y2="{b}"/>'
        '<text x="{m}" y="{t}" text-anchor="middle">mean over groups</text>'
        '<text x="{w}" y="{h}" text-anchor="end">worst group</text>'
    ).format(
        l=_LABELS,
        r=_WIDTH - _RIGHT,
        b=height - 40,
        m=(_LABELS + _WIDTH - _RIGHT) / 2,
        t=height - 18,
        w=_LABELS - 8,
        h=height / 2,
    )
    said = f"{words(name).capitalize()}: mean over groups against the worst group, by run"
    return _figure(said, height, [axes, *marks])


def _figure(said: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        "<figure><figcaption>{said}</figcaption>"
        '<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{said}">'
        "{parts}</svg></figure>"
    ).format(said=said, width=_WIDTH, height=height, parts=Markup("").join(parts))


def _ends(low: float | None, high: float | None, value: float) -> tuple[float, float]:
    return (value if low is None else low, value if high is None else high)


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From a figure to a place on the horizontal axis."""
    width = (high - low) or 1.0
    return lambda value: _LABELS + (value - low) / width * (_WIDTH - _LABELS - _RIGHT)


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    room = share * (max(values) - min(values)) or 0.1 * abs(max(values)) or 0.1
    return min(values) - room, max(values) + room


def _ticks(low: float, high: float) -> list[float]:
    return sorted({min(low, 0.0), 0.0, max(high, 0.0)})
