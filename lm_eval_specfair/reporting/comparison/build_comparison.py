"""From the folders of runs to a comparison, and what a gate says of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, group_of
from lm_eval_specfair.groups.task_facts import facts_of_task
from lm_eval_specfair.groups.user_file import Mapped
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.comparison import pairing
from lm_eval_specfair.metrics.comparison.change import Comparison, compare
from lm_eval_specfair.metrics.comparison.gate import Gate, parse_gate
from lm_eval_specfair.metrics.comparison.pairing import Trace
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict, judge
from lm_eval_specfair.metrics.definitions.registry import (
    MEAN_ACCEPTANCE_LENGTH,
    METRICS,
    MODELLED_SPEEDUP,
    Metric,
)
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.reporting.refusals import refuse_empty, refuse_unknown_field

DEFAULT_GATE = "default"
"""What stands for the gate with all limits at their defaults, in place of a file."""

_LARGEST_GATE = 64 * 1024
_MOST_REASONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """Everything that is shown of a comparison.

    Attributes:
        comparison: The numbers.
        metric: The figure that tables and plots are about.
        runs: What each run says of itself, by name: target, drafter, drafted tokens.
        notes: What a reader should know, in whole sentences.
        gate: The limits that candidates were judged by, if any.
        verdicts: One for each candidate; none without a gate.
    """

    comparison: Comparison
    metric: Metric
    runs: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str]
    gate: Gate | None
    verdicts: Sequence[GateVerdict]

    @property
    def passed(self) -> bool:
        """Whether no candidate was turned down."""
        return all(verdict.passed for verdict in self.verdicts)


def read_gate(source: str) -> Gate:
    """A gate from a YAML file, or the default one.

    Args:
        source: The file's path, or `default`.

    Raises:
        ConfigError: If the file cannot be read or is no gate.
    """
    if source == DEFAULT_GATE:
        return Gate()
    path = Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_GATE + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the gate {path}: {error.strerror}; expected a YAML file, or "
            f"`{DEFAULT_GATE}` for the limits that need none"
        ) from None
    if len(content) > _LARGEST_GATE:
        raise ConfigError(f"{path}: expected a gate of a few lines, got more than 64 KiB")
    try:
        data = yaml.safe_load(content.decode("utf-8"))
    # Of a number with too many digits, yaml passes on Python's own refusal.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error):.200}") from None
    return parse_gate({} if data is None else data, str(path))


def build_comparison(
    base_dir: Path,
    candidate_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    mapping: Mapped | None = None,
    metric: str | None = None,
    gate: Gate | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    all_measures: bool = False,
) -> ComparisonReport:
    """Read runs, make sure that they can be compared, and compare them.

    Args:
        base_dir: Folder of the run to compare with.
        candidate_dirs: Folders of the others.
        group_by: What makes a group (`groups.assign.group_of`).
        mapping: The user's own groups (`groups.user_file.read_mapping`).
        metric: The figure that is shown; by default the gate's, else the modelled speed-up where
            every run has it, else the mean acceptance length.
        gate: Limits for the candidates.
        min_requests: The smallest group that is compared.
        num_resamples: Resamples behind each interval.
        all_measures: Whether to give every measure of spread.

    Raises:
        ConfigError: If a folder cannot be read, or the runs differ in what must be equal.
    """
    folders = [base_dir, *candidate_dirs]
    names = _names(folders)
    runs = {name: read_run(folder) for name, folder in zip(names, folders, strict=True)}
    base, *others = names
    notes = [
        f"The run {name} did not finish; only what it recorded is compared."
        for name, run in runs.items()
        if "finished" in run and run["finished"] is None
    ]
    for name in others:
        reasons = pairing.different_settings(runs[base], runs[name])
        _refuse_if(reasons, base, name)
    aggregators, traces = {}, {}
    for name, folder in zip(names, folders, strict=True):
        aggregators[name], traces[name], num_failed = _read(
            folder, runs[name], group_by, mapping or Mapped()
        )
        if num_failed:
            notes.append(f"{num_failed} requests of {name} failed and are left out.")
    refuse_unknown_field(aggregators[base], group_by)
    for name in others:
        _refuse_if(pairing.different_requests(traces[base], traces[name]), base, name)
        machines = pairing.different_machines(runs[base], runs[name])
        if machines:
            notes.append(
                f"{name} ran elsewhere than {base} ({'; '.join(machines[:_MOST_REASONS])}): "
                "speed-ups may differ for that alone."
            )
    texts = {name: pairing.text_agreement(traces[base], traces[name]) for name in others}
    comparison = compare(
        aggregators,
        texts,
        min_requests=min_requests,
        num_resamples=num_resamples,
        all_measures=all_measures,
    )
    shown = _shown_metric(metric or (gate.metric if gate else None), comparison)
    return ComparisonReport(
        comparison=comparison,
        metric=shown,
        runs={name: _described(run) for name, run in runs.items()},
        notes=[*notes, *_notes(comparison)],
        gate=gate,
        verdicts=[]
        if gate is None
        else judge(
            gate,
            comparison.runs,
            [texts[name] for name in others],
            texts_must_agree=all(pairing.is_exact(run) for run in runs.values()),
        ),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names where they tell them apart, else their paths."""
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise ConfigError(
                f"{folder} is named twice; expected a base and other runs to compare with it"
            )
    names = [one_line(place.name) for place in resolved]
    if len(set(names)) == len(names):
        return names
    return [one_line(folder) for folder in folders]


def _read(
    folder: Path, run: Mapping[str, Any], group_by: str, mapping: Mapped
) -> tuple[Aggregator, dict[str, Trace], int]:
    """A run's records, counted and by request; and how many requests failed."""
    aggregator, traces, num_failed = Aggregator(group_by, mapping), {}, 0
    for record in read_records(folder):
        if record.failure is not None:
            num_failed += 1
            continue
        if record.request_id in traces:
            raise ConfigError(
                f"{folder}: request {record.request_id!r:.100} was recorded twice; were two runs "
                "written into one folder?"
            )
        facts = facts_of_task(run, record.task)
        aggregator.add(record, facts)
        group = group_of(facts, record.group_fields, aggregator.group_by, mapping)
        traces[record.request_id] = pairing.trace(record, group)
    refuse_empty([folder], len(traces) + num_failed, num_failed)
    return aggregator, traces, num_failed


def _refuse_if(reasons: Sequence[str], base: str, candidate: str) -> None:
    if not reasons:
        return
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    raise ConfigError(
        f"cannot compare {candidate} with {base}: {'; '.join(reasons[:_MOST_REASONS])}{more}. Runs "
        "must agree in all but the drafter and its draft length: repeat one with the other's "
        "tasks, --limit, target and settings."
    )


def _shown_metric(name: str | None, comparison: Comparison) -> Metric:
    measured = comparison.standings[comparison.runs[0].name]
    if name is not None:
        found = next((metric for metric in METRICS if metric.name == name), None)
        if found is None:
            raise ConfigError(
                f"--metric must be one of {', '.join(each.name for each in METRICS)}, got "
                f"{name!r:.60}"
            )
        return found
    return MODELLED_SPEEDUP if MODELLED_SPEEDUP.name in measured else MEAN_ACCEPTANCE_LENGTH


def _described(run: Mapping[str, Any]) -> dict[str, Any]:
    settings = run.get("settings")
    known = settings if isinstance(settings, dict) else {}
    names = ("target", "target_weights", "drafter", "drafter_weights", "num_speculative_tokens")
    return {name: known.get(name) for name in (*names, "dtype", "batch_size")}


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if not comparison.groups:
        notes.append(
            f"No group has {comparison.min_requests} requests, so only all requests are compared."
        )
    if comparison.not_reported:
        small = ", ".join(f"{name} ({n})" for name, n in comparison.not_reported.items())
        notes.append(
            f"Not compared, with fewer than {comparison.min_requests} requests (n): {small}. "
            "All requests includes them."
        )
    if comparison.num_ungrouped:
        notes.append(
            f"{comparison.num_ungrouped} requests belong to no {comparison.group_by} and count in "
            "all requests only."
        )
    for candidate in comparison.candidates:
        texts = candidate.texts
        if texts.differing:
            notes.append(
                f"{candidate.name}: {texts.differing} of {texts.compared} greedy texts differ from "
                f"the base's, such as {one_line(texts.examples[0])}. One target has one greedy "
                "text, whoever drafts: unless rounding decides between equal scores (types "
                "narrower than float32), one of the two runs was not lossless."
            )
        elif texts.compared:
            notes.append(f"{candidate.name}: all {texts.compared} greedy texts equal the base's.")
    return notes


def to_json(data: Mapping[str, Any]) -> str:
    """JSON text as all verbs print it."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
