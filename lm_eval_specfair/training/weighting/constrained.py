"""Any rule, with one group's overlap held above a share of its start: a dual variable.

Fairness that is paid by the dominant group is levelling down. Here the drafter descends on the
inner rule's loss subject to `overlap_dominant >= (1 - epsilon) start`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.options import BelowOne, Positive, Share
from lm_eval_specfair.training.weighting.base import GroupStates, Rule, normalised
from lm_eval_specfair.training.weighting.s_cdf import shift


class Constrained:
    """Adds a dual variable's weight to the dominant group whenever it falls below its bound.

    `lambda <- max(0, lambda + rate ((1 - epsilon) start - now) / start)`, and
    `w = w_inner + lambda [dominant]`. The loss stands in for the overlap in the gradient: both
    have their best value at q = p.
    """

    def __init__(
        self,
        inner: Rule = shift,
        *,
        dominant: str | None = None,
        epsilon: BelowOne = 0.03,
        rate: Positive = 2.0,
        floor: Share = 0.3,
    ) -> None:
        """Constrain a rule that has no state, mixed with `floor` of equal weights.

        `dominant` is the group that is protected, by default the one with the most training text;
        it may lose `epsilon` of its start. The dual variable learns at `rate`.
        """
        self._inner, self._floor, self._dominant = inner, floor, dominant
        self._epsilon, self._rate, self._dual = epsilon, rate, 0.0
        self._start: float | None = None

    @property
    def takes_largest(self) -> bool:
        """Whether the group with the most training text is still to be protected."""
        return self._dominant is None

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Refuse data that lack the dominant group."""
        if self._dominant is not None and self._dominant not in names:
            raise ConfigError(
                f"dominant must be one of the groups, got {self._dominant!r}; the data have "
                f"{', '.join(names)}"
            )

    def __call__(self, groups: GroupStates) -> Array:
        """All at least 0, if the inner rule's are."""
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
        weights = normalised(self._inner(groups), self._floor)
        weights[place] += self._dual
        return weights

    def state(self) -> dict[str, Any]:
        """The dual variable, the dominant group and where it started; `restore` undoes it."""
        return {"dual": self._dual, "start": self._start, "dominant": self._dominant}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._dual, self._start, self._dominant = state["dual"], state["start"], state["dominant"]
