"""Arrays of 64-bit floats; quotients and means are NaN where there is nothing to divide by."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def quotient(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is 0.

    Example:
        >>> quotient(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)


def mean_of_known(values: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where all is.

    Example:
        >>> mean_of_known(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
        [2.0, nan]
    """
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0.0).sum(0), known.sum(0).astype(np.float64))
