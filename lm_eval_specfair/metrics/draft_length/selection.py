"""The selection of each group's draft length by modelled speed-up, with its expected gain.

The modelled speed-up of a draft length is a group's tokens over the cost of its steps in plain
steps: ``S = tau / (c gamma + v + o)``. The best of several noisy estimates looks better than it is,
so the gain is taken from documents that had no part in the choice
(`metrics.draft_length.cross_fit`), and a group keeps its draft length unless that gain's whole
interval is above 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP
from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.draft_length.cross_fit import (
    cheapest_lengths,
    held_out,
    tokens_and_costs,
)
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts, StepCosts, measured_costs
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED, resample
from lm_eval_specfair.metrics.statistics.intervals import Estimate, percentile_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedGain:
    """The modelled speed-ups of two draft lengths, and the gain of one over the other."""

    current_speedup: Estimate  # with the runs' draft length
    chosen_speedup: Estimate  # on documents that had no part in the choice
    gain: Estimate  # one over the other, less 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthChoice:
    """The draft length of one group."""

    best: int  # the one with the largest modelled speed-up
    chosen: int  # that, or the runs' own where the gain is within noise
    expected: ExpectedGain  # the gain of the best length, whether it was chosen or not


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPolicy:
    """A draft length for each group.

    `costs` are drafted tokens per step and what such a step costs in plain steps: points of a line
    that starts at 1 for none.
    """

    group_by: str
    default: int  # the runs' draft length, kept for groups that are not named
    longest: int  # the longest draft length that was asked about
    measured: Sequence[int]  # the draft lengths that runs were made with
    candidates: Sequence[int]  # those that could be chosen; all up to the longest where empty
    choices: Mapping[str, LengthChoice]  # by group, the largest gain first
    overall: ExpectedGain  # of these groups together, each with its chosen length
    costs: Sequence[tuple[float, float]]
    not_reported: Mapping[str, int]  # groups with too few requests, and how many they have
    num_resamples: int

    @property
    def groups(self) -> dict[str, int]:
        return {group: self.choices[group].chosen for group in sorted(self.choices)}


def choose_policy(
    lengths: DraftLengths,
    *,
    current: int,
    costs: GivenCosts | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
) -> LengthPolicy:
    """Find each group's draft length, to improve on `current`, one of those measured.

    The costs of a step are those of the runs where none are given.

    Raises:
        ConfigError: If no group is large enough, or costs are needed and were not measured.
    """
    generator = generator or np.random.default_rng(SEED)
    columns, requests = lengths.columns, dict(lengths.requests)
    groups = sorted(name for name, n in requests.items() if n >= min_requests and name != NO_GROUP)
    if not groups:
        raise ConfigError(
            f"expected a {lengths.group_by} with at least {min_requests} requests that generate "
            f"text and say how many drafted tokens each step kept, got {requests or 'none'}"
        )
    blocks = lengths.blocks(groups)
    total = np.concatenate([block.sum(0) for block in blocks])

    def model(sums: Array) -> StepCosts:
        if costs is not None:
            return costs.of_steps()
        return measured_costs(sums.sum(-2, keepdims=True), columns)

    observed = model(total)
    if not np.isfinite(observed.cost).all():
        raise ConfigError(
            "what a step costs is known from requests that were also decoded plainly, and a run "
            "has none; run it with baseline=8, or name the costs with --costs C,V,O"
        )
    best = cheapest_lengths(total, observed, columns, current)
    drawn = resample(
        held_out(blocks, total, model, columns, current), generator, num_resamples=num_resamples
    )
    table, replicates = (
        tokens_and_costs(sums, total, columns, model) for sums in (drawn.observed, drawn.replicates)
    )
    documents = np.concatenate([(block[..., columns.texts.start] > 0).sum(0) for block in blocks])
    choices = {}
    for place, group in enumerate(groups):
        expected = _expected_gain(
            table[:, place], replicates[:, :, place], int(documents[place]), requests[group]
        )
        gains = (expected.gain.low or 0.0) > 0
        choices[group] = LengthChoice(
            best=int(best[place]), chosen=int(best[place]) if gains else current, expected=expected
        )

    def rank(group: str) -> tuple[bool, float, str]:
        return choices[group].chosen == current, -choices[group].expected.gain.value, group

    changed = np.array([choice.chosen != current for choice in choices.values()])
    overall = _expected_gain(
        _pooled(table, changed),
        _pooled(replicates, changed),
        sum(len(block) for block in blocks),
        sum(requests[group] for group in groups),
    )
    points = zip(observed.drafted.ravel().tolist(), observed.cost.ravel().tolist(), strict=True)
    return LengthPolicy(
        group_by=lengths.group_by,
        default=current,
        longest=columns.longest,
        measured=columns.measured,
        candidates=columns.candidates,
        choices={group: choices[group] for group in sorted(choices, key=rank)},
        overall=overall,
        costs=list(points),
        not_reported={name: n for name, n in sorted(requests.items()) if name not in choices},
        num_resamples=num_resamples,
    )


def _pooled(table: Array, changed: NDArray[np.bool_]) -> Array:
    tokens, current, chosen = table
    return np.stack([tokens, current, np.where(changed, chosen, current)]).sum(-1)


def _expected_gain(
    table: Array, replicates: Array, num_documents: int, num_requests: int
) -> ExpectedGain:
    def estimate(above: int, below: int, less: float = 0.0) -> Estimate:
        interval = percentile_interval(
            quotient(replicates[above], replicates[below]) - less, num_documents
        )
        low, high = interval or (None, None)
        value = float(quotient(table[above], table[below])) - less
        return Estimate(value=value, low=low, high=high, n=num_requests)

    return ExpectedGain(
        current_speedup=estimate(0, 1), chosen_speedup=estimate(0, 2), gain=estimate(1, 2, less=1.0)
    )
