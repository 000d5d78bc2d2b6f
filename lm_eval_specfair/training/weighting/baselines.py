"""The rules that s-CDF is compared with: fixed shares, long-tail, worst groups, GroupDRO."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.options import BelowOne, NonNegative, Positive
from lm_eval_specfair.training.weighting.base import GroupStates


def balanced(groups: GroupStates) -> Array:
    """All groups alike: balanced distillation."""
    return np.ones(len(groups.names))


def mix(groups: GroupStates) -> Array:
    """The data as they are: each group by its share of the training tokens."""
    return groups.num_tokens


def temperature(groups: GroupStates, *, temperature: Positive = 5.0) -> Array:
    """Share of the data to the power 1/T: between `mix` (1) and `balanced` (infinity).

    Source:
        Arivazhagan et al. 2019 (arXiv:1907.05019), section 4.2.
    """
    # Relative to the largest group, which keeps large counts in range.
    flattened: Array = (groups.num_tokens / groups.num_tokens.max()) ** (1 / temperature)
    return flattened


def class_balanced(groups: GroupStates, *, beta: BelowOne = 0.999999) -> Array:
    """One over the effective number of samples, `(1 - beta) / (1 - beta^n)`.

    Source:
        Cui et al. 2019 (arXiv:1901.05555), equation 4; n counts tokens here, hence beta near 1.
    """
    if beta == 0:
        return balanced(groups)
    # 1 - beta^n loses its digits where beta is near 1.
    weights: Array = (beta - 1) / np.expm1(groups.num_tokens * np.log(beta))
    return weights


def focal(groups: GroupStates, *, gamma: NonNegative = 2.0) -> Array:
    """`(1 - overlap_T)^gamma`, the focal factor with a group's chance of acceptance.

    Source:
        Lin et al. 2017 (arXiv:1708.02002), equation 4, with a group's overlap in place of one
        example's probability.
    """
    factor: Array = np.clip(1 - groups.overlap, 0, 1) ** gamma
    return factor


def worst_only(groups: GroupStates) -> Array:
    """Only the group with the largest misfit; groups that tie share."""
    worst: Array = (groups.misfit == groups.misfit.max()).astype(float)
    return worst


def cvar(groups: GroupStates, *, share: Annotated[float, Meta(gt=0, le=1)] = 0.3) -> Array:
    """The worst-fitted share of the groups alike: the conditional value at risk.

    Every group may weigh at most `1 / (share m)`, and weights go to the largest misfits first: with
    share 1 it is `balanced`, with `1 / m` it is `worst_only`. Groups that tie share, so that their
    order has no influence.

    Source:
        Levy et al. 2020 (arXiv:2010.05893), equation 2, over groups instead of examples.
    """
    left = share * len(groups.names)
    weights = np.zeros(len(groups.names))
    for misfit in np.unique(groups.misfit)[::-1]:
        tied = groups.misfit == misfit
        weights[tied] = min(1.0, left / tied.sum())
        left -= tied.sum()
        if left <= 0:
            break
    return weights


class GroupDro:
    """GroupDRO: weights grow exponentially with the misfit, `g <- g exp(rate e) / Z`.

    Source:
        Sagawa et al. 2020 (arXiv:1911.08731), algorithm 1.
    """

    def __init__(self, *, rate: Positive = 0.05) -> None:
        self._rate = rate
        self._logs: dict[str, float] = {}

    def begin(self, names: tuple[str, ...], shares: Array) -> None:
        """Start from these shares instead of equal ones; what has none gets a hundredth of equal.

        Steps multiply, so a share of 0 would stay one.
        """
        logs = np.log(np.maximum(shares, 0.01 / len(names)))
        self._logs = dict(zip(names, (logs - logs.max()).tolist(), strict=True))

    def __call__(self, groups: GroupStates) -> Array:
        """The weights after one more step of exponentiated gradient."""
        logs = np.array([self._logs.get(name, 0.0) for name in groups.names])
        logs += self._rate * groups.misfit
        logs -= logs.max()
        self._logs = dict(zip(groups.names, logs.tolist(), strict=True))
        weights: Array = np.exp(logs)
        return weights

    def state(self) -> dict[str, Any]:
        """Logarithms of the weights by group; `restore` undoes it."""
        return {"logs": self._logs}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._logs = dict(state["logs"])
