"""The words of a report: its title, and what a reader must know to use its table."""

from collections.abc import Mapping, Sequence

from lm_eval_specfair.metrics.figures import COSTS, METRICS
from lm_eval_specfair.metrics.groups import NO_GROUP
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.metrics.uncertainty import Figure
from lm_eval_specfair.reporting.tables import COLUMNS, interval, shown_columns

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
    if summary.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in summary.not_reported.items())
        lines.append(
            f"Not reported, with fewer than {summary.min_requests} requests (n): {small}. "
            "All requests includes them."
        )
    costs = [_cost(summary.overall[metric.name], metric.description) for metric in COSTS]
    if any(costs):
        lines.append(f"Costs of a step, {'; '.join(cost for cost in costs if cost)}.")
    return [*lines, *summary.notes, *_conditions(summary)]


def _cost(figure: Figure | None, description: str) -> str | None:
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
        f"{label} {_one_line(value)}"
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


def _one_line(value: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
