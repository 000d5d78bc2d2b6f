"""Rank correlations and concordances that a report shows: metric by metric, run by run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_specfair.metrics.aggregate.aggregator import FEWEST_GROUPS
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

RESOURCE_CLASS = "resource_class"
SERVED = (
    "conditional_acceptance_rate", "overlap",
    "measured_speedup", "modelled_speedup", "seconds_per_kilobyte",
)  # fmt: skip
"""How well a group is served; each is correlated with each of `EXPLAINED_BY`."""
EXPLAINED_BY = (
    "answer_quality", "bits_per_byte", "bytes_per_token", "repeated_4grams",
    "other_script_letters", "draft_vocabulary_coverage", RESOURCE_CLASS,
)  # fmt: skip
_STABLE = ("conditional_acceptance_rate", "modelled_speedup", "measured_speedup")


_FEWEST_ASSOCIATED = 4  # of three, no order is rarer than 1 in 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Association:
    """How far two metrics put the groups into the same order."""

    figure: str
    other: str
    num_groups: int  # that have both
    spearman: float  # in [-1, 1]
    spearman_p: float  # two-sided, from permutations
    kendall: float  # tau-b, in [-1, 1]
    kendall_p: float  # exact, or from permutations where there are ties
    spearman_p_adjusted: float | None = None  # Holm, over all associations of the report
    kendall_p_adjusted: float | None = None  # the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Concordance:
    """How far several measurements put the groups into the same order."""

    figure: str
    over: str  # what was repeated: `runs` or `suites`
    names: Sequence[str]  # of the repetitions
    groups: Sequence[str]  # that all of them have
    w: float  # Kendall's W: 1 for one order, about 1 / len(names) for unrelated ones
    p_value: float  # the chance of a W as large if the orders had nothing in common


def associations_of(
    groups: Mapping[str, Mapping[str, Estimate | None]],
    resource_classes: Mapping[str, str],
    generator: np.random.Generator,
) -> list[Association]:
    """Acceptance and speed against what may explain them.

    A resource class is taken by the number in it.
    """

    def values(name: str) -> Array:
        if name == RESOURCE_CLASS:
            return np.array([number_in(resource_classes.get(group, "")) for group in groups])
        estimates = [groups[group].get(name) for group in groups]
        return np.array([np.nan if one is None else one.value for one in estimates])

    pairs = [(served, other) for served in SERVED for other in EXPLAINED_BY]
    found = [association(pair, values(pair[0]), values(pair[1]), generator) for pair in pairs]
    known = [one for one in found if one is not None]
    # Holm's correction over all of them, for each coefficient.
    of_spearman = holm([one.spearman_p for one in known])
    of_kendall = holm([one.kendall_p for one in known])
    return [
        replace(one, spearman_p_adjusted=rho_p, kendall_p_adjusted=tau_p)
        for one, rho_p, tau_p in zip(known, of_spearman, of_kendall, strict=True)
    ]


def association(
    names: tuple[str, str], first: Array, second: Array, generator: np.random.Generator
) -> Association | None:
    """How two metrics go together across groups; values of shape (num_groups,), NaN where missing.

    None where fewer than four groups have both, or all are equal in one.
    """
    # Only here: scipy.stats takes a second to load.
    from lm_eval_specfair.metrics.statistics.rank_correlation import kendall, spearman

    both = np.isfinite(first) & np.isfinite(second)
    x, y = first[both], second[both]
    if len(x) < _FEWEST_ASSOCIATED or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho, rho_p = spearman(x, y, generator)
    tau, tau_p = kendall(x, y, generator)
    return Association(
        figure=names[0],
        other=names[1],
        num_groups=len(x),
        spearman=rho,
        spearman_p=rho_p,
        kendall=tau,
        kendall_p=tau_p,
    )


def concordances_of(
    repetitions: Mapping[str, Mapping[str, Array]],
    groups: Sequence[str],
    generator: np.random.Generator,
) -> list[Concordance]:
    """Whether several runs, and several suites of one run, order the groups alike.

    Runs may differ in their target, drafter or seed. `repetitions` are, by kind and name, sums of
    shape (num_groups, num_columns).
    """
    found = []
    for over, sums_by_name in repetitions.items():
        for metric in (metric for metric in METRICS if metric.name in _STABLE):
            table = np.array(
                [metric.evaluate(Sums(sums), Sums(sums.sum(0))) for sums in sums_by_name.values()]
            )
            names = list(sums_by_name)
            found.append(_concordance(metric.name, over, names, groups, table, generator))
    return [one for one in found if one is not None]


def _concordance(
    metric: str,
    over: str,
    names: Sequence[str],
    groups: Sequence[str],
    table: Array,
    generator: np.random.Generator,
) -> Concordance | None:
    """Of repetitions that have most groups, on the groups that all of them have."""
    # Only here: scipy.stats takes a second to load.
    from lm_eval_specfair.metrics.statistics.rank_correlation import concordance_p, kendall_w

    kept = [place for place, row in enumerate(table) if np.isfinite(row).sum() >= FEWEST_GROUPS]
    common = np.isfinite(table[kept]).all(axis=0).reshape(len(groups))
    if len(kept) < 2 or common.sum() < FEWEST_GROUPS:
        return None
    shared = table[kept][:, common]
    w = kendall_w(shared)
    if not np.isfinite(w):
        return None
    return Concordance(
        figure=metric,
        over=over,
        names=[names[place] for place in kept],
        groups=[group for group, is_common in zip(groups, common, strict=True) if is_common],
        w=w,
        p_value=concordance_p(shared, generator),
    )


def number_in(text: str) -> float:
    """The number of a resource class; NaN where it has none."""
    number = re.search(r"\d+(\.\d+)?", text)
    return float(number.group()) if number else np.nan
