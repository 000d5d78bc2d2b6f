"""Any rule, with one group's overlap held above a share of its start: a dual variable.

Fairness that is paid by the dominant group is levelling down. Here the drafter descends on the
inner rule's loss subject to `overlap_dominant >= (1 - epsilon) start`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.group_sums import Array
from lm_eval_specfair.training.weighting.base import Groups, Rule, normalised


class Constrained:
    """Adds a dual variable's weight to the dominant group whenever it falls below its bound.

    `lambda <- max(0, lambda + rate ((1 - epsilon) start - now) / start)`, and
    `w = w_inner + lambda [dominant]`. The loss stands in for the overlap in the gradient: both
    have their best value at q = p.
    """

    def __init__(
        self,
        inner: Rule,
        *,
        dominant: str | None = None,
        epsilon: float = 0.03,
        rate: float = 2.0,
        floor: float = 0.3,
    ) -> None:
        """Constrain a rule.

        Args:
            inner: Weighs the groups as long as the bound holds.
            dominant: The group that is protected; None for the one with the most training text.
            epsilon: Share of its start that it may lose, in [0, 1).
            rate: Step of the dual variable, above 0.
            floor: Share of equal weights in the inner rule's, in [0, 1].
        """
        self._inner, self._floor = inner, floor
        self._dominant = dominant
        self._epsilon, self._rate = epsilon, rate
        self._dual = 0.0
        self._start: float | None = None

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Make sure that the dominant group is one of the data's.

        Raises:
            ConfigError: If it is none of them.
        """
        if self._dominant is not None and self._dominant not in names:
            raise ConfigError(
                f"dominant must be one of the groups, got {self._dominant!r}; the data have "
                f"{', '.join(names)}"
            )

    def weights(self, groups: Groups) -> Array:
        """All at least 0, if the inner rule's are.

        Raises:
            ConfigError: If the dominant group is none of the groups.
        """
        if self._dominant is None:
            self._dominant = groups.names[int(groups.num_tokens.argmax())]
        self.refuse_unknown(groups.names)
        place = groups.names.index(self._dominant)
        now = float(groups.overlap[place])
        if self._start is None:
            self._start = now
        if self._start > 0:
            missing = (1 - self._epsilon) * self._start - now
            self._dual = max(0.0, self._dual + self._rate * missing / self._start)
        weights = normalised(self._inner.weights(groups), self._floor)
        weights[place] += self._dual
        return weights

    def state(self) -> dict[str, Any]:
        """The dual variable, where the group started, and the inner rule's state."""
        return {
            "dual": self._dual,
            "start": self._start,
            "dominant": self._dominant,
            "inner": self._inner.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self._dual, self._start = state["dual"], state["start"]
        self._dominant = state["dominant"]
        self._inner.restore(state["inner"])
