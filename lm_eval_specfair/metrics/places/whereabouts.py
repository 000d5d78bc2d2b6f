"""Where each group loses drafts: estimates from the sums by place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.places.costly_tokens import CostlyToken
from lm_eval_specfair.metrics.places.place_sums import ALL, PlaceSums
from lm_eval_specfair.metrics.places.position_share import (
    NUM_RESAMPLES,
    PositionShare,
    position_share,
)
from lm_eval_specfair.metrics.places.token_classes import KINDS
from lm_eval_specfair.metrics.statistics.bootstrap import SEED
from lm_eval_specfair.metrics.statistics.intervals import Estimate, percentile_interval

MOST_COSTLY = 5
_BANDS = (0, 16, 24, 32, 40, 48, 56)  # of bins: places 1 to 16, to 64, to 256, ...
BAND_NAMES = ("1-16", "17-64", "65-256", "257-1,024", "1,025-4,096", "4,097-16,384", "16,385 on")


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlaces:
    """Where the drafts of a group, or of all requests, are kept and lost.

    Each table has the conditional acceptance rate (kept / examined); `n` of its estimates are
    tokens examined, those of `acceptance` too.
    """

    requests: int
    acceptance: Estimate
    mean_place: float  # of examined tokens, from the start of the generated text, from 0
    mean_context_place: float  # the same from the start of the prompt
    by_answer_band: Mapping[str, Estimate]
    by_context_band: Mapping[str, Estimate]
    by_draft_position: Mapping[str, Estimate]
    by_kind: Mapping[str, Estimate]  # of the text's own token at the place
    by_script: Mapping[str, Estimate]
    costly: Sequence[CostlyToken]
    num_rejections: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Whereabouts:
    """Where drafts are lost, for all requests and by group, best acceptance first."""

    overall: GroupPlaces
    groups: Mapping[str, GroupPlaces]
    by_answer_place: PositionShare | None  # of the spread across groups, in the groups' order
    by_context_place: PositionShare | None
    num_unplaced: int  # requests whose steps are not known


def whereabouts(sums: PlaceSums, min_requests: int) -> Whereabouts | None:
    """Estimates of all groups with enough requests; None where no request's steps are known."""
    if not sums.requests[ALL]:
        return None
    generator = np.random.default_rng(SEED)
    groups = {
        name: _of_group(sums, number, generator)
        for name, number in sums.groups.items()
        if sums.requests[number] >= min_requests and sums.tables["answer"][number, ..., 1].any()
    }
    groups = dict(sorted(groups.items(), key=lambda item: (-item[1].acceptance.value, item[0])))
    numbers = [sums.groups[name] for name in groups]
    has = [sums.tables["answer"][number, :, :, 1].any(1) for number in numbers]
    is_parallel = all(np.array_equal(each, has[0]) for each in has) and len(has) > 1
    shares = [
        position_share(
            sums.tables[name][numbers, ..., 0],
            sums.tables[name][numbers, ..., 1],
            is_parallel=is_parallel,
            generator=np.random.default_rng(SEED),
        )
        for name in ("answer", "context")
    ]
    return Whereabouts(
        overall=_of_group(sums, ALL, generator),
        groups=groups,
        by_answer_place=shares[0],
        by_context_place=shares[1],
        num_unplaced=sums.num_unplaced,
    )


def _of_group(sums: PlaceSums, number: int, generator: np.random.Generator) -> GroupPlaces:
    tables = {name: table[number] for name, table in sums.tables.items()}
    [there] = np.nonzero(tables["answer"][..., 1].any(1))
    times = generator.multinomial(
        len(there), np.full(len(there), 1 / len(there)), size=NUM_RESAMPLES
    ).astype(float)

    def rates(table: Array, names: Sequence[str]) -> dict[str, Estimate]:
        return {
            name: one
            for name, column in zip(names, table[there].transpose(1, 0, 2), strict=False)
            if (one := _rate(column, times)) is not None
        }

    def bands(table: Array) -> dict[str, Estimate]:
        return rates(np.add.reduceat(table, _BANDS, axis=1), BAND_NAMES)

    whole = _rate(tables["answer"][there].sum(1), times)
    assert whole is not None
    depth = tables["draft_position"]
    rejections = round(whole.n * (1 - whole.value))
    answer, context = (sums.place_sums[number] / whole.n).tolist()
    return GroupPlaces(
        requests=int(sums.requests[number]),
        acceptance=whole,
        mean_place=answer,
        mean_context_place=context,
        by_answer_band=bands(tables["answer"]),
        by_context_band=bands(tables["context"]),
        by_draft_position=rates(depth, [str(place + 1) for place in range(depth.shape[1])]),
        by_kind=rates(tables["kind"], KINDS),
        by_script=rates(tables["script"], sums.scripts),
        costly=sums.costly.most(number, max(rejections, 1), MOST_COSTLY),
        num_rejections=rejections,
    )


def _rate(column: Array, times: Array) -> Estimate | None:
    """Kept / examined of units, shape (num_units, 2), with its interval; None without tokens."""
    kept, examined = column.sum(0).tolist()
    if not examined:
        return None
    drawn = times @ column
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = drawn[:, 0] / drawn[:, 1]
    units = int((column[:, 1] > 0).sum())
    low, high = percentile_interval(replicates, units) or (None, None)
    return Estimate(value=kept / examined, low=low, high=high, n=int(examined))
