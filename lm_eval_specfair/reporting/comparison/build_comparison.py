"""From the folders of runs to a comparison, and a gate's verdict on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from msgspec import structs

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, group_of
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.comparison import pairing
from lm_eval_specfair.metrics.comparison.change import Comparison, compare
from lm_eval_specfair.metrics.comparison.detection import Detections, detections
from lm_eval_specfair.metrics.comparison.gate import Gate, parse_gate
from lm_eval_specfair.metrics.comparison.pairing import Trace
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict, judge
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES
from lm_eval_specfair.reporting.comparison.compare_notes import comparison_notes
from lm_eval_specfair.reporting.format import listed
from lm_eval_specfair.reporting.runs import (
    RunReader,
    guess_notes,
    open_runs,
    refuse_empty,
    refuse_unknown_field,
)

DEFAULT_GATE = "default"
"""What stands for the gate with all limits at their defaults, in place of a file."""

_LARGEST_GATE = 64 * 1024
_MOST_REASONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """Everything that is shown of a comparison.

    `metric` is what tables and plots are about; `runs` has each run's target, drafter and drafted
    tokens. There are no verdicts without a gate.
    """

    comparison: Comparison
    metric: Metric
    runs: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str]
    gate: Gate | None
    verdicts: Sequence[GateVerdict]
    detections: Mapping[str, Detections]  # by candidate, what its documents can show

    @property
    def passed(self) -> bool:
        """Whether no candidate was turned down."""
        return all(verdict.passed for verdict in self.verdicts)


def read_gate(source: str) -> Gate:
    """A gate from a YAML file, or the default gate for `default`.

    Raises:
        ConfigError: If the file cannot be read or is not a gate.
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
    mapping: UserGroups | None = None,
    metric: str | None = None,
    gate: Gate | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    all_measures: bool = False,
    family_wise: bool = False,
) -> ComparisonReport:
    """Read runs, make sure that they can be compared, and compare them.

    `group_by` and `mapping` make the groups (`groups.assign.group_of`). The metric shown
    is by default the gate's, else the modelled speed-up where every run has it, else the mean
    acceptance length. `family_wise` makes all candidates one family, as a gate that says so does.

    Raises:
        ConfigError: If a folder cannot be read, or the runs differ in what must be equal.
    """
    if gate is not None and family_wise:
        gate = structs.replace(gate, family_wise=True)
    readers = _named(open_runs([base_dir, *candidate_dirs]))
    runs = {name: reader.info for name, reader in readers.items()}
    base, *others = readers
    for name in others:
        _refuse_if(pairing.different_settings(runs[base], runs[name]), base, name)
    aggregators, traces = {}, {}
    for name, reader in readers.items():
        aggregators[name] = Aggregator(group_by, mapping)
        traces[name] = _add(reader, aggregators[name], mapping or UserGroups())
    refuse_unknown_field(aggregators[base], group_by)
    machines = {}
    for name in others:
        _refuse_if(pairing.different_requests(traces[base], traces[name]), base, name)
        machines[name] = pairing.different_machines(runs[base], runs[name])
    texts = {name: pairing.text_agreement(traces[base], traces[name]) for name in others}
    comparison = compare(
        aggregators,
        texts,
        min_requests=min_requests,
        num_resamples=num_resamples,
        all_measures=all_measures,
        family_wise=family_wise or (gate is not None and gate.family_wise),
    )
    shown = _shown_metric(metric or (gate.metric if gate else None), comparison)
    verdicts = []
    if gate is not None:
        exact = {name: pairing.is_exact(run) for name, run in runs.items()}
        verdicts = judge(
            gate,
            comparison.runs,
            [texts[name] for name in others],
            texts_must_agree=[exact[base] and exact[name] for name in others],
        )
    return ComparisonReport(
        comparison=comparison,
        metric=shown,
        runs={name: _described(run) for name, run in runs.items()},
        notes=comparison_notes(readers, machines, comparison) + guess_notes(aggregators[base]),
        gate=gate,
        verdicts=verdicts,
        detections=detections(
            shown,
            comparison.runs,
            gate=gate,
            num_limits={verdict.candidate: verdict.num_tested for verdict in verdicts},
            family_wise=comparison.family_wise,
        ),
    )


def _named(readers: Sequence[RunReader]) -> dict[str, RunReader]:
    """Runs by the names of their folders where these differ, else by their paths."""
    by_name = {reader.name: reader for reader in readers}
    if len(by_name) == len(readers):
        return by_name
    return {one_line(reader.folder): reader for reader in readers}


def _add(reader: RunReader, aggregator: Aggregator, mapping: UserGroups) -> dict[str, Trace]:
    """Add a run's records; what is compared request by request, by request."""
    traces = {}
    for record, facts in reader.records():
        aggregator.add(record, facts)
        group = group_of(facts, record.group_fields, aggregator.group_by, mapping)
        traces[record.request_id] = pairing.trace(record, group)
    refuse_empty([reader])
    return traces


def _refuse_if(reasons: Sequence[str], base: str, candidate: str) -> None:
    if reasons:
        raise ConfigError(
            f"cannot compare {candidate} with {base}: {listed(reasons, _MOST_REASONS, '; ')}. Runs "
            "must agree in all but the drafter and its draft length: repeat one with the other's "
            "tasks, --limit, target and settings."
        )


def _shown_metric(name: str | None, comparison: Comparison) -> Metric:
    if name is None:
        measured = comparison.standings[comparison.runs[0].name]
        return MODELLED_SPEEDUP if MODELLED_SPEEDUP.name in measured else MEAN_ACCEPTANCE_LENGTH
    metrics = {metric.name: metric for metric in METRICS}
    if name not in metrics:
        raise ConfigError(f"--metric must be one of {', '.join(metrics)}, got {name!r:.60}")
    return metrics[name]


def _described(run: Mapping[str, Any]) -> dict[str, Any]:
    known = settings if isinstance(settings := run.get("settings"), dict) else {}
    names = ("target", "target_weights", "drafter", "drafter_weights", "num_speculative_tokens")
    return {name: known.get(name) for name in (*names, "dtype", "batch_size")}
