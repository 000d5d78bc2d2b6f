"""To what the spread between languages belongs: to the language, or to one target, drafter or task.

A balanced table of runs (targets x data sets x drafters) by languages. Each run's own mean is taken
off; what is left is split as in an analysis of variance: what a language has in all runs alike,
what it has with one target only, with one drafter only, and so on. The shares sum to 1.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ALIKE = "in all runs alike"
REST = "in one run"


def language_shares(values: Array, names: Sequence[str]) -> dict[str, Array]:
    """Shares of the sum of squares, by what languages differ with.

    Args:
        values: Shape (..., one axis for each name, languages); shares have the leading shape.
        names: Of the axes of runs. Those of length 1 get no share.

    Returns:
        `ALIKE`; `with the NAME` for each axis, for two `with NAME and NAME`; the last, which a
        single run has for itself, is `REST`.
    """
    lengths = dict(zip(names, values.shape[-len(names) - 1 : -1], strict=True))
    single = tuple(place - len(names) - 1 for place, name in enumerate(names) if lengths[name] == 1)
    values = values.squeeze(single)
    several = [name for name in names if lengths[name] > 1]
    axes = {name: place - len(several) - 1 for place, name in enumerate(several)}
    centred = values - values.mean(-1, keepdims=True)
    own = (*axes.values(), -1)
    total = (centred**2).sum(own)

    def mean_over_others(kept: Sequence[str]) -> Array:
        others = tuple(axis for name, axis in axes.items() if name not in kept)
        result: Array = centred.mean(others, keepdims=True)
        return result

    found = {}
    for size in range(len(axes) + 1):
        for chosen in itertools.combinations(axes, size):
            parts = [
                (-1) ** (size - len(kept)) * mean_over_others(kept)
                for number in range(size + 1)
                for kept in itertools.combinations(chosen, number)
            ]
            effect = np.broadcast_to(sum(parts), centred.shape)
            found[_label(chosen, len(axes))] = (effect**2).sum(own) / total
    return found


def noise_share(values: Array, replicates: Array) -> float:
    """The share that the choice of documents makes alone, from how resampled values vary.

    Args:
        values: Shape (one axis for each name, languages).
        replicates: The same behind an axis of resamples.
    """
    drawn = replicates - replicates.mean(-1, keepdims=True)
    centred = values - values.mean(-1, keepdims=True)
    return float(drawn.var(0, ddof=1).sum() / (centred**2).sum())


def _label(chosen: Sequence[str], number: int) -> str:
    if not chosen:
        return ALIKE
    if len(chosen) == number:
        return REST
    return "with the " + " and ".join(chosen)
