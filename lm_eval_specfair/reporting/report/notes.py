"""The sentences of a report: its title, and what a reader must know to use its tables."""

from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.metrics.statistics.inequality import FOUR_FIFTHS
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, MIN_DOCUMENTS
from lm_eval_specfair.metrics.statistics.spread_measures import SHARE_THAT_LOSE, SPREAD_MEASURES
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import count, estimate_text, isolated, listed, prose
from lm_eval_specfair.reporting.report.record_notes import backend_notes, conditions
from lm_eval_specfair.reporting.report.repetition_notes import explained_notes
from lm_eval_specfair.reporting.report.report_tables import (
    COLUMNS,
    generated_requests,
    shown_columns,
)

_MOST_GROUPS = 8
# Of a drafter with the target's tokenizer, or where no text is scored, there is nothing to measure.
_OFTEN_NOTHING = (
    "draft_vocabulary_coverage", "accepted_bytes_share", "scored_agreement", "other_script_letters",
)  # fmt: skip
_LEAST_BIAS = 0.005  # what two digits show


def title(summary: Summary) -> str:
    """What the report is about, in one line."""
    counts, groups = summary.counts, len(set(summary.groups) - {NO_GROUP})
    generated = generated_requests(summary)
    scored = counts.requests - generated
    requests = count(counts.requests, "request")
    if scored and generated:
        requests = f"{generated:,} requests generated, {scored:,} scored"
    elif scored:
        requests += " scored"
    is_counted = summary.overall["draft_vocabulary_coverage"] is not None and not counts.spec_steps
    subject = "Draft-vocabulary coverage" if is_counted else "Speculative decoding"
    return (
        f"{subject} by {summary.group_by}: {count(groups, 'group')}, {requests}, "
        f"{count(counts.generated_tokens, 'token')}, {count(counts.spec_steps, 'step')}"
    )


def footnotes(summary: Summary) -> list[str]:
    """Definitions, uncertainty, costs and gaps: what a reader must know to use the table."""
    shown = shown_columns(summary)
    descriptions = {metric.name: metric.description for metric in METRICS}
    drawn = " (the same ones in all groups, as translations)" if summary.is_parallel else ""
    paired = summary.counts.paired_requests
    twice = f", {paired:,} of them decoded without a drafter too" if paired else ""
    lines = [
        *_small_samples(summary),
        *_agreeing_documents(summary),
        "Estimates are pooled: counts are summed over requests, then divided once. "
        f"n: requests that generate text (where there are none, those that score it){twice}.",
        *(f"{column.title}: {descriptions[column.metric]}." for column in shown),
        f"In brackets: 95% intervals from {summary.num_resamples:,} resamples of documents{drawn}.",
    ]
    missing = [
        column.title.lower()
        for column in COLUMNS
        if column not in shown and column.metric not in _OFTEN_NOTHING
    ]
    if missing:
        lines.append(f"Not measured in this run: {', '.join(missing)}.")
    spread = summary.disparity["mean_acceptance_length"]
    bias = None if spread is None else spread.statistics["difference_bias"]
    if bias is not None and bias.value >= _LEAST_BIAS:
        lines.append(
            "Noise drives extremes apart: the difference in mean acceptance length is too large by "
            f"about {bias.value:.2f} tokens."
        )
    lines += spread_notes(summary) + order_notes(summary) + explained_notes(summary)
    titles = {column.metric: column.title.lower() for column in COLUMNS}
    too_few = [
        f"{group} ({', '.join(titles[name] for name in names if name in titles)})"
        for group, names in summary.figures_not_reported.items()
        if titles.keys() & names
    ]
    if too_few:
        lines.append(
            f"Estimates from fewer than {summary.min_requests} requests, not reported: "
            f"{'; '.join(too_few)}."
        )
    if summary.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in summary.not_reported.items())
        lines.append(
            f"Not reported, with fewer than {summary.min_requests} requests, generated and scored "
            f"together (n; --min-requests asks for smaller groups): {small}. All requests includes "
            "them."
        )
    costs = [
        f"{letter} = {estimate_text(estimate, '.3f')} ({meaning})"
        for metric in COSTS
        if (estimate := summary.overall[metric.name]) is not None
        for letter, _, meaning in [metric.description.partition(": ")]
    ]
    if costs:
        lines.append(f"Costs per step, {'; '.join(costs)}.")
    lines += [*summary.notes, *summary.unchecked]
    return [*lines, *backend_notes(summary.run), *conditions(summary)]


def _small_samples(summary: Summary) -> list[str]:
    """What to do where there is no group, or no interval."""
    named = set(summary.groups) - {NO_GROUP}
    small = sum(group != NO_GROUP for group in summary.not_reported)
    if not named and small:
        return [
            f"No group has {summary.min_requests} requests, so only all requests are reported: run "
            "more documents (--limit), or ask for smaller groups with --min-requests. Intervals "
            f"need {MIN_DOCUMENTS} documents a group."
        ]
    bare = [
        isolated(group)
        for group, estimates in summary.groups.items()
        if any(
            each is not None and each.low is None
            for column in COLUMNS
            if column.has_interval
            for each in [estimates[column.metric]]
        )
    ]
    if not bare:
        return []
    return [
        f"Without an interval, as an estimate rests on fewer than {MIN_DOCUMENTS} documents: "
        f"{listed(bare, _MOST_GROUPS)}. No p-value can be given there either."
    ]


def _agreeing_documents(summary: Summary) -> list[str]:
    """What an interval without width means: resamples of equal documents are all equal."""
    agreeing = [
        isolated(group)
        for group, estimates in summary.groups.items()
        if any(
            each is not None and each.low is not None and each.low == each.high
            for column in COLUMNS
            if column.has_interval
            for each in [estimates[column.metric]]
        )
    ]
    if not agreeing:
        return []
    return [
        f"An interval without width ({listed(agreeing, _MOST_GROUPS)}): all documents gave the "
        "same value there. It does not say that the next one will."
    ]


def spread_notes(summary: Summary) -> list[str]:
    """How unevenly the speed-up is spread across groups."""
    name = next(
        (each for each in ("measured_speedup", "modelled_speedup") if summary.disparity[each]), None
    )
    spread = None if name is None else summary.disparity[name]
    if name is None or spread is None:
        return []
    label = prose(name)
    shown = [
        f"{measure.label} {estimate_text(estimate, '.3g')}"
        for key, measure in sorted(
            SPREAD_MEASURES.items(), key=lambda item: not item[1].is_variance
        )
        if not measure.is_extreme and not measure.only_speedups
        if (estimate := spread.statistics.get(key)) is not None
    ]
    lines = [f"Across groups, {label}: {', '.join(shown)}."]
    sides = [
        f"{side}: {', '.join(map(isolated, groups))}"
        for side, groups in zip(("above", "below"), differing_groups(summary, name), strict=True)
        if groups
    ]
    lines.append(
        f"Groups that differ from the mean of groups in {label}, p below {1 - CONFIDENCE:.2f} "
        f"after Holm's correction over {len(spread.deviations)} groups: "
        f"{'; '.join(sides) or 'none'}."
    )
    losing = spread.statistics[SHARE_THAT_LOSE]
    if losing is not None:
        lines.append(f"{losing.value:.0%} of groups lose (speed-up below 1).")
    gain, cost = (spread.statistics.get(key) for key in ("parity_gain", "parity_cost"))
    if gain is not None and cost is not None:
        lines.append(
            f"Lifting all groups to the best would save {gain.value:.0%} of the time spent on "
            f"equal work in every group, holding all to the worst would cost {cost.value:.0%} more."
        )
        ratio = spread.statistics["ratio"]
        if ratio is not None and ratio.value < FOUR_FIFTHS:
            lines.append(
                f"The ratio {ratio.value:.2f} is below the 0.8 of the four-fifths rule, a rule of "
                "thumb of US employment law on rates of hiring, named for comparison only."
            )
    return lines


def differing_groups(summary: Summary, metric: str) -> tuple[list[str], list[str]]:
    """The groups above, and below, the mean of groups by more than chance (after Holm)."""
    spread = summary.disparity[metric]
    assert spread is not None
    values = {
        group: estimate.value
        for group in spread.deviations
        if (estimate := summary.groups[group][metric]) is not None
    }
    mean = sum(values.values()) / len(values)
    differing = [g for g, p in spread.deviations.items() if p is not None and p < 1 - CONFIDENCE]
    above = [group for group in differing if values[group] > mean]
    return above, [group for group in differing if group not in above]


def order_notes(summary: Summary) -> list[str]:
    """What correlates with the speed-up across groups, and how stable their order is."""
    lines = [
        f"Across {each.num_groups} groups, {prose(each.figure)} against {prose(each.other)}: "
        f"Spearman {each.spearman:.2f} (p {each.spearman_p_adjusted:.3g}), Kendall "
        f"{each.kendall:.2f} (p {each.kendall_p_adjusted:.3g}), p by permutation after Holm."
        for each in summary.associations
        if each.figure == "modelled_speedup"
        or (each.figure, each.other) == ("conditional_acceptance_rate", "draft_vocabulary_coverage")
    ]
    lines += [
        f"Order of {len(each.groups)} groups by {prose(each.figure)} over {len(each.names)} "
        f"{each.over}: Kendall's W {each.w:.2f} (p {each.p_value:.3g})."
        for each in summary.concordances
    ]
    return lines
