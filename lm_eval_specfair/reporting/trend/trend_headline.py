"""The verdict of a trend: a few sentences that a person can repeat."""

from lm_eval_specfair.metrics.statistics.level_breaks import LevelBreak
from lm_eval_specfair.reporting.claims import MOST_NAMED, name_of, noun_of, nouns_of
from lm_eval_specfair.reporting.format import count, isolated, prose, shortened
from lm_eval_specfair.reporting.trend.build_trend import Series, Trend

_MOST_BREAKS = 4


def trend_headline(trend: Trend) -> list[str]:
    """What broke in the longest series, what gates said, and what else there is."""
    series = trend.series[0]
    sentences = _breaks(trend, series) if len(series.points) > 1 else [_alone(trend, series)]
    sentences += _gates(series)
    if more := len(trend.series) - 1:
        broken = sum(bool(each.breaks) for each in trend.series[1:])
        others = "1 more series was" if more == 1 else f"{more} more series were"
        sentences.append(
            f"{others} measured under other conditions, {broken or 'none'} with a break."
        )
    if trend.left_out:
        sentences.append(f"{count(len(trend.left_out), 'place')} could not be used.")
    return sentences


def name_of_point(series: Series, number: int) -> str:
    """A run of a series, with its day."""
    point = series.points[number]
    return f"{isolated(shortened(point.name))} ({point.date:%Y-%m-%d})"


def _alone(trend: Trend, series: Series) -> str:
    return (
        f"There is one measurement of {count(len(series.groups), noun_of(trend.group_by))}, "
        f"{name_of_point(series, 0)}: no trend yet."
    )


def _breaks(trend: Trend, series: Series) -> list[str]:
    noun, nouns, what = noun_of(trend.group_by), nouns_of(trend.group_by), prose(trend.metric.name)
    over = (
        f"In {len(series.points)} measurements from {series.points[0].date:%Y-%m-%d} to "
        f"{series.points[-1].date:%Y-%m-%d}"
    )
    broken = list(dict.fromkeys(each.group for each in series.breaks))
    if not broken:
        return [
            f"{over}, no {noun} is shown to have left its level of {what}; changes smaller than "
            "the intervals cannot be told."
        ]
    sentences = [
        f"{over}, {len(broken)} of {len(series.groups)} {nouns} left a former level of {what}."
    ]
    sentences += [_one(trend, series, each) for each in series.breaks[:_MOST_BREAKS]]
    if (more := len(series.breaks) - _MOST_BREAKS) > 0:
        sentences.append(f"The tables have {count(more, 'more break')}.")
    return sentences


def _one(trend: Trend, series: Series, one: LevelBreak) -> str:
    verb = "rose" if one.after > one.before else "fell"
    return (
        f"{name_of(one.group, trend.group_by)} {verb} from {one.before:.2f} to {one.after:.2f} at "
        f"{name_of_point(series, one.run)}."
    )


def _gates(series: Series) -> list[str]:
    judged = [number for number, point in enumerate(series.points) if point.passed is not None]
    failed = [number for number in judged if not series.points[number].passed]
    if not judged:
        return []
    if not failed:
        return [f"No gate turned any of {len(judged)} down."]
    names = [name_of_point(series, number) for number in failed[:MOST_NAMED]]
    more = f", and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return [f"The gate turned down {len(failed)} of {len(judged)}: {', '.join(names)}{more}."]
