"""The Pareto front: the runs that no other beats both on average over groups and at worst."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.intervals import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A run in one metric: how it serves its groups on average, and the worst of them.

    On the Pareto front no run beats it: none is at least as good in both mean and worst, and better
    in one of them (as observed, whatever the intervals).
    """

    mean: Estimate  # over groups, each counting the same
    worst: Estimate  # the value of the worst-served group, whichever that is
    worst_group: str
    best: Estimate
    best_group: str
    beaten_by: Sequence[str] = ()


def standings(runs: Sequence[MeasuredRun]) -> dict[str, dict[str, Standing]]:
    """Each run's mean over groups and its extremes, by run and by metric that all runs have."""
    by_run: dict[str, dict[str, Standing]] = {run.name: {} for run in runs}
    for metric in METRICS:
        if not all(run.is_measured(metric) for run in runs):
            continue
        alone = {run.name: standing(run, metric) for run in runs}
        for name, one in alone.items():
            beaten_by = [
                other
                for other, rival in alone.items()
                if _beats(rival, one, lower_is_better=metric.lower_is_better)
            ]
            by_run[name][metric.name] = replace(one, beaten_by=beaten_by)
    return by_run


def standing(run: MeasuredRun, metric: Metric) -> Standing:
    """A run's mean over groups and its extremes in a metric that all its groups have."""
    values = {group: run.estimate(metric, group).value for group in run.numbers}
    lowest, highest = (pick(values, key=values.__getitem__) for pick in (min, max))
    mean = run.mean(metric).estimate
    worst, best = (run.extreme(metric, worst=is_worst).estimate for is_worst in (True, False))
    assert mean is not None
    assert worst is not None
    assert best is not None
    return Standing(
        mean=mean,
        worst=worst,
        worst_group=highest if metric.lower_is_better else lowest,
        best=best,
        best_group=lowest if metric.lower_is_better else highest,
    )


def _beats(one: Standing, other: Standing, *, lower_is_better: bool) -> bool:
    sign = -1 if lower_is_better else 1
    mean = sign * (one.mean.value - other.mean.value)
    worst = sign * (one.worst.value - other.worst.value)
    return mean >= 0 and worst >= 0 and (mean > 0 or worst > 0)
