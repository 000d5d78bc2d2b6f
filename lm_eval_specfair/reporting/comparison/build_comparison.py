"""From the folders of runs to a comparison, and a gate's verdict on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from msgspec import structs

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.comparison import pairing
from lm_eval_specfair.metrics.comparison.change import Comparison, compare
from lm_eval_specfair.metrics.comparison.detection import Detections, detections
from lm_eval_specfair.metrics.comparison.gate import Gate, parse_gate
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict, judge
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES
from lm_eval_specfair.reporting.comparison.compare_notes import comparison_notes
from lm_eval_specfair.reporting.comparison.paired_runs import read_paired
from lm_eval_specfair.reporting.runs import group_notes
from lm_eval_specfair.unique_keys import RepeatedKeyError, yaml_data

DEFAULT_GATE = "default"
"""What stands for the gate with all limits at their defaults, in place of a file."""

_LARGEST_GATE = 64 * 1024


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
        data = yaml_data(content.decode("utf-8-sig"))
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
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
    asked = None if metric is None else metric_named(metric)
    if gate is not None and family_wise:
        gate = structs.replace(gate, family_wise=True)
    paired = read_paired([base_dir, *candidate_dirs], group_by=group_by, mapping=mapping)
    base, *others = paired.runs
    runs = {name: reader.info for name, reader in paired.runs.items()}
    texts = {name: paired.text_agreement(name) for name in others}
    comparison = compare(
        paired.aggregators,
        texts,
        min_requests=min_requests,
        num_resamples=num_resamples,
        all_measures=all_measures,
        family_wise=family_wise or (gate is not None and gate.family_wise),
    )
    shown = asked or (gate.judged if gate is not None else usual_metric(comparison.runs))
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
        notes=[
            *comparison_notes(paired.runs, paired.other_machines, comparison),
            *group_notes(paired.aggregators[base]),
        ],
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


def metric_named(name: str) -> Metric:
    """A metric by its name.

    Raises:
        ConfigError: If there is none.
    """
    metrics = {metric.name: metric for metric in METRICS}
    if name not in metrics:
        raise ConfigError(f"--metric must be one of {', '.join(metrics)}, got {name!r:.60}")
    return metrics[name]


def usual_metric(runs: Sequence[MeasuredRun]) -> Metric:
    """The metric of reports that name none."""
    is_measured = all(run.is_measured(MODELLED_SPEEDUP) for run in runs)
    return MODELLED_SPEEDUP if is_measured else MEAN_ACCEPTANCE_LENGTH


def _described(run: Mapping[str, Any]) -> dict[str, Any]:
    known = settings if isinstance(settings := run.get("settings"), dict) else {}
    names = ("target", "target_weights", "drafter", "drafter_weights", "num_speculative_tokens")
    about = {name: known.get(name) for name in (*names, "dtype", "batch_size")}
    tasks = sorted(tasks) if isinstance(tasks := run.get("tasks"), dict) else None
    others = {"finished": run.get("finished"), "hardware": run.get("hardware"), "tasks": tasks}
    # What a trend orders comparisons by, and holds against each other.
    return about | {name: value for name, value in others.items() if value is not None}
