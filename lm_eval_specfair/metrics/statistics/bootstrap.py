"""How far a figure would move with other documents: intervals by resampling.

The documents of a run are a sample of the texts that a language, or a domain, could have given;
requests of one document are not independent of each other, so documents are what is drawn. Figures
are functions of sums (`metrics.definitions.registry`), so a resample is a matrix product. Knows
nothing about languages or reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric

CONFIDENCE = 0.95
NUM_RESAMPLES = 2_000
SEED = 20_251_002

# Numbers drawn at once: bounds memory for runs of many documents.
_CHUNK = 4_000_000
# Resamples without a denominator have no figure; with more than this share there is no interval.
_MAX_UNDEFINED = 0.05
# Figures with some documents of other groups left out: more would only cost time.
_MAX_LEFT_OUT = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
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

        On documents of other groups it depends through the run's costs alone; of these, several
        are left out at once where there are very many.

        Returns:
            One array of shape (num_documents,) for each block.
        """
        if group is None:
            return [metric.evaluate(Sums(runs), Sums(runs)) for runs in self._runs_without]
        number, column = self._place(group)
        ones = _without(self.observed[group], self.blocks[number][:, column])
        own = metric.evaluate(Sums(ones), Sums(self._runs_without[number]))
        if not metric.uses_run:
            return [own]
        runs, ends = self._runs_without_several
        values = metric.evaluate(Sums(self.observed[group]), Sums(runs))
        left_out = np.split(np.broadcast_to(values, (len(runs),)), ends)
        left_out[number] = own
        return left_out

    def _place(self, group: int) -> tuple[int, int]:
        """The block that a group is in, and its column there."""
        for number, block in enumerate(self.blocks):
            if group < block.shape[1]:
                return number, group
            group -= block.shape[1]
        raise IndexError("no such group")

    @cached_property
    def _runs_without(self) -> list[Array]:
        run = self.observed.sum(0)
        return [_without(run, block.sum(1)) for block in self.blocks]

    @cached_property
    def _runs_without_several(self) -> tuple[Array, NDArray[np.intp]]:
        """All blocks' in one array, and where each block but the last ends."""
        run, most = self.observed.sum(0), max(20, _MAX_LEFT_OUT // len(self.blocks))
        parts = [
            np.add.reduceat(block.sum(1), _starts(len(block), most), axis=0)
            for block in self.blocks
        ]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return _without(run, np.concatenate(parts)), ends

    def num_documents(self, metric: Metric, group: int | None) -> int:
        """Documents with at least one request that the figure rests on."""
        if group is None:
            counted = (Sums(block)[metric.requests] > 0 for block in self.blocks)
            return sum(int(each.any(1).sum()) for each in counted)
        number, column = self._place(group)
        return int((Sums(self.blocks[number][:, column])[metric.requests] > 0).sum())


def _starts(length: int, most: int) -> NDArray[np.intp]:
    """Where parts of about equal length begin, at most so many."""
    parts = min(length, most)
    return np.arange(parts) * length // parts


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
    num_groups, num_columns = sum(block.shape[1] for block in blocks), blocks[0].shape[2]
    # Resamples last in memory: figures read one column of one group.
    drawn, first = np.empty((num_groups, num_columns, num_resamples)), 0
    for block in blocks:
        num_documents, size = len(block), block.shape[1]
        rows, places = _distinct(block.reshape(num_documents, -1))
        at_once = max(1, min(num_resamples, _CHUNK // max(num_documents, 1)))
        for start in range(0, num_resamples, at_once):
            end = min(start + at_once, num_resamples)
            picked = generator.integers(num_documents, size=(end - start, num_documents))
            picked += np.arange(end - start)[:, None] * num_documents
            times = np.bincount(picked.ravel(), minlength=(end - start) * num_documents)
            with np.errstate(invalid="ignore"):  # 0 times an infinite divergence
                sums = rows @ times.reshape(end - start, num_documents).T.astype(float)
            for group in range(size):
                own = places[group * num_columns : (group + 1) * num_columns]
                drawn[first + group, :, start:end] = sums[own]
        first += size
    replicates = drawn.transpose(2, 0, 1)
    return Resampled(
        blocks=blocks,
        observed=np.concatenate([block.sum(0) for block in blocks]),
        replicates=replicates,
        run_replicates=drawn.sum(0).T,
    )


def _distinct(table: Array) -> tuple[Array, NDArray[np.intp]]:
    """The different columns of a table, as rows, and where each of its columns is among them.

    Many sums are the same (each request has all figures, or none has some), so that resampling
    them once saves most of the work.
    """
    columns = np.ascontiguousarray(table.T)
    seen: dict[bytes, int] = {}
    firsts: list[int] = []
    places = np.empty(len(columns), dtype=np.intp)
    for number, column in enumerate(columns):
        place = seen.setdefault(column.tobytes(), len(firsts))
        if place == len(firsts):
            firsts.append(number)
        places[number] = place
    return columns[firsts], places


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
    values = np.concatenate(left_out)
    block = np.repeat(np.arange(len(left_out)), [len(each) for each in left_out])
    finite = np.isfinite(values)
    values, block = values[finite], block[finite]
    sizes = np.bincount(block, minlength=len(left_out))
    # A block with one value has no influence: its mean is the value.
    counts = np.maximum(sizes, 1)
    means = np.bincount(block, weights=values, minlength=len(left_out)) / counts
    influence = ((counts - 1) / counts)[block] * (means[block] - values)
    squared = influence * influence
    squares, cubes = float(squared.sum()), float((squared * influence).sum())
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


def figure(resampled: Resampled, metric: Metric, group: int | None) -> Estimate | None:
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
    return Estimate(value=value, low=low, high=high, n=int(Sums(sums)[metric.requests]))
