"""The modelled speed-ups of assignments of routes, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.draft_length.selection import ExpectedGain
from lm_eval_specfair.metrics.routing.drafter_texts import DrafterTexts, Route, log_quotient
from lm_eval_specfair.metrics.routing.held_out_routes import (
    ASSIGNMENTS,
    assigned_sums,
    tokens_and_costs,
)
from lm_eval_specfair.metrics.statistics.bootstrap import resample
from lm_eval_specfair.metrics.statistics.intervals import Estimate, percentile_interval

_INCUMBENT = ASSIGNMENTS.index("incumbent")
DECODED_PLAINLY = "plain"
"""Beside `ASSIGNMENTS`: every document of a group without a drafter."""


@dataclass(frozen=True, kw_only=True)
class AssignmentTable:
    """Tokens and plain steps of each of `ASSIGNMENTS`, by group.

    `observed` are two arrays of shape (num_assignments, num_groups), `replicates` two of shape
    (num_assignments, num_resamples, num_groups).
    """

    observed: tuple[Array, Array]
    replicates: tuple[Array, Array]
    units: Sequence[NDArray[np.intp]]  # of documents, of the groups of each block
    requests: Sequence[int]  # by group

    @classmethod
    def of(
        cls,
        drafters: Sequence[DrafterTexts],
        routes: Sequence[Route],
        generator: np.random.Generator,
        *,
        requests: Sequence[int],
        num_resamples: int,
    ) -> "AssignmentTable":
        """Resample the documents, each decoded as the other folds choose."""
        drawn = resample(assigned_sums(drafters, routes), generator, num_resamples=num_resamples)
        return cls(
            observed=tokens_and_costs(drafters, drawn.observed),
            replicates=tokens_and_costs(drafters, drawn.replicates),
            units=drafters[0].units,
            requests=requests,
        )

    def expected(self, assignment: str, group: int) -> ExpectedGain:
        """The speed-ups of the incumbent and of the assignment, and the gain."""
        return self._expected([assignment], [group])

    def overall(self, assigned: Sequence[str]) -> ExpectedGain:
        """The same of all groups together, each with its own assignment."""
        return self._expected(assigned, range(len(assigned)))

    def together(self) -> Estimate:
        """The geometric mean over groups of the route that serves them together."""
        place = ASSIGNMENTS.index("together")
        value, many = (
            np.exp(log_quotient(tokens[place], cost[place]).mean(-1)) for tokens, cost in self._both
        )
        low, high = percentile_interval(many, self._documents(range(len(self.requests)))) or (
            None,
            None,
        )
        return Estimate(value=float(value), low=low, high=high, n=sum(self.requests))

    @property
    def _both(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return self.observed, self.replicates

    def _expected(self, assigned: Sequence[str], groups: Sequence[int]) -> ExpectedGain:
        def estimate(found: Array, resampled: Array) -> Estimate:
            low, high = percentile_interval(resampled, self._documents(groups)) or (None, None)
            n = sum(self.requests[group] for group in groups)
            return Estimate(value=float(found), low=low, high=high, n=n)

        current, chosen = [], []
        for tokens, cost in self._both:
            before = [(tokens[_INCUMBENT, ..., one], cost[_INCUMBENT, ..., one]) for one in groups]
            after = [
                (tokens[_INCUMBENT, ..., one],) * 2
                if name == DECODED_PLAINLY
                else (tokens[(at := ASSIGNMENTS.index(name)), ..., one], cost[at, ..., one])
                for name, one in zip(assigned, groups, strict=True)
            ]
            current.append(quotient(*np.sum(before, axis=0)))
            chosen.append(quotient(*np.sum(after, axis=0)))
        return ExpectedGain(
            current_speedup=estimate(*current),
            chosen_speedup=estimate(*chosen),
            gain=estimate(chosen[0] / current[0] - 1, chosen[1] / current[1] - 1),
        )

    def _documents(self, groups: Sequence[int]) -> int:
        """Units that are drawn, of groups; one that is drawn for several counts once."""
        found = first = 0
        for units in self.units:
            own = [int(units[one - first]) for one in groups if 0 <= one - first < len(units)]
            found += max(own, default=0)
            first += len(units)
        return found
