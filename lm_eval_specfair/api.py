"""The Python API: runs, reports and comparisons as data frames, training and policies as calls.

    import lm_eval_specfair as sf

    report = sf.report("results/my-run", group_by="language")
    report.by_group["mean_acceptance_length"]      # a pandas Series
    report.verdict                                 # what the figures say, in sentences
    report.save("report")                          # the files of `specfair report -o`

Each function is the verb of its name (`specfair report`, ...) and raises `ConfigError` where the
verb ends with one line. Names are loaded when they are first used: importing the package imports
nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, display_name
from lm_eval_specfair.groups.user_file import read_mapping
from lm_eval_specfair.records import Record, read_records, read_run

if TYPE_CHECKING:
    from lm_eval_specfair.metrics.comparison.change import Change
    from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
    from lm_eval_specfair.metrics.statistics.intervals import Estimate
    from lm_eval_specfair.metrics.summary import Summary
    from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport

StrPath = str | PathLike[str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedRun:
    """A run's folder: where it came from, and its records.

    Attributes:
        path: The folder.
        info: `run.json`: models, settings, versions, hardware, totals.
    """

    path: Path
    info: Mapping[str, Any]

    def __iter__(self) -> Iterator[Record]:
        """The records, read from disk as they are asked for."""
        return read_records(self.path)

    @cached_property
    def records(self) -> list[Record]:
        """All records, in memory."""
        return list(self)

    def to_frame(self) -> pd.DataFrame:
        """A row per request, a column per field; `settings` and `group_fields` stay objects."""
        names = Record.__struct_fields__
        rows = ([getattr(record, name) for name in names] for record in self)
        return pd.DataFrame(rows, columns=list(names))


@dataclass(frozen=True)
class Report:
    """The report of one run, or of several read together.

    Attributes:
        summary: All estimates, as the package holds them.
    """

    summary: Summary

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """A row per group, a column per metric; NaN where not measured."""
        return self._frame("value")

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """A row per group; for each metric the columns value, low, high and n."""
        parts = ("value", "low", "high", "n")
        return pd.concat({part: self._frame(part) for part in parts}, axis=1).swaplevel(axis=1)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """All requests together: a row per metric, with value, low, high and n."""
        return _rows(self.summary.overall)

    @cached_property
    def disparity(self) -> pd.DataFrame:
        """A row per metric: the best and the worst group, and each measure of spread."""
        return pd.DataFrame.from_dict(
            {
                metric: {"worst": spread.worst, "best": spread.best}
                | {
                    name: None if estimate is None else estimate.value
                    for name, estimate in spread.statistics.items()
                }
                for metric, spread in self.summary.disparity.items()
                if spread is not None
            },
            orient="index",
        )

    @property
    def verdict(self) -> list[str]:
        """What the estimates say, in three to five sentences."""
        from lm_eval_specfair.reporting.report.headline import headline

        return headline(self.summary)

    @property
    def notes(self) -> list[str]:
        """What a reader should know to use the report."""
        return list(self.summary.notes)

    def render(self, format: str = "table") -> str:
        """The report as text: `table`, `md`, `json`, `csv` or `html`."""
        from lm_eval_specfair.reporting.report.build_report import render

        return render(self.summary, format)

    def save(self, directory: StrPath) -> list[Path]:
        """Write the report's files into a folder, as `specfair report -o` does."""
        from lm_eval_specfair.reporting.report.report_files import write_report

        return write_report(self.summary, Path(directory))

    def _frame(self, part: str) -> pd.DataFrame:
        return pd.DataFrame.from_dict(
            {
                group: {
                    metric: None if estimate is None else getattr(estimate, part)
                    for metric, estimate in estimates.items()
                }
                for group, estimates in self.summary.groups.items()
            },
            orient="index",
            dtype=float,
        ).rename_axis(self.summary.group_by)

    def names(self) -> dict[str, str]:
        """How each group is called in reports: `{"sw": "Swahili (sw)", ...}`."""
        return {group: display_name(group, self.summary.group_by) for group in self.summary.groups}

    def _repr_html_(self) -> str:
        return str(self.by_group.to_html())


@dataclass(frozen=True)
class RunComparison:
    """Candidates compared with a base, request by request.

    Attributes:
        report: All estimates, as the package holds them.
    """

    report: ComparisonReport

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """A row per candidate, group and metric: base, candidate, change, interval, p-values."""
        rows = {
            (candidate.name, group, metric): change
            for candidate in self.report.comparison.candidates
            for group, changes in candidate.groups.items()
            for metric, change in changes.items()
        }
        return _changes(rows, ("candidate", self.report.comparison.group_by, "metric"))

    @cached_property
    def overall(self) -> pd.DataFrame:
        """A row per candidate and metric, all requests together."""
        rows = {
            (candidate.name, metric): change
            for candidate in self.report.comparison.candidates
            for metric, change in candidate.overall.items()
        }
        return _changes(rows, ("candidate", "metric"))

    @cached_property
    def disparity(self) -> pd.DataFrame:
        """A row per candidate, metric and measure of spread across groups."""
        rows = {
            (candidate.name, metric, measure): change
            for candidate in self.report.comparison.candidates
            for metric, changes in candidate.spreads.items()
            for measure, change in changes.items()
        }
        return _changes(rows, ("candidate", "metric", "measure"))

    @property
    def passed(self) -> bool:
        """Whether the gate let every candidate pass; true where there was no gate."""
        return self.report.passed

    @property
    def notes(self) -> list[str]:
        """What a reader should know to use the comparison."""
        return list(self.report.notes)

    def render(self, format: str = "table") -> str:
        """The comparison as text: `table`, `md`, `json`, `csv` or `html`."""
        from lm_eval_specfair.reporting.comparison.compare_text import render

        return render(self.report, format)

    def _repr_html_(self) -> str:
        return str(self.by_group.to_html())


def load_run(path: StrPath) -> LoadedRun:
    """A run's folder, as `lm_eval --model specfair` leaves it.

    Args:
        path: The folder with `run.json` and records.

    Raises:
        ConfigError: If there is no run in it.
    """
    folder = Path(path)
    return LoadedRun(path=folder, info=read_run(folder))


def report(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    samples: StrPath | None = None,
    quality_metric: str | None = None,
) -> Report:
    """The disparity report of one run, or of several read together (`specfair report`).

    Args:
        runs: Folders, or what `load_run` gave.
        group_by: What makes a group: `language`, `script`, `family`, `task`, or any field of the
            documents or of the tasks' metadata.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are not reported.
        samples: lm-eval's samples, for the answer quality of groups; by default those in the runs'
            folders.
        quality_metric: Which metric of the samples is the answer quality.

    Raises:
        ConfigError: If a run cannot be read, or nothing in it can be reported.
    """
    from lm_eval_specfair.reporting.report.build_report import build_summary

    return Report(
        build_summary(
            [_folder(run) for run in runs],
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            min_requests=min_requests,
            samples=None if samples is None else Path(samples),
            quality_metric=quality_metric,
        )
    )


def compare(
    base: StrPath | LoadedRun,
    *candidates: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    metric: str | None = None,
    gate: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> RunComparison:
    """What other drafters change on the same requests (`specfair compare`).

    Args:
        base: The run to compare with.
        candidates: The other runs.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        metric: The metric that tables show; data frames hold all.
        gate: A YAML file of limits, or `default`.
        min_requests: Groups with fewer requests are not compared.

    Raises:
        ConfigError: If the runs differ in what must be equal, such as tasks or target.
    """
    from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison, read_gate

    return RunComparison(
        build_comparison(
            _folder(base),
            [_folder(run) for run in candidates],
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            metric=metric,
            gate=None if gate is None else read_gate(str(gate)),
            min_requests=min_requests,
        )
    )


def policy(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | None = None,
) -> LengthPolicy:
    """The draft length that serves each group best (`specfair policy`).

    Args:
        runs: Runs with one draft length each; the policy is to improve on the first one's.
        group_by: What makes a group.
        longest: The longest draft length to consider; by default the longest of the runs.
        costs: What drafting a token, verifying and the rest of a step cost, in plain steps; by
            default as measured in the runs.

    Raises:
        ConfigError: If a run has no single draft length, or too little to choose from.
    """
    from lm_eval_specfair.reporting.policy.build_policy import build_policy

    folders = [_folder(run) for run in runs]
    return build_policy(folders, group_by=group_by, longest=longest, costs=costs)


def replay(
    *sources: StrPath | LoadedRun,
    drafter: str | Sequence[str],
    output: StrPath,
    target: str | None = None,
    tokenizer: str | None = None,
    num_speculative_tokens: int | Sequence[int] = 4,
    seed: int = 0,
    device: str | None = None,
) -> list[LoadedRun]:
    """Audit drafters on texts that exist, without decoding them again (`specfair replay`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, or JSON Lines with `prompt` and `response`.
        drafter: One or several: folders, hub ids, `embedded`, `prompt_lookup`.
        output: New folder; with several drafters or draft lengths, one for each in it.
        target: Adds overlap and KL, checks greedy texts, and is needed for sampled ones.
        tokenizer: Of the target, where sources hold text.
        num_speculative_tokens: One draft length, or several.
        seed: For sampled texts.
        device: Where models are put; by default a GPU where there is one.

    Returns:
        A run for each drafter and draft length, which `report` and `compare` take.

    Raises:
        ConfigError: If a source or a model cannot be read.
    """
    import torch

    from lm_eval_specfair.replay.replay_run import replay as run_replay

    lengths = num_speculative_tokens
    done = run_replay(
        [_folder(source) for source in sources],
        [drafter] if isinstance(drafter, str) else list(drafter),
        Path(output),
        target=target,
        tokenizer=tokenizer,
        lengths=[lengths] if isinstance(lengths, int) else list(lengths),
        seed=seed,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    for note in done.notes():
        logger.info("%s", note)
    return [load_run(folder) for folder in done.folders]


def train(
    data: StrPath,
    output: StrPath,
    *,
    target: str | None = None,
    drafter: str | None = None,
    resume: bool = False,
    lora_rank: int | None = None,
    quantize_target: str | None = None,
    target_device_map: str | None = None,
    teacher_cache: StrPath | None = None,
    tracker: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune a drafter so that groups share the speed-up (`specfair train`).

    Args:
        data: A folder of `<group>.txt`, a JSON Lines file, or a source that the verb's help names.
        output: New folder for the drafter, its card and results.
        target: Folder or hub id; by default the embedded target.
        drafter: Folder or hub id to start from; by default the embedded one, with its target.
        resume: Whether to resume a training that was stopped in `output`.
        lora_rank: Learn adapters of this rank only.
        quantize_target: `8bit`, `4bit`, `int8` or `int4`.
        target_device_map: Where the target's layers go.
        teacher_cache: Folder where the target's most likely tokens are recorded, or were.
        tracker: One of accelerate's, such as `tensorboard`.
        settings: Fields of `training.options.TrainConfig`, such as `weighting="s-cdf"`,
            `tokens=500_000` and `divergence="forward-kl"`.

    Returns:
        The results that the drafter's card shows: before and after, by group.

    Raises:
        ConfigError: If an argument is wrong or a model cannot be loaded.
    """
    import msgspec

    from lm_eval_specfair.harness.paths import task_configs_dir
    from lm_eval_specfair.training.job import train as run_training
    from lm_eval_specfair.training.options import TrainConfig

    unknown = set(settings) - set(TrainConfig.__struct_fields__)
    if unknown:
        raise ConfigError(
            f"train has no setting {sorted(unknown)[0]!r}; expected one of "
            f"{', '.join(sorted(TrainConfig.__struct_fields__))}"
        )
    results = run_training(
        str(data),
        Path(output),
        TrainConfig(**settings),
        task_folders=[str(task_configs_dir())],
        target=target,
        drafter=drafter,
        resume=resume,
        lora_rank=lora_rank,
        quantize_target=quantize_target,
        target_device_map=target_device_map,
        teacher_cache=None if teacher_cache is None else Path(teacher_cache),
        tracker=tracker,
    )
    found: dict[str, Any] = msgspec.json.decode(results.read_bytes())
    return found


def _folder(run: StrPath | LoadedRun) -> Path:
    return run.path if isinstance(run, LoadedRun) else Path(run)


def _rows(estimates: Mapping[str, Estimate | None]) -> pd.DataFrame:
    parts = ("value", "low", "high", "n")
    return pd.DataFrame.from_dict(
        {
            metric: [None if estimate is None else getattr(estimate, part) for part in parts]
            for metric, estimate in estimates.items()
        },
        orient="index",
        columns=list(parts),
        dtype=float,
    )


def _changes(rows: Mapping[Any, Change | None], levels: Sequence[str]) -> pd.DataFrame:
    """Changes as a data frame; metrics that one of two runs lacks are left out."""
    known = {key: change for key, change in rows.items() if change is not None}
    return pd.DataFrame(
        [
            {
                "base": change.base.value,
                "candidate": change.candidate.value,
                "change": change.difference.value,
                "low": change.difference.low,
                "high": change.difference.high,
                "p_value": change.p_value,
                "p_adjusted": change.p_adjusted,
            }
            for change in known.values()
        ],
        index=pd.MultiIndex.from_tuples(list(known), names=list(levels)),
        dtype=float,
    )
