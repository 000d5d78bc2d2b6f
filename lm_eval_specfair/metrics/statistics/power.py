"""The power of a one-sided t-test: which effect a sample shows, and which sample one needs.

``T = (d + effect) / error`` with n - 1 degrees of freedom is above its critical value with the
probability of the noncentral t distribution whose noncentrality is effect / error. Intervals and
p-values of `bootstrap_estimate` are stretched to that t, so it holds for their tests too.

Source:
    Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd edition, chapter 2, with
    the exact distribution in place of his tables.
"""

import math

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS

POWER = 0.8
"""The share of cases in which an effect is to be found, where nothing else is asked for."""

MOST_DOCUMENTS = 10**9
"""More are not looked for: the effect is as good as none."""


def power_of(effect: float, deviation: float, num_documents: float, level: float) -> float:
    """The chance that the test at a one-sided level finds an effect.

    `deviation` is the standard deviation of one document: the standard error times the root of the
    number of documents.

    Example:
        >>> round(power_of(0.5, 1.0, 27, 0.05), 2)
        0.81
    """
    freedom = num_documents - 1
    critical = special.stdtrit(freedom, 1 - level)
    shift = effect * np.sqrt(num_documents) / deviation
    return float(1 - special.nctdtr(freedom, shift, critical))


def detectable_effect(
    error: float, num_documents: int, level: float, power: float = POWER
) -> float | None:
    """The effect that a sample with this standard error shows with a power; None if there is none.

    `error` is that of a sample, with n - 1 in the denominator. With too few documents for a
    p-value, or an error of 0, nothing can be told.
    """
    if num_documents < MIN_DOCUMENTS or not (np.isfinite(error) and error > 0):
        return None
    freedom = num_documents - 1
    critical = special.stdtrit(freedom, 1 - level)
    shift = float(special.nctdtrinc(freedom, 1 - power, critical))
    return error * shift if np.isfinite(shift) else None


def documents_needed(
    effect: float, deviation: float, level: float, power: float = POWER
) -> int | None:
    """The fewest documents with which the test has a power; None for more than a milliard.

    Example:
        >>> documents_needed(0.5, 1.0, 0.05)
        27
    """
    if not (effect > 0 and np.isfinite(deviation)):
        return None
    if deviation == 0:
        return MIN_DOCUMENTS

    def suffices(number: int) -> bool:
        return power_of(effect, deviation, number, level) >= power

    # The normal distribution's answer is below, and close.
    distance = special.ndtri(1 - level) + special.ndtri(power)
    low = max(MIN_DOCUMENTS, math.floor((distance * deviation / effect) ** 2))
    if low > MOST_DOCUMENTS:
        return None
    while low > MIN_DOCUMENTS and suffices(low - 1):
        low -= 1
    while not suffices(low):
        low += 1
    return low
