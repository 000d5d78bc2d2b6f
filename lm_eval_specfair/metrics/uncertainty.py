"""How far a figure would move with other documents: intervals by resampling.

The documents of a run are a sample of the texts that a language, or a domain, could have given;
requests of one document are not independent of each other, so documents are what is drawn. Figures
are functions of sums (`metrics.figures`), so a resample is a matrix product. Knows nothing about
languages or reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.figures import Metric
from lm_eval_specfair.metrics.sums import Array, Sums

CONFIDENCE = 0.95
NUM_RESAMPLES = 2_000
SEED = 20_251_002

# Numbers drawn at once: bounds memory for runs of many documents.
_CHUNK = 4_000_000
# Resamples without a denominator have no figure; with more than this share there is no interval.
_MAX_UNDEFINED = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number with its uncertainty.

    Attributes:
        value: The estimate.
        low: Lower end of its 95% interval, or None where there is too little to tell.
        high: Upper end, or None.
        n: Requests that it rests on.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Sums of a run as it was, resampled, and with one document left out.

    Attributes:
        blocks: Sums of each document, one array of shape (num_documents, num_groups, num_columns)
            for each set of groups that are drawn together; groups are numbered through all blocks.
        observed: Shape (num_groups, num_columns).
        replicates: Shape (num_resamples, num_groups, num_columns).
        run_replicates: All groups pooled, shape (num_resamples, num_columns).
    """

    blocks: Sequence[Array]
    observed: Array
    replicates: Array
    run_replicates: Array

    def values(self, metric: Metric, group: int | None) -> tuple[float, Array]:
        """A figure as observed, and resampled.

        Args:
            metric: The figure.
            group: The group's number; None for all groups pooled.

        Returns:
            The estimate and one value for each resample, shape (num_resamples,).
        """
        run = self.observed.sum(0)
        one = run if group is None else self.observed[group]
        many = self.run_replicates if group is None else self.replicates[:, group]
        value = float(metric.evaluate(Sums(one), Sums(run)))
        return value, metric.evaluate(Sums(many), Sums(self.run_replicates))

    def left_out(self, metric: Metric, group: int | None) -> list[Array]:
        """A figure without one document, for each document that it depends on.

        Returns:
            One array of shape (num_documents,) for each block.
        """
        run, left_out, first = self.observed.sum(0), [], 0
        for block in self.blocks:
            runs = _without(run, block.sum(1))
            if group is None:
                left_out.append(metric.evaluate(Sums(runs), Sums(runs)))
            elif first <= group < first + block.shape[1]:
                ones = _without(self.observed[group], block[:, group - first])
                left_out.append(metric.evaluate(Sums(ones), Sums(runs)))
            elif metric.uses_run:
                ones = np.broadcast_to(self.observed[group], runs.shape)
                left_out.append(metric.evaluate(Sums(ones), Sums(runs)))
            first += block.shape[1]
        return left_out

    def num_documents(self, metric: Metric, group: int | None) -> int:
        """Documents with at least one request that the figure rests on."""
        total, first = 0, 0
        for block in self.blocks:
            counted = Sums(block)[metric.requests] > 0
            if group is None:
                total += int(counted.any(1).sum())
            elif first <= group < first + block.shape[1]:
                total += int(counted[:, group - first].sum())
            first += block.shape[1]
        return total


def _without(total: Array, rows: Array) -> Array:
    with np.errstate(invalid="ignore"):  # an infinite divergence, which is not reported
        left: Array = total - rows
    return left


def resample(
    blocks: Sequence[Array],
    generator: np.random.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
) -> Resampled:
    """Draw documents with replacement, as many as there are, in each block on its own.

    Groups of one block lose and gain the same documents together: translations of one document
    share its difficulty, and drawing them together keeps that out of the differences between
    groups. Where documents have nothing in common, drawing them together changes nothing on
    average. Blocks keep their sizes, as the choice of groups was not random.

    Args:
        blocks: Sums of each document, shape (num_documents, num_groups, num_columns) each.
        generator: Source of all randomness.
        num_resamples: How often.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (several samples);
        Field and Welsh 2007, Bootstrapping clustered data, JRSS B 69(3) (clusters are drawn whole).
    """
    replicates = []
    for block in blocks:
        num_documents, num_groups, num_columns = block.shape
        rows, drawn = block.reshape(num_documents, -1), []
        at_once = max(1, min(num_resamples, _CHUNK // max(num_documents, 1)))
        for start in range(0, num_resamples, at_once):
            size = min(at_once, num_resamples - start)
            picked = generator.integers(num_documents, size=(size, num_documents))
            picked += np.arange(size)[:, None] * num_documents
            times = np.bincount(picked.ravel(), minlength=size * num_documents)
            with np.errstate(invalid="ignore"):  # 0 times an infinite divergence
                drawn.append(times.reshape(size, num_documents).astype(float) @ rows)
        replicates.append(np.concatenate(drawn).reshape(-1, num_groups, num_columns))
    all_replicates = np.concatenate(replicates, axis=1)
    return Resampled(
        blocks=blocks,
        observed=np.concatenate([block.sum(0) for block in blocks]),
        replicates=all_replicates,
        run_replicates=all_replicates.sum(1),
    )


def critical_value(num_documents: int) -> float:
    """How many standard errors a 95% interval reaches to each side.

    ``sqrt(n / (n - 1)) t_{n-1, 0.975}``: resampling n documents underestimates the variance by
    (n - 1) / n and takes that estimate for the truth; both matter below some 30 documents.

    Source:
        Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American Statistician
        69(4), section 4.3 (expanded intervals).
    """
    n = num_documents
    return float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.sqrt(n / (n - 1)))


def bca_interval(
    value: float, replicates: Array, left_out: Sequence[Array], num_documents: int
) -> tuple[float, float] | None:
    """A 95% interval, bias-corrected and accelerated, from resampled values of a smooth figure.

    Ratios of sums are biased and skewed where documents are few; BCa corrects for both and stays
    within the range that the figure can have. The normal quantile in it is replaced by
    `critical_value`. Limits: it knows only the variation among the documents at hand. If they all
    agree, its two ends coincide.

    Args:
        value: The figure.
        replicates: Its resampled values, shape (num_resamples,).
        left_out: Its values with one document left out, one array for each block of documents.
        num_documents: Documents that the figure rests on.

    Returns:
        Low and high; None with fewer than two documents, or where resamples often have no figure.

    Source:
        Efron 1987, Better Bootstrap Confidence Intervals, JASA 82(397); the acceleration for
        several samples: Davison and Hinkley 1997, Bootstrap Methods and Their Application, 5.3.
    """
    defined = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or num_documents < 2:
        return None
    if len(defined) < (1 - _MAX_UNDEFINED) * len(replicates):
        return None
    below = np.mean(defined < value) + np.mean(defined == value) / 2
    edge = 0.5 / len(defined)
    bias = special.ndtri(np.clip(below, edge, 1 - edge))
    skewness = acceleration(left_out)
    reach = bias + critical_value(num_documents) * np.array([-1.0, 1.0])
    stretch = 1 - skewness * reach
    # Beyond the pole of the formula lies the end of the range.
    with np.errstate(divide="ignore"):
        moved = np.where(stretch > 0, bias + reach / stretch, np.inf * np.sign(reach))
    low, high = np.quantile(defined, special.ndtr(moved))
    return float(low), float(high)


def acceleration(left_out: Sequence[Array]) -> float:
    """BCa's correction for skewness, from values with one document left out, by block."""
    cubes = squares = 0.0
    for values in left_out:
        finite = values[np.isfinite(values)]
        if len(finite) < 2:
            continue
        influence = (len(finite) - 1) / len(finite) * (finite.mean() - finite)
        cubes += float((influence**3).sum())
        squares += float((influence**2).sum())
    return cubes / squares**1.5 / 6 if squares > 0 else 0.0


def percentile_interval(replicates: Array, num_documents: int) -> tuple[float, float] | None:
    """The 95% interval between percentiles of resampled values, for figures that are not smooth.

    Returns:
        Low and high; None as for `bca_interval`.

    Source:
        Efron 1979, Bootstrap Methods, Annals of Statistics 7(1); the percentiles are those of
        `critical_value`.
    """
    defined = replicates[np.isfinite(replicates)]
    if num_documents < 2 or len(defined) < (1 - _MAX_UNDEFINED) * len(replicates):
        return None
    reach = critical_value(num_documents)
    low, high = np.quantile(defined, special.ndtr([-reach, reach]))
    return float(low), float(high)


def figure(resampled: Resampled, metric: Metric, group: int | None) -> Figure | None:
    """One figure of one group, or of the whole run, with its interval.

    Args:
        resampled: The run's sums.
        metric: The figure.
        group: The group's number; None for all pooled.

    Returns:
        None where it was not measured, or is infinite.
    """
    value, replicates = resampled.values(metric, group)
    if not np.isfinite(value):
        return None
    interval = bca_interval(
        value,
        replicates,
        resampled.left_out(metric, group),
        resampled.num_documents(metric, group),
    )
    low, high = interval or (None, None)
    sums = resampled.observed.sum(0) if group is None else resampled.observed[group]
    return Figure(value=value, low=low, high=high, n=int(Sums(sums)[metric.requests]))
