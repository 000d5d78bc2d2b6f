"""The selection of each group's drafter and draft length, with its expected gain and its promise.

The incumbent, the first run's drafter and length, stays where no other route is shown to be faster:
a claim that holds for all routes together (`metrics.routing.simultaneous`), with Holm's correction
over groups. The promise: whatever stays or is chosen is shown to be above plain decoding, in all
groups at once, else the fastest route that drafts is; else the group is decoded plainly. So with a
chance of at least 1 - level no group named has a route that is truly below plain decoding. The
gain that is stated is that on documents that had no part in the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.comparison.measured_run import resample_alike
from lm_eval_specfair.metrics.draft_length.selection import ExpectedGain
from lm_eval_specfair.metrics.routing.assignment_table import DECODED_PLAINLY, AssignmentTable
from lm_eval_specfair.metrics.routing.drafter_texts import (
    PLAIN,
    DrafterTexts,
    Route,
    log_speedups,
)
from lm_eval_specfair.metrics.routing.held_out_routes import choose
from lm_eval_specfair.metrics.routing.simultaneous import p_values, shown
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

LEVEL = 0.05
Reason = Literal["faster", "kept", "above_plain", "plain_is_faster", "not_above_plain"]
"""Why a group has its route: it was shown to be faster than the incumbent; the incumbent was kept;
it was shown to be above plain decoding, which the incumbent was not; plain decoding was shown to be
faster than the incumbent; nothing that drafts was shown to be above plain decoding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteChoice:
    """The route of one group."""

    best: Route  # the one with the largest modelled speed-up
    chosen: Route
    reason: Reason
    expected: ExpectedGain  # of the chosen route over the incumbent
    p_gain: float  # that the best is faster than the incumbent
    p_above_plain: (
        float | None
    )  # that the chosen is above plain decoding; None where it is not asked
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePolicy:
    """A drafter and a draft length for each group."""

    group_by: str
    incumbent: Route
    default: Route  # of groups that are not named
    default_speedup: Estimate  # geometric mean over groups, on documents without part in the choice
    choices: Mapping[str, RouteChoice]  # by group, the largest gain first
    overall: ExpectedGain  # of these groups together, each with its chosen route
    drafters: Mapping[str, Sequence[int]]  # by name, the draft lengths that runs were made with
    longest: Mapping[str, int]  # by drafter, the longest draft asked about
    served: Sequence[Route]  # those that could be chosen; all where empty
    costs: Mapping[str, Sequence[tuple[float, float]]]  # by drafter, drafted per step, plain steps
    not_reported: Mapping[str, int]  # groups with too little, and how many requests they have
    level: float
    num_resamples: int
    differing_texts: int = 0  # greedy texts that rounding made differ between runs

    @property
    def groups(self) -> dict[str, Route]:
        return {group: self.choices[group].chosen for group in sorted(self.choices)}

    @property
    def needed(self) -> list[str]:
        """The drafters that some group has, or groups that are not named, in the runs' order."""
        used = {self.default.drafter, *(route.drafter for route in self.groups.values())}
        return [name for name in self.drafters if name in used]


def choose_routes(
    drafters: Sequence[DrafterTexts],
    *,
    group_by: str,
    requests: Mapping[str, int],
    incumbent: Route,
    served: Sequence[Route] = (),
    not_reported: Mapping[str, int] | None = None,
    differing_texts: int = 0,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
) -> RoutePolicy:
    """Find each group's route, to improve on `incumbent`.

    `requests` has the groups in the order of the drafters' sums, and how many requests each has;
    only routes that are `served`, where any are named, are chosen among, and plain decoding.

    Raises:
        ConfigError: If a drafter's costs are needed and were not measured.
    """
    generator = generator or np.random.default_rng(SEED)
    observed_costs = {one.name: one.costs(one.total) for one in drafters}
    for name, known in observed_costs.items():
        if not np.isfinite(known.cost).all():
            raise ConfigError(
                f"what a step of {name:.100} costs is known from requests that were also decoded "
                f"plainly, and its run has none; run it with baseline=8, or name the costs with "
                f"--costs {name:.100}=C,V,O"
            )
    drafting = [route for one in drafters for route in one.routes]
    others = [route for route in drafting if not served or route in served]
    routes = list(dict.fromkeys([incumbent, PLAIN, *others]))
    whole = choose(drafters, [one.total for one in drafters], routes)
    claims = _Claims.of(drafters, routes, generator, num_resamples)
    gains, above = claims.gains(), claims.above_plain()
    held_out = AssignmentTable.of(
        drafters, routes, generator, requests=list(requests.values()), num_resamples=num_resamples
    )
    p_gains = [
        1.0 if p is None else p
        for p in holm([row[place] for row, place in zip(gains, whole.best, strict=True)])
    ]
    wanted = [place if p <= level else 0 for p, place in zip(p_gains, whole.best, strict=True)]
    found = shown(
        [row[place] for row, place in zip(above, wanted, strict=True)],
        [row[place] for row, place in zip(above, whole.drafting, strict=True)],
        level,
    )
    choices, assigned = {}, []
    for group, name in enumerate(requests):
        claim, p_above = found[group]
        chosen, fastest = routes[wanted[group]], routes[whole.drafting[group]]
        reason: Reason
        if chosen == PLAIN:
            reason, assignment = "plain_is_faster", "best"
        elif claim is None:
            chosen, reason, assignment = PLAIN, "not_above_plain", DECODED_PLAINLY
        elif claim == 1:
            chosen, reason, assignment = fastest, "above_plain", "drafting"
        elif chosen == incumbent:
            reason, assignment = "kept", "incumbent"
        else:
            reason, assignment = "faster", "best"
        assigned.append(assignment)
        choices[name] = RouteChoice(
            best=routes[whole.best[group]],
            chosen=chosen,
            reason=reason,
            expected=held_out.expected(assignment, group),
            p_gain=p_gains[group],
            p_above_plain=None if chosen == PLAIN else p_above,
            documents=int(claims.units[group]),
        )

    def rank(name: str) -> tuple[bool, float, str]:
        return choices[name].reason == "kept", -choices[name].expected.gain.value, name

    return RoutePolicy(
        group_by=group_by,
        incumbent=incumbent,
        default=routes[whole.together] if claims.together(whole.together) <= level else PLAIN,
        default_speedup=held_out.together(),
        choices={name: choices[name] for name in sorted(choices, key=rank)},
        overall=held_out.overall(assigned),
        drafters={one.name: one.columns.measured for one in drafters},
        longest={one.name: one.columns.longest for one in drafters},
        served=sorted(served),
        costs={
            name: list(
                zip(known.drafted.ravel().tolist(), known.cost.ravel().tolist(), strict=True)
            )
            for name, known in observed_costs.items()
        },
        not_reported=dict(not_reported or {}),
        level=level,
        num_resamples=num_resamples,
        differing_texts=differing_texts,
    )


@dataclass(frozen=True, kw_only=True)
class _Claims:
    """Logarithms of the routes' speed-ups, the incumbent's first, as observed and resampled."""

    observed: Array  # (num_routes, num_groups)
    replicates: Array  # (num_routes, num_resamples, num_groups)
    units: Array  # of documents, by group
    all_units: int
    generator: np.random.Generator

    @classmethod
    def of(
        cls,
        drafters: Sequence[DrafterTexts],
        routes: Sequence[Route],
        generator: np.random.Generator,
        num_resamples: int,
    ) -> "_Claims":
        drawn = resample_alike([one.blocks for one in drafters], generator, num_resamples)
        units = drafters[0].units
        return cls(
            observed=log_speedups(drafters, [one.observed for one in drawn], routes),
            replicates=log_speedups(drafters, [one.replicates for one in drawn], routes),
            units=np.concatenate(units),
            all_units=int(sum(own.max() for own in units)),
            generator=generator,
        )

    def gains(self) -> list[Array]:
        """For each group, p-values of the claims that routes are faster than the incumbent."""
        return self._by_group(
            self.observed - self.observed[0], self.replicates - self.replicates[0]
        )

    def above_plain(self) -> list[Array]:
        """For each group, p-values of the claims that routes are faster than plain decoding."""
        return self._by_group(self.observed, self.replicates)

    def together(self, place: int) -> float:
        """That a route is above plain decoding in the geometric mean over groups."""
        values, many = self.observed.mean(-1), self.replicates.mean(-1)
        return float(p_values(values, many.T, self.all_units, self.generator)[place])

    def _by_group(self, values: Array, many: Array) -> list[Array]:
        return [
            p_values(values[:, group], many[..., group].T, int(units), self.generator)
            for group, units in enumerate(self.units)
        ]
