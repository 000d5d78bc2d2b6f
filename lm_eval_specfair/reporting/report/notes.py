"""The sentences of a report: its title, and what a reader must know to use its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.metrics.statistics.inequality import FOUR_FIFTHS
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.statistics.spread_measures import SHARE_THAT_LOSE, SPREAD_MEASURES
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import count, estimate_text, isolated, prose
from lm_eval_specfair.reporting.report.answer_quality import Quality
from lm_eval_specfair.reporting.report.report_tables import (
    COLUMNS,
    generated_requests,
    shown_columns,
)
from lm_eval_specfair.reporting.runs import RunReader

_LEAST_BIAS = 0.005  # what two digits show
_VLLM = (
    "Decoded by vLLM: a text's first token comes from the prompt's pass and counts as a step "
    "without drafts; the time of a step is shared by its requests; drafting and verifying are not "
    "distinguished, so only the whole cost of a step is known."
)
_VLLM_FLAGS = {
    "lossy": "Not lossless, by its settings ({}): the texts need not be the target's.",
    "adaptive": "The draft length was not constant ({}): it follows load or confidence.",
    "other_rule": "Drafts were chosen or accepted by another rule ({}): their acceptance is no "
    "estimate of the overlap of the two distributions.",
}


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
    return (
        f"Speculative decoding by {summary.group_by}: {count(groups, 'group')}, {requests}, "
        f"{count(counts.generated_tokens, 'token')}, {count(counts.spec_steps, 'step')}"
    )


def run_notes(readers: Sequence[RunReader], quality: Quality) -> list[str]:
    """What a reader must know of the runs that were read, and of their answers' quality."""
    notes, seen, num_repeated = [], set[str](), 0
    for reader in readers:
        ids = reader.request_ids
        num_repeated += len(ids & seen)
        seen |= ids
        if reader.is_unfinished:
            notes.append(
                f"The run in {reader.name} did not finish; its estimates rest on the {len(ids)} "
                "requests that did."
            )
        if strange := reader.unknown_tasks:
            notes.append(
                f"{reader.name} holds records of tasks that its run.json does not name, such as "
                f"{one_line(strange[0])}: were two runs written into one folder?"
            )
    if num_failed := sum(reader.num_failed for reader in readers):
        notes.append(
            f"{num_failed} of {len(seen)} requests failed and are left out; `failure` in their "
            "records says why."
        )
    if num_repeated:
        notes.append(f"{num_repeated} requests are in several runs; every estimate pools them.")
    if differing := _differing_settings([reader.info for reader in readers]):
        notes.append(
            f"The runs differ in {', '.join(differing)}: every estimate pools them. "
            "`specfair compare` sets runs against each other."
        )
    if quality.scores:
        metrics = sorted(
            {name.removesuffix(",none").replace(",", " of ") for name in quality.metrics.values()}
        )
        notes.append(
            f"Answer quality: {', '.join(metrics)}, from lm-eval's samples; {quality.num_checked} "
            "texts agree with the records."
        )
    return notes


def _differing_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of settings in which runs differ."""
    all_settings = [
        dict(settings) if isinstance(settings := run.get("settings"), dict) else {} for run in runs
    ]
    for role in ("target", "drafter"):
        if all(settings.get(f"{role}_weights") for settings in all_settings):
            for settings in all_settings:  # the same weights may be in several places
                settings.pop(role, None)
    return sorted(
        {
            one_line(name.removesuffix("_weights"))
            for settings in all_settings
            for name in settings
            if any(other.get(name) != settings[name] for other in all_settings)
        }
    )


def footnotes(summary: Summary) -> list[str]:
    """Definitions, uncertainty, costs and gaps: what a reader must know to use the table."""
    shown = shown_columns(summary)
    descriptions = {metric.name: metric.description for metric in METRICS}
    drawn = " (the same ones in all groups, as translations)" if summary.is_parallel else ""
    paired = summary.counts.paired_requests
    twice = f", {paired:,} of them decoded without a drafter too" if paired else ""
    lines = [
        "Estimates are pooled: counts are summed over requests, then divided once. "
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
    if too_few := _measured_too_rarely(summary):
        lines.append(
            f"Estimates from fewer than {summary.min_requests} requests, not reported: "
            f"{'; '.join(too_few)}."
        )
    if summary.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in summary.not_reported.items())
        lines.append(
            f"Not reported, with fewer than {summary.min_requests} requests (n): {small}. "
            "All requests includes them."
        )
    costs = [
        f"{letter} = {estimate_text(estimate, '.3f')} ({meaning})"
        for metric in COSTS
        if (estimate := summary.overall[metric.name]) is not None
        for letter, _, meaning in [metric.description.partition(": ")]
    ]
    if costs:
        lines.append(f"Costs per step, {'; '.join(costs)}.")
    return [*lines, *summary.notes, *backend_notes(summary.run), *_conditions(summary)]


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
    lines += _who_differs(summary, name, label)
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


def _who_differs(summary: Summary, metric: str, label: str) -> list[str]:
    """The groups that differ from the mean of all by more than chance."""
    spread = summary.disparity[metric]
    assert spread is not None
    values = {
        group: estimate.value
        for group in spread.deviations
        if (estimate := summary.groups[group][metric]) is not None
    }
    mean = sum(values.values()) / len(values)
    differing = [g for g, p in spread.deviations.items() if p is not None and p < 1 - CONFIDENCE]
    above = [isolated(group) for group in differing if values[group] > mean]
    below = [isolated(group) for group in differing if values[group] <= mean]
    sides = [
        f"{side}: {', '.join(names)}"
        for side, names in (("above", above), ("below", below))
        if names
    ]
    return [
        f"Groups that differ from the mean of groups in {label}, p below {1 - CONFIDENCE:.2f} "
        f"after Holm's correction over {len(values)} groups: {'; '.join(sides) or 'none'}."
    ]


def order_notes(summary: Summary) -> list[str]:
    """What correlates with the speed-up across groups, and how stable their order is."""
    lines = [
        f"Across {each.num_groups} groups, {prose(each.figure)} against {prose(each.other)}: "
        f"Spearman {each.spearman:.2f} (p {each.spearman_p_adjusted:.3g}), Kendall "
        f"{each.kendall:.2f} (p {each.kendall_p_adjusted:.3g}), p by permutation after Holm."
        for each in summary.associations
        if each.figure == "modelled_speedup"
    ]
    lines += [
        f"Order of {len(each.groups)} groups by {prose(each.figure)} over {len(each.names)} "
        f"{each.over}: Kendall's W {each.w:.2f} (p {each.p_value:.3g})."
        for each in summary.concordances
    ]
    return lines


def _measured_too_rarely(summary: Summary) -> list[str]:
    """Groups, and those of their estimates in the table that rest on too few requests."""
    titles = {column.metric: column.title.lower() for column in COLUMNS}
    too_few = {
        group: [titles[name] for name in names if name in titles]
        for group, names in summary.figures_not_reported.items()
    }
    return [f"{group} ({', '.join(names)})" for group, names in too_few.items() if names]


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


def backend_notes(run: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a run that vLLM decoded: its conventions, and its settings.

    Args:
        run: A run's description, or what several runs share, as a summary has it.
    """
    differing = run.get("differing") or {}
    all_settings = [run.get("settings"), *(differing.get("settings") or ())]
    on_vllm = [each for each in all_settings if isinstance(each, dict)]
    on_vllm = [each for each in on_vllm if each.get("backend") == "vllm"]
    notes = [_VLLM] if on_vllm else []
    for kind, sentence in _VLLM_FLAGS.items():
        reasons = {
            one_line(reason)
            for settings in on_vllm
            for reason in (settings.get("flags") or {}).get(kind, ())
        }
        if reasons:
            notes.append(sentence.format(", ".join(sorted(reasons))))
    return notes
