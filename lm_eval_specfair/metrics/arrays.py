"""Arrays of 64-bit floats; `quotient` returns NaN for x / 0."""

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
