"""From a run's folder to a submission: what its records say, and nothing else."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import digest
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, assignments
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregate, Aggregator
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun, resample_together
from lm_eval_specfair.metrics.comparison.pareto import standing
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate
from lm_eval_specfair.records import RUN_FILE, record_files
from lm_eval_specfair.reporting.leaderboard.entry import (
    SUBMISSION_VERSION,
    Decoding,
    Entry,
    FigureModel,
    Figures,
    File,
    Provenance,
    StandingModel,
    Submission,
    Suite,
    explained,
)
from lm_eval_specfair.reporting.runs import RunReader, refuse_contradictions, refuse_empty


def pack(folder: Path, entry: Entry, *, group_by: str = "language") -> Submission:
    """A submission from the folder of a finished run.

    Raises:
        ConfigError: If the run did not finish, a file is a link, a record contradicts itself, the
            records contradict the run, texts are not the target's, or the run has no speed-up in
            every group.
    """
    for path in (folder / RUN_FILE, *record_files(folder)):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(f"{path} is no plain file; an entry holds its files themselves")
    reader = RunReader(folder, thorough=True)
    if reader.info.get("finished") is None:
        raise ConfigError(f"{folder}: the run did not finish; finish it with resume=true first")
    aggregator, tasks = Aggregator(group_by), Counter[str]()
    groups, plain, clock = [], [], [0.0, 0]
    for record, facts in reader.records():
        aggregator.add(record, facts)
        tasks[record.task] += 1
        own = [each.group for each in assignments(facts, record.group_fields, group_by)]
        groups.append(json.dumps([record.request_id, *own]))
        if record.baseline_seconds is not None:
            plain.append(record.request_id)
            clock[0] += record.baseline_seconds
            clock[1] += record.baseline_generated_tokens or 0
    if reader.first_failure is not None:
        raise ConfigError(
            f"{folder}: request {reader.first_failure.request_id!r:.100} failed "
            f"({reader.first_failure.failure:.100}); an entry must have decoded all of its suite: "
            "run the failed requests again"
        )
    refuse_empty([reader])
    refuse_contradictions([reader])
    counted = aggregator.aggregate(DEFAULT_MIN_REQUESTS)
    if counted.counts.unfaithful_requests + counted.counts.faulty_baselines:
        raise ConfigError(
            f"{folder}: texts are not the target's by its own plain pass (see `specfair report`); "
            "an entry must be lossless"
        )
    try:
        submission = Submission(
            schema_version=SUBMISSION_VERSION,
            entry=entry,
            provenance=_provenance(reader.info),
            suite=Suite(
                tasks=dict(sorted(tasks.items())),
                requests_sha256=_digest_of(reader.request_ids),
                groups_sha256=_digest_of(groups),
                baselines_sha256=_digest_of(plain),
            ),
            decoding=_decoding(counted),
            figures=msgspec.structs.replace(
                _figures(counted, folder),
                plain_seconds_per_token=clock[0] / clock[1] if clock[1] else None,
            ),
            run=File(name=RUN_FILE, sha256=digest(folder / RUN_FILE)),
            records=[File(name=path.name, sha256=digest(path)) for path in record_files(folder)],
        )
        # Again, with every field checked.
        return msgspec.convert(msgspec.to_builtins(submission), Submission)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{folder} gives no valid submission: {explained(error)}") from None


def _digest_of(texts: Iterable[str]) -> str:
    return f"sha256:{hashlib.sha256(chr(10).join(sorted(texts)).encode()).hexdigest()}"


def _provenance(run: Mapping[str, Any]) -> Provenance:
    command = run.get("command")
    texts = ("specfair_version", "git_commit", "started", "finished")
    facts: dict[str, Any] = {
        **{name: run.get(name) for name in texts},
        **{
            name: dict(value) if isinstance(value := run.get(name), dict) else {}
            for name in ("versions", "hardware", "settings")
        },
    }
    load = run.get("load")
    return Provenance(
        command=command if isinstance(command, list) else [str(command)],
        load=load if isinstance(load, dict) else None,
        **facts,
    )


def _decoding(counted: Aggregate) -> list[Decoding]:
    ways = sorted(counted.settings.items(), key=lambda item: (-item[1], str(item[0])))
    return [
        Decoding(**{**asdict(way), "temperature": float(way.temperature)}, requests=number)
        for way, number in ways
    ]


def _figures(counted: Aggregate, folder: Path) -> Figures:
    [run] = resample_together(
        {folder.name: counted}, np.random.default_rng(SEED), num_resamples=NUM_RESAMPLES
    )
    if not run.is_measured(MODELLED_SPEEDUP):
        raise ConfigError(
            f"{folder} has no speed-up in every {counted.group_by}, which the board ranks by: "
            f"run with a plain baseline (baseline=8) and at least {DEFAULT_MIN_REQUESTS} requests "
            f"in each {counted.group_by}"
        )

    def figures(metrics: tuple[Metric, ...], group: str | None) -> dict[str, FigureModel | None]:
        estimates = {metric.name: run.estimate(metric, group).estimate for metric in metrics}
        return {name: None if each is None else _model(each) for name, each in estimates.items()}

    return Figures(
        group_by=counted.group_by,
        min_requests=DEFAULT_MIN_REQUESTS,
        num_resamples=NUM_RESAMPLES,
        confidence=CONFIDENCE,
        agreeing_baselines=counted.counts.agreeing_baselines,
        differing_baselines=counted.counts.differing_baselines,
        overall=figures((*METRICS, *COSTS), None),
        groups={group: figures(METRICS, group) for group in counted.compared},
        standings={
            metric.name: _standing(run, metric) for metric in METRICS if run.is_measured(metric)
        },
    )


def _standing(run: MeasuredRun, metric: Metric) -> StandingModel:
    measured = standing(run, metric)
    return StandingModel(
        mean=_model(measured.mean),
        worst=_model(measured.worst),
        worst_group=measured.worst_group,
        best=_model(measured.best),
        best_group=measured.best_group,
    )


def _model(estimate: Estimate) -> FigureModel:
    return FigureModel(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)
