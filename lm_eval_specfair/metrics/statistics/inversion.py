"""Intervals for measures of spread across groups, by inverting a test.

Noise drives groups apart, so percentiles of resampled spreads are too high, and their reflections
too low. The question here instead: for which true spreads would the observed one be no surprise?
The groups' observed deviations from their mean are taken as the shape of the truth and scaled, from
none to far more than observed; noise as resampled is added, and the scales at which the observed
spread is between the 2.5th and the 97.5th percentile make up the interval. Observed deviations
scatter even where most groups are equal. So the same is asked of two more shapes, and the interval
holds what any of them allows: one in which groups are moved together as far as noise may have
driven them apart, and, where two or three kinds of groups explain the values, one in which all
groups of a kind are equal. docs/decisions/metrics.md has their coverage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.intervals import (
    MAX_UNDEFINED,
    MIN_DOCUMENTS,
    critical_value,
    expanded_level,
    normal_quantile,
)

# Numbers at each scale: bounds the time for many groups.
_MOST = 20_000
_FEWEST_RESAMPLES, _MOST_RESAMPLES = 400, 800
_ROUNDING = 1e-12
_SURE = 30.0  # standard deviations, in place of infinity
_BELOW, _ABOVE, _FARTHEST = 7, 8, 4.0
_GRID, _ROUNDS = 80, 200
_LEAST_SHAPE = 0.05  # of the observed spread: all groups gathered are no shape
# A further kind of groups has two parameters, its place and its share: twice the likelihood's
# logarithm that chance gives them in 95 cases of 100.
_A_KIND_IS_WORTH = 5.99
_MOST_KINDS, _ROUNDS_OF_KINDS = 3, 60
_LEAST_KINDS_SHAPE = 0.3  # of the observed spread: stretched farther, its groups would leave 0


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Groups as they might be, at several scales of their spread.

    For each shape of the truth, with the spread growing along the first axis, `supposed` are
    values, shape (num_scales, num_groups), and these with noise, shape (num_scales,
    num_resamples, num_groups).
    """

    values: Array  # as observed, (num_groups,)
    supposed: Sequence[tuple[Array, Array]]
    levels: Array  # between which probabilities a spread is no surprise
    num_documents: int  # of the group with fewest

    @classmethod
    def of(cls, values: Array, replicates: Array, num_documents: Array) -> "Inversion | None":
        """Suppose truths for groups, which are the last axis of values and resamples.

        None where there is too little to tell: a group with few documents, or values that resamples
        often lack.
        """
        defined = replicates[np.isfinite(replicates).all(-1)]
        fewest = int(num_documents.min())
        if fewest < MIN_DOCUMENTS or len(defined) < (1 - MAX_UNDEFINED) * len(replicates):
            return None
        size = int(np.clip(_MOST // len(values), _FEWEST_RESAMPLES, _MOST_RESAMPLES))
        small_sample = np.sqrt(num_documents / (num_documents - 1))
        noise = (defined[:size] - values) * small_sample
        shapes, errors = [values], noise.std(0)
        if len(values) > 2 and (errors > 0).all():
            gathered, likelihood = _gathered(values, errors)
            if gathered.std() > _LEAST_SHAPE * values.std():
                shapes.append(gathered)
            kinds = _few_kinds(values, errors, likelihood)
            if kinds is not None and kinds.std() > _LEAST_KINDS_SHAPE * values.std():
                shapes.append(kinds)
        # A little farther than Student's t: the shape of the truth is an estimate too.
        reach = critical_value(fewest)
        return cls(
            values=values,
            supposed=[_suppose(values, shape, noise) for shape in shapes],
            levels=special.ndtr(np.array([-reach, reach])),
            num_documents=fewest,
        )

    def interval(
        self, statistic: Callable[[Array], Array], *, falls: bool = False
    ) -> tuple[float, float] | None:
        """A 95% interval for a measure of spread; None where the measure is often undefined.

        `statistic` goes from groups' values, shape (..., num_groups), to shape (...); `falls` says
        that it falls as groups move apart.
        """
        sign = -1.0 if falls else 1.0
        observed, spreads = sign * float(statistic(self.values)), self._spreads(statistic, sign)
        if spreads is None:
            return None
        ends = [sign * end for spread in spreads for end in self._inverted(observed, *spread)]
        return min(ends), max(ends)

    def p_values(
        self, statistic: Callable[[Array], Array], limit: float, *, falls: bool = False
    ) -> tuple[float, float] | None:
        """One-sided p-values of the claims that the true spread is below, and above, a limit.

        Each is the chance that groups whose spread is the limit look as they do, or less like it,
        for the shape of the truth where that is most likely; between scales it is interpolated.
        """
        sign = -1.0 if falls else 1.0
        observed, spreads = sign * float(statistic(self.values)), self._spreads(statistic, sign)
        if spreads is None:
            return None
        quantiles = [self._quantile_at(sign * limit, observed, *spread) for spread in spreads]
        smaller, larger = (
            max(expanded_level(side * quantile, self.num_documents) for quantile in quantiles)
            for side in (1, -1)
        )
        return (larger, smaller) if falls else (smaller, larger)

    @staticmethod
    def _quantile_at(limit: float, observed: float, truths: Array, noisy: Array) -> float:
        """Where the observed spread is among those of a truth at the limit (`normal_quantile`)."""
        beyond = limit - float(truths[-1])
        if beyond > 0:  # farther than supposed: as far from there as at the last scale
            return float(np.clip(normal_quantile(noisy[-1], observed - beyond), -_SURE, _SURE))
        quantiles = [normal_quantile(row, observed) for row in noisy]
        falling = np.minimum.accumulate(np.clip(quantiles, -_SURE, _SURE))
        return float(np.interp(limit, truths, falling))

    def _spreads(
        self, statistic: Callable[[Array], Array], sign: float
    ) -> list[tuple[Array, Array]] | None:
        """The statistic of each shape's truths, and of these with noise; larger is more spread."""
        spreads = []
        for groups, with_noise in self.supposed:
            truths, noisy = sign * statistic(groups), sign * statistic(with_noise)
            if not np.isfinite(truths).all() or np.isnan(noisy).mean() > MAX_UNDEFINED:
                return None
            # Equal groups have no spread, whatever rounding says.
            truths[np.abs(truths) < _ROUNDING * np.abs(truths).max()] = 0
            spreads.append((truths, noisy))
        return spreads

    def _inverted(self, observed: float, truths: Array, noisy: Array) -> tuple[float, float]:
        """Between which of the supposed spreads the observed one is no surprise."""
        if np.array_equal(truths, truths[:1].repeat(len(truths))):
            return float(truths[0]), float(truths[0])
        # Where the spread grows, so do its percentiles, but for the noise of resampling.
        has_gaps = bool(np.isnan(noisy).any())
        found = (np.nanquantile if has_gaps else np.quantile)(noisy, self.levels, axis=1)
        lows, highs = np.maximum.accumulate(found, axis=1)
        low, high = (
            float(truths[0] if observed <= edge[0] else np.interp(observed, edge, truths))
            for edge in (highs, lows)
        )
        return low, high


def _suppose(values: Array, shape: Array, noise: Array) -> tuple[Array, Array]:
    """Truths of one shape around the observed mean, at several scales, and with noise."""
    deviations = shape - shape.mean()
    spread, noise_spread = float(deviations.std()), float(np.sqrt(noise.var(-1).mean()))
    if spread == 0 or noise_spread == 0:
        scales = np.array([0.0, 1.0])
    else:
        farthest = max(1.0, float(values.std()) / spread) + _FARTHEST * noise_spread / spread
        scales = np.concatenate([np.linspace(0, 1, _BELOW)[:-1], np.linspace(1, farthest, _ABOVE)])
    truths = values.mean() + scales[:, None] * deviations
    noisy = truths[:, None] + noise
    if values.min() >= 0:  # a count, a time or a share stays one
        truths, noisy = np.maximum(truths, 0), np.maximum(noisy, 0)
    return truths, noisy


def _gathered(values: Array, errors: Array) -> tuple[Array, float]:
    """Groups moved to where the most likely distribution of truths has them; its log likelihood.

    The posterior means under the maximum-likelihood mixing distribution on a grid, by EM: equal
    groups come together. All standard errors must be positive.

    Source:
        Kiefer and Wolfowitz 1956, Annals of Mathematical Statistics 27(4); on a grid by EM: Laird
        1978, JASA 73(364); for the means of groups: Jiang and Zhang 2009, Annals of Statistics
        37(4).
    """
    grid = np.linspace(values.min(), values.max(), _GRID)
    likelihood, best = _likelihood(values, errors, grid)
    weights = np.full(_GRID, 1 / _GRID)
    for _ in range(_ROUNDS):
        weights *= (1 / (likelihood @ weights)) @ likelihood / len(values)
    means = (likelihood @ (weights * grid)) / (likelihood @ weights)
    return means, float(np.log(likelihood @ weights).sum() + best)


def _few_kinds(values: Array, errors: Array, reached: float) -> Array | None:
    """Groups moved to the place of their kind, with as few kinds as nearly reach a log likelihood.

    None where more than three kinds are needed: then no few groups stand out.

    Source:
        Finite mixtures by EM: Dempster, Laird and Rubin 1977, JRSS B 39(1).
    """
    for number in range(1, min(_MOST_KINDS, len(values) - 1) + 1):
        evenly = (np.arange(number) + 0.5) / number
        starts = (np.quantile(values, evenly), values.min() + evenly * np.ptp(values))
        fits = [_kinds(values, errors, places) for places in starts]
        likelihood, found = max(fits, key=lambda fit: fit[0])
        if 2 * (reached - likelihood) < _A_KIND_IS_WORTH:
            return found
    return None


def _kinds(values: Array, errors: Array, places: Array) -> tuple[float, Array]:
    """The likelihood's logarithm, and each group at the place of its most likely kind."""
    shares = np.full(len(places), 1 / len(places))
    for _ in range(_ROUNDS_OF_KINDS):
        likelihood, _best = _likelihood(values, errors, places)
        belongs = shares * likelihood
        belongs /= belongs.sum(1, keepdims=True)
        shares = np.maximum(belongs.mean(0), _ROUNDING)  # an empty kind stays where it is
        counted = belongs / errors[:, None] ** 2
        total = counted.sum(0)
        moved = (counted * values[:, None]).sum(0)
        places = np.divide(moved, total, out=places.copy(), where=total > 0)
    likelihood, best = _likelihood(values, errors, places)
    kind = (shares * likelihood).argmax(1)
    return float(np.log(likelihood @ shares).sum() + best), places[kind]


def _likelihood(values: Array, errors: Array, places: Array) -> tuple[Array, float]:
    """Of each group at each place, over that at the nearest, so that no row underflows.

    Shape (num_groups, num_places); also the sum of the logarithms of what was divided by.
    """
    squared = ((values[:, None] - places) / errors[:, None]) ** 2
    nearest = squared.min(1, keepdims=True)
    return np.exp((nearest - squared) / 2), float(-nearest.sum() / 2)
