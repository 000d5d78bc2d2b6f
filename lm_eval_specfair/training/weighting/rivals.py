"""What s-CDF has to beat: fixed proportions, long-tail weights, the worst group, GroupDRO."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_eval_specfair.training.group_sums import Array
from lm_eval_specfair.training.weighting.base import Groups, Stateless


class Balanced(Stateless):
    """All groups alike: balanced distillation."""

    def weights(self, groups: Groups) -> Array:
        """Ones."""
        return np.ones(len(groups.names))


class Mix(Stateless):
    """The data as they are: each group by its share of the training tokens."""

    def weights(self, groups: Groups) -> Array:
        """Token counts."""
        return groups.num_tokens.copy()


class Temperature(Stateless):
    """Share of the data to the power 1/T: between `Mix` (1) and `Balanced` (infinity).

    Source:
        Arivazhagan et al. 2019 (arXiv:1907.05019), section 4.2.
    """

    def __init__(self, temperature: float = 5.0) -> None:
        """Flatten with this temperature, above 0."""
        self._temperature = temperature

    def weights(self, groups: Groups) -> Array:
        """Relative to the largest group, which keeps large counts in range."""
        relative = groups.num_tokens / groups.num_tokens.max()
        flattened: Array = relative ** (1 / self._temperature)
        return flattened


class ClassBalanced(Stateless):
    """One over the effective number of samples, `(1 - beta) / (1 - beta^n)`.

    Source:
        Cui et al. 2019 (arXiv:1901.05555), equation 4; n counts tokens here, hence beta near 1.
    """

    def __init__(self, beta: float = 0.999999) -> None:
        """Count samples with this beta, in [0, 1)."""
        self._beta = beta

    def weights(self, groups: Groups) -> Array:
        """The rarer, the more, up to `1 - beta` times the number of tokens."""
        if self._beta == 0:
            return np.ones(len(groups.names))
        # 1 - beta^n loses its digits where beta is near 1.
        effective = np.expm1(groups.num_tokens * np.log(self._beta)) / (self._beta - 1)
        weights: Array = 1 / effective
        return weights


class Focal(Stateless):
    """`(1 - overlap_T)^gamma`, the focal factor with a group's chance of acceptance.

    Source:
        Lin et al. 2017 (arXiv:1708.02002), equation 4, with a group's overlap in place of one
        example's probability.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        """Focus with this exponent, at least 0."""
        self._gamma = gamma

    def weights(self, groups: Groups) -> Array:
        """In [0, 1]."""
        factor: Array = np.clip(1 - groups.overlap, 0, 1) ** self._gamma
        return factor


class WorstOnly(Stateless):
    """Only the group with the largest misfit; groups that tie share."""

    def weights(self, groups: Groups) -> Array:
        """0 or 1."""
        worst: Array = (groups.misfit == groups.misfit.max()).astype(float)
        return worst


class Cvar(Stateless):
    """The worst-fitted share of the groups alike: the conditional value at risk.

    Every group may weigh at most `1 / (share m)`, and weights go to the largest misfits first: with
    share 1 it is `Balanced`, with `1 / m` it is `WorstOnly`. Groups that tie share, so that their
    order tells nothing.

    Source:
        Levy et al. 2020 (arXiv:2010.05893), equation 2, over groups instead of examples.
    """

    def __init__(self, share: float = 0.3) -> None:
        """Weigh this share of the groups, in (0, 1]."""
        self._share = share

    def weights(self, groups: Groups) -> Array:
        """In [0, 1]: how much of each group is among the worst-fitted."""
        left = self._share * len(groups.names)
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

    def __init__(self, rate: float = 0.05) -> None:
        """Raise weights at this rate, per unit of misfit."""
        self._rate = rate
        self._logs: dict[str, float] = {}

    def weights(self, groups: Groups) -> Array:
        """Take one step of exponentiated gradient, and give the weights after it."""
        logs = np.array([self._logs.get(name, 0.0) for name in groups.names])
        logs = logs + self._rate * groups.misfit
        logs = logs - logs.max()
        self._logs = dict(zip(groups.names, logs.tolist(), strict=True))
        weights: Array = np.exp(logs)
        return weights

    def state(self) -> dict[str, Any]:
        """Logarithms of the weights by group."""
        return {"logs": self._logs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the weights."""
        self._logs = dict(state["logs"])
