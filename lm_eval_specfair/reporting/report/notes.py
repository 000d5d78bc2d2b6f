"""The words of a report: its title, and what a reader must know to use its table."""

from collections.abc import Mapping, Sequence

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.metrics.definitions.registry import COSTS, METRICS
from lm_eval_specfair.metrics.statistics.bootstrap import CONFIDENCE, Estimate
from lm_eval_specfair.metrics.statistics.inequality import FOUR_FIFTHS
from lm_eval_specfair.metrics.statistics.spread_measures import SHARE_THAT_LOSE, SPREAD_MEASURES
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.backend_notes import backend_notes
from lm_eval_specfair.reporting.report.report_tables import (
    COLUMNS,
    interval,
    isolated,
    shown_columns,
)

_LEAST_BIAS = 0.005  # what two digits show


def title(summary: Summary) -> str:
    """What the report is about, in one line."""
    counts, groups = summary.counts, len(set(summary.groups) - {NO_GROUP})
    return (
        f"Speculative decoding by {summary.group_by}: {groups} group{'' if groups == 1 else 's'}, "
        f"{counts.requests:,} requests, {counts.generated_tokens:,} tokens, "
        f"{counts.spec_steps:,} steps"
    )


def footnotes(summary: Summary) -> list[str]:
    """What a reader must know to use the table: definitions, uncertainty, costs, gaps."""
    shown = shown_columns(summary)
    descriptions = {metric.name: metric.description for metric in METRICS}
    drawn = " (the same ones in all groups, as translations)" if summary.is_parallel else ""
    paired = summary.counts.paired_requests
    twice = f", {paired:,} of them also decoded plainly" if paired else ""
    lines = [
        "Figures are pooled: counts are summed over requests, then divided once. "
        f"n: requests that generate text (where there are none, those that score it){twice}.",
        *(f"{column.title}: {descriptions[column.metric]}." for column in shown),
        f"In brackets: 95% intervals from {summary.num_resamples:,} resamples of documents{drawn}.",
    ]
    missing = [column.title.lower() for column in COLUMNS if column not in shown]
    if missing:
        lines.append(f"Not measured in this run: {', '.join(missing)}.")
    spread = summary.disparity["mean_acceptance_length"]
    bias = None if spread is None else spread.statistics["difference_bias"]
    if bias is not None and bias.value >= _LEAST_BIAS:
        lines.append(
            "Noise drives extremes apart: the difference in mean acceptance length is too large by "
            f"about {bias.value:.2f} tokens."
        )
    lines += spread_notes(summary) + order_notes(summary)
    if summary.figures_not_reported:
        some = [f"{group} ({', '.join(names)})" for group, names in _measured_too_rarely(summary)]
        if some:
            lines.append(
                f"Figures on fewer than {summary.min_requests} requests, not reported: "
                f"{'; '.join(some)}."
            )
    if summary.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in summary.not_reported.items())
        lines.append(
            f"Not reported, with fewer than {summary.min_requests} requests (n): {small}. "
            "All requests includes them."
        )
    costs = [_cost(summary.overall[metric.name], metric.description) for metric in COSTS]
    if any(costs):
        lines.append(f"Costs of a step, {'; '.join(cost for cost in costs if cost)}.")
    return [*lines, *summary.notes, *backend_notes(summary.run), *_conditions(summary)]


def spread_notes(summary: Summary) -> list[str]:
    """How unevenly the speed-up is spread, in words and by every measure."""
    name = next(
        (each for each in ("measured_speedup", "modelled_speedup") if summary.disparity[each]), None
    )
    spread = None if name is None else summary.disparity[name]
    if name is None or spread is None:
        return []
    label = name.replace("_speedup", " speed-up")
    shown = [
        f"{measure.label} {figure.value:.3g} {interval(figure, 3)}".rstrip()
        for key, measure in sorted(
            SPREAD_MEASURES.items(), key=lambda item: not item[1].is_variance
        )
        if not measure.is_extreme and not measure.only_speedups
        if (figure := spread.statistics.get(key)) is not None
    ]
    lines = [f"Across groups, {label}: {', '.join(shown)}."]
    lines += _who_differs(summary, name, label)
    ratio, losing = spread.statistics["ratio"], spread.statistics[SHARE_THAT_LOSE]
    gain, cost = (spread.statistics.get(name) for name in ("parity_gain", "parity_cost"))
    if losing is not None:
        lines.append(f"{losing.value:.0%} of groups lose (speed-up below 1).")
    if gain is not None and cost is not None:
        lines[-1] += (
            f" Lifting all to the best would save {gain.value:.0%} of the time spent on equal work "
            f"in every group, holding all to the worst would cost {cost.value:.0%} more."
        )
    if ratio is not None and ratio.value < FOUR_FIFTHS:
        lines.append(
            f"The ratio {ratio.value:.2f} is below the 0.8 of the four-fifths rule, a rule of "
            "thumb of US employment law on rates of hiring; it is named for comparison and "
            "decides nothing here."
        )
    return lines


def _who_differs(summary: Summary, metric: str, label: str) -> list[str]:
    """The groups that are not only by chance above or below the mean of all."""
    spread = summary.disparity[metric]
    assert spread is not None
    values = {
        group: figure.value
        for group in spread.deviations
        if (figure := summary.groups[group][metric]) is not None
    }
    mean = sum(values.values()) / len(values)
    sides = {
        side: [
            group
            for group, p in spread.deviations.items()
            if p is not None and p < 1 - CONFIDENCE and (values[group] > mean) == (side == "above")
        ]
        for side in ("above", "below")
    }
    said = [
        f"{side}: {', '.join(isolated(g) for g in sides[side])}" for side in sides if sides[side]
    ]
    where = "; ".join(said) or "none"
    return [
        f"Groups that differ from the mean of groups in {label}, p below {1 - CONFIDENCE:.2f} "
        f"after Holm's correction over {len(values)} groups: {where}."
    ]


def order_notes(summary: Summary) -> list[str]:
    """What goes with the speed-up across groups, and how stable their order is."""
    lines = [
        f"Across {each.num_groups} groups, {_said(each.figure)} against {_said(each.other)}: "
        f"Spearman {each.spearman:.2f} (p {each.spearman_p_adjusted:.3g}), Kendall "
        f"{each.kendall:.2f} (p {each.kendall_p_adjusted:.3g}), p by permutation after Holm."
        for each in summary.associations
        if each.figure == "modelled_speedup"
    ]
    lines += [
        f"Order of {len(each.groups)} groups by {_said(each.figure)} over {len(each.names)} "
        f"{each.over}: Kendall's W {each.w:.2f} (p {each.p_value:.3g})."
        for each in summary.concordances
    ]
    return lines


def _said(name: str) -> str:
    return name.replace("_speedup", " speed-up").replace("_", " ")


def _measured_too_rarely(summary: Summary) -> list[tuple[str, list[str]]]:
    """Groups and those of the table's figures that rest on too few requests."""
    titles = {column.metric: column.title.lower() for column in COLUMNS}
    found = [
        (group, [titles[name] for name in names if name in titles])
        for group, names in summary.figures_not_reported.items()
    ]
    return [(group, names) for group, names in found if names]


def _cost(figure: Estimate | None, description: str) -> str | None:
    if figure is None:
        return None
    letter, _, meaning = description.partition(": ")
    return f"{letter} = {figure.value:.3f} {interval(figure, 3)}".rstrip() + f" ({meaning})"


def _conditions(summary: Summary) -> list[str]:
    """How the run was decoded and on what; of several runs, what they share."""
    parts = []
    for settings in summary.settings[:3]:
        text = f"gamma {settings.num_speculative_tokens}, temperature {settings.temperature:g}"
        text += "" if settings.top_k is None else f", top-k {settings.top_k}"
        text += "" if settings.top_p is None else f", top-p {settings.top_p:g}"
        parts.append(text)
    parts += [
        f"{label} {one_line(value)}"
        for label, *keys in (
            ("target", "pretrained", "target"),
            ("drafter", "drafter"),
            ("batch size", "batch_size"),
            ("dtype", "dtype"),
            ("on", "gpu", "processor", "device"),
        )
        if (value := _find(summary.run, keys)) is not None
    ]
    return [f"Decoded with {'; '.join(parts)}."] if parts else []


def _find(run: Mapping[str, object], keys: Sequence[str]) -> object:
    """The first of some keys that a run's description has, at its top or one level below."""
    nested = [value for key, value in run.items() if isinstance(value, dict) and key != "differing"]
    for key in keys:
        for level in (run, *nested):
            value = level.get(key)
            if isinstance(value, (str, int, float)) and str(value):
                return value
    return None
