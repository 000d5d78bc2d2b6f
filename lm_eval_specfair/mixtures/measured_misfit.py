"""What runs measured of each group, in the form that weighting rules observe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED, resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import bootstrap_estimate
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.runs import count_runs
from lm_eval_specfair.training.group_sums import COLUMNS, GroupSums
from lm_eval_specfair.training.weighting import WeightingConfig

_METRICS = {metric.name: metric for metric in METRICS}
# Before top-k and top-p, where records have it: what training fits are whole distributions.
_FIGURES = {
    "kl": ("untruncated_kl", "kl", "scored_kl"),
    "cross-entropy": ("untruncated_cross_entropy", "cross_entropy", "scored_cross_entropy"),
    "tv": ("overlap", "scored_overlap", "conditional_acceptance_rate"),
}
ACCEPTANCE = "conditional_acceptance_rate"
"""What stands for the overlap where nobody measured distributions: its estimate by counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredMisfit:
    """Groups as a rule is to see them.

    Attributes:
        figure: The metric that the signal is taken from.
        estimates: That metric of each group, in the order of `sums`.
        sums: Means per token as sums over one token, shape (num_groups,).
        unmeasured: Groups of the runs that lack the metric or have too few requests, and how many.
    """

    figure: str
    estimates: Mapping[str, Estimate]
    sums: GroupSums
    unmeasured: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.estimates)

    @property
    def bytes_per_token(self) -> dict[str, float]:
        """Of each group's text that was measured; NaN where nobody counted bytes."""
        return dict(zip(self.names, self.sums.column("num_bytes").tolist(), strict=True))


def read_misfit(
    run_dirs: Sequence[Path],
    config: WeightingConfig,
    *,
    group_by: str,
    mapping: UserGroups | None,
    min_requests: int,
) -> MeasuredMisfit:
    """The signal of a weighting, as runs measured it of each group with enough requests.

    Raises:
        ConfigError: If a run cannot be read, or fewer than two groups have the signal.
    """
    counted = count_runs(run_dirs, group_by, mapping, min_requests=min_requests)
    resampled = resample(
        counted.each_block(), np.random.default_rng(SEED), num_resamples=NUM_RESAMPLES
    )
    groups = {name: counted.numbers[name] for name in counted.compared}
    figures = {
        figure: {
            name: one
            for name, number in groups.items()
            if (one := bootstrap_estimate(resampled, _METRICS[figure], number)).n >= min_requests
            and np.isfinite(one.value)
        }
        for figure in {*_FIGURES[config.signal], *_FIGURES["tv"], "bytes_per_token"}
    }
    # The first that most groups have: groups are compared by one figure, never by two.
    figure = max(_FIGURES[config.signal], key=lambda name: len(figures[name]))
    measured = figures[figure]
    if len(measured) < 2:
        raise ConfigError(
            f"expected at least two groups with {config.signal} measured, got "
            f"{', '.join(measured) or 'none'}: measure with more documents or another --group-by; "
            "where no distributions were measured (servers, engines), weigh by signal=tv, which "
            "acceptance stands for"
        )
    values = {key: {name: one.value for name, one in of.items()} for key, of in figures.items()}
    return MeasuredMisfit(
        figure=figure,
        estimates={
            name: estimate
            for name, one in sorted(measured.items())
            if (estimate := one.estimate) is not None
        },
        sums=GroupSums(np.array([_row(name, values, figure, config) for name in sorted(measured)])),
        unmeasured={
            name: n
            for name, n in sorted(counted.requests.items())
            if name not in measured and name != NO_GROUP
        },
    )


def _row(
    name: str, values: Mapping[str, Mapping[str, float]], figure: str, config: WeightingConfig
) -> list[float]:
    """A group's sums over one token, in the order of `COLUMNS`."""
    value = values[figure][name]
    overlaps = [values[key][name] for key in _FIGURES["tv"] if name in values[key]]
    columns = {
        "num_tokens": 1.0,
        "num_bytes": values["bytes_per_token"].get(name, np.nan),
        "overlap": value if config.signal == "tv" else next(iter(overlaps), np.nan),
        # KL is their difference.
        "cross_entropy": np.nan if config.signal == "tv" else value,
        "entropy": 0.0,
    }
    return [columns[column] for column in COLUMNS]


def wide_intervals(measured: MeasuredMisfit) -> list[str]:
    """Groups whose interval is wider than half of the spread between groups, or that have none."""
    values: Array = np.array([one.value for one in measured.estimates.values()])
    spread = float(values.max() - values.min())
    return [
        name
        for name, one in measured.estimates.items()
        if one.low is None or one.high is None or one.high - one.low > spread / 2
    ]
