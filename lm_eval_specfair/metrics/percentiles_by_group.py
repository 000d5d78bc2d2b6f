"""Percentiles over documents for each group, and how they differ between groups."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from lm_eval_specfair.metrics import percentiles
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.disparity import Disparity, disparity
from lm_eval_specfair.metrics.percentiles import PERCENTILES
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate


def add_percentiles(
    aggregator: Aggregator,
    groups: Mapping[str, dict[str, Estimate | None]],
    overall: dict[str, Estimate | None],
) -> dict[tuple[str | None, str], Array]:
    """Add percentiles to the figures; the values that they rest on, by group and figure.

    None stands for all groups together, in which each document counts once.
    """
    parts: dict[tuple[str | None, str], list[Array]] = {}
    counts: Counter[tuple[str | None, str]] = Counter()
    for names, documents in aggregator.documents():
        for of in dict.fromkeys(percentile.of for percentile in PERCENTILES):
            values, n = percentiles.values(of, documents), percentiles.num_requests(of, documents)
            for key in ((name, of) for name in (None, *names)):
                parts.setdefault(key, []).append(values)
                counts[key] += n
    found = {key: np.sort(np.concatenate(each)) for key, each in parts.items()}
    for name, figures in ((None, overall), *groups.items()):
        for percentile in PERCENTILES:
            key = name, percentile.of
            figures[percentile.name] = percentiles.figure(percentile, found[key], counts[key])
    return found


def disparity_of_percentile(
    percentile: percentiles.Percentile,
    measured: Mapping[str, Array],
    groups: Mapping[str, Mapping[str, Estimate | None]],
    num_resamples: int,
    generator: np.random.Generator,
    *,
    all_measures: bool = False,
) -> Disparity | None:
    """Compare groups on a percentile.

    Args:
        percentile: Which.
        measured: The documents' values of each group that has any, in order.
        groups: Figures by group.
        num_resamples: Resamples behind each interval.
        generator: Source of all randomness.
        all_measures: As in `disparity`.

    Returns:
        None with fewer than two groups.
    """
    if len(measured) < 2:
        return None
    figures = [groups[group][percentile.name] for group in measured]
    drawn = [
        percentiles.replicates(values, percentile.level, num_resamples, generator)
        for values in measured.values()
    ]
    return disparity(
        percentile.as_metric(),
        list(measured),
        np.array([each.value for each in figures if each]),
        np.stack(drawn, axis=1),
        np.array([len(values) for values in measured.values()]),
        sum(each.n for each in figures if each),
        all_measures=all_measures,
    )
