"""The same texts as several drafters would draft them, and the modelled speed-up of each route.

A *route* is a drafter and a draft length, or no drafter: plain decoding, whose step is the unit of
all costs. Each drafter has its own cost of a step, so that a dear drafter that is right more often
and a cheap one that is right less often compare by what they save.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.draft_length.cross_fit import text_cost
from lm_eval_specfair.metrics.draft_length.length_sums import ReplayColumns
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts, StepCosts, measured_costs
from lm_eval_specfair.records.policy_file import NO_DRAFTER


class Route(NamedTuple):
    """A drafter and how many tokens it drafts per step."""

    drafter: str
    length: int


PLAIN = Route(NO_DRAFTER, 0)


@dataclass(frozen=True, kw_only=True)
class DrafterTexts:
    """Sums by document of the texts of one drafter, replayed at its draft lengths.

    `blocks` have shape (num_units, num_groups, num_columns), per run where several runs of the
    drafter hold the same texts; all drafters' have the same units and groups.
    """

    name: str
    columns: ReplayColumns
    blocks: Sequence[Array]
    given: GivenCosts | None = None  # what a step costs; measured in the runs where None

    def costs(self, sums: Array) -> StepCosts:
        """What its steps cost, by sums of shape (..., num_groups, num_columns or fewer)."""
        if self.given is not None:
            return self.given.of_steps()
        return measured_costs(sums.sum(-2, keepdims=True), self.columns)

    def shift(self, sums: Array) -> Array:
        """How far the chance at unknown tokens is from the one that texts were replayed with."""
        _, _, examined, kept = np.moveaxis(sums[..., self.columns.texts], -1, 0)
        observed = self.total[:, self.columns.texts]
        change = quotient(kept, examined) - quotient(observed[:, 3], observed[:, 2])
        return np.nan_to_num(change, nan=0.0)

    @cached_property
    def total(self) -> Array:
        """Sums over documents, shape (num_groups, num_columns)."""
        return np.concatenate([block.sum(0) for block in self.blocks])

    @property
    def units(self) -> list[NDArray[np.intp]]:
        """How many units of documents each group has, by block."""
        column = self.columns.texts.start
        return [(block[..., column] > 0).sum(0) for block in self.blocks]

    @property
    def routes(self) -> list[Route]:
        """Those that draft, by length."""
        lengths = self.columns.candidates or range(self.columns.longest + 1)
        return [Route(self.name, length) for length in lengths if length]


def log_speedups(
    drafters: Sequence[DrafterTexts], sums: Sequence[Array], routes: Sequence[Route]
) -> Array:
    """The logarithm of each route's modelled speed-up, shape (num_routes, ..., num_groups).

    `sums` are each drafter's, of shape (..., num_groups, num_columns), as observed or resampled. It
    is minus infinity where the cost of a drafter's step is not known.
    """
    table = np.zeros((len(routes), *sums[0].shape[:-1]))
    for drafter, own in zip(drafters, sums, strict=True):
        costs, shift = drafter.costs(own), drafter.shift(own)
        tokens = own[..., drafter.columns.texts][..., 1]
        for row, route in zip(table, routes, strict=True):
            if route.drafter == drafter.name:
                replayed = own[..., drafter.columns.replayed(route.length)]
                row[...] = log_quotient(tokens, text_cost(replayed, costs, shift))
    return np.where(np.isfinite(table), table, -np.inf)


def log_quotient(numerator: Array, denominator: Array) -> Array:
    """The logarithm of a quotient; NaN where it has none."""
    ratio = quotient(numerator, denominator)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(ratio > 0, np.log(ratio), np.nan)
