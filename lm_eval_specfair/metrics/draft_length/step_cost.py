"""The cost of a step as a function of its drafted tokens, in plain steps."""

from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.draft_length.length_sums import ReplayColumns


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCosts:
    """A step's cost by the tokens it drafts, in plain steps: linear between measured points.

    Outside the points the dearer of two assumptions is made, so that no gain rests on the cheaper
    one. Below the first only drafting gets cheaper; verifying and the rest cost as much as there
    (as where a pass is bound by memory or by host work). Beyond the last the cost rises with the
    last slope; that of a single point is taken from a plain step, which drafts nothing and costs 1.
    """

    drafted: Array  # per step at the points, ascending, (..., num_points)
    cost: Array  # of such a step, (..., num_points)
    draft: Array  # c at the first point, (...); 0 where drafting was not timed

    def of(self, drafted_per_step: Array) -> Array:
        """Cost of a step that drafts, for drafted tokens per step of shape (...)."""
        first, last = self.drafted[..., 0], self.drafted[..., -1]
        less = np.maximum(first - drafted_per_step, 0.0)
        total: Array = self.cost[..., 0] - self.draft * less
        before_drafted, before_cost = np.zeros(()), np.ones(())
        slope = quotient(self.cost[..., 0] - before_cost, first - before_drafted)
        for point in range(1, self.drafted.shape[-1]):
            before_drafted, before_cost = self.drafted[..., point - 1], self.cost[..., point - 1]
            length = self.drafted[..., point] - before_drafted
            slope = quotient(self.cost[..., point] - before_cost, length)
            total = total + slope * np.clip(drafted_per_step - before_drafted, 0.0, length)
        total += np.maximum(slope, 0.0) * np.maximum(drafted_per_step - last, 0.0)
        return total


def measured_costs(run: Array, columns: ReplayColumns) -> StepCosts:
    """The costs of the runs' own steps; NaN where nothing was decoded without a drafter.

    Each draft length that was run gives one point: the paired requests' drafted tokens per step,
    and seconds per step over the same run's plain seconds per step. `run` are sums of all groups,
    shape (..., num_columns).
    """
    drafted, cost, draft = [], [], np.zeros(())
    for length in columns.measured:
        plain_seconds, plain_tokens, seconds, steps, tokens, draft_seconds = np.moveaxis(
            run[..., columns.paired(length)], -1, 0
        )
        plain_step = quotient(plain_seconds, plain_tokens)
        drafted.append(quotient(tokens, steps))
        cost.append(quotient(quotient(seconds, steps), plain_step))
        if length == columns.measured[0]:
            draft = np.nan_to_num(quotient(quotient(draft_seconds, tokens), plain_step), nan=0.0)
    return StepCosts(drafted=np.stack(drafted, -1), cost=np.stack(cost, -1), draft=draft)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenCosts:
    """Costs of a step as the user names them, in plain steps; v and o are those of one length."""

    draft: float  # c, of drafting one token
    verify: float  # v, of verifying a draft of `length` tokens
    overhead: float  # o, of the rest of a step
    length: float  # drafted tokens per step, where a drafter does not always draft all it may

    def of_steps(self) -> StepCosts:
        cost = self.draft * self.length + self.verify + self.overhead
        return StepCosts(
            drafted=np.array([float(self.length)]),
            cost=np.array([cost]),
            draft=np.array(self.draft),
        )
