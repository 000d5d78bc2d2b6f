"""Cross-fitting of routes: chosen on some documents, judged on those that had no part in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.draft_length.cross_fit import NUM_FOLDS, text_cost
from lm_eval_specfair.metrics.routing.drafter_texts import (
    PLAIN,
    DrafterTexts,
    Route,
    log_speedups,
)

ASSIGNMENTS = ("incumbent", "best", "drafting", "together")
"""Which route each document of a group is decoded with: the incumbent, or what the other folds
choose: the group's fastest, its fastest that drafts, the fastest that drafts for all groups
together."""

_PART = 5  # tokens, steps, drafted tokens and the derivatives of both


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Routes by their place among the candidates: for each group, and for all together."""

    best: NDArray[np.intp]  # (num_groups,)
    drafting: NDArray[np.intp]  # (num_groups,)
    together: int


def choose(
    drafters: Sequence[DrafterTexts], sums: Sequence[Array], routes: Sequence[Route]
) -> Choices:
    """The fastest routes by these sums; of equally fast ones the first.

    Together is the geometric mean over groups, each counting the same.
    """
    table = log_speedups(drafters, sums, routes)
    drafts = np.array([route != PLAIN for route in routes])
    drafting = np.where(drafts[:, None], table, -np.inf)
    return Choices(
        best=table.argmax(0),
        drafting=drafting.argmax(0),
        together=int(drafting.mean(1).argmax()),
    )


def assigned_sums(drafters: Sequence[DrafterTexts], routes: Sequence[Route]) -> list[Array]:
    """Sums by document of `ASSIGNMENTS`, blocks of shape (num_units, num_groups, num_columns).

    First come all drafters' paired sums and texts, then for each assignment the tokens that are
    decoded plainly, and each drafter's tokens and replay. The first of `routes` is the incumbent.
    """
    totals = [one.total for one in drafters]
    by_fold = [
        choose(
            drafters,
            [
                total - np.concatenate([block[fold::NUM_FOLDS].sum(0) for block in one.blocks])
                for one, total in zip(drafters, totals, strict=True)
            ],
            routes,
        )
        for fold in range(NUM_FOLDS)
    ]
    blocks, first = [], 0
    for number, parts in enumerate(zip(*(one.blocks for one in drafters), strict=True)):
        num_units, size = parts[0].shape[:2]
        places = np.arange(first, first + size)
        folds = np.arange(num_units) % NUM_FOLDS
        first += size
        everyone = np.ones(size, dtype=np.intp)
        chosen = {
            "incumbent": np.zeros((num_units, size), dtype=np.intp),
            "best": np.stack([fold.best[places] for fold in by_fold])[folds],
            "drafting": np.stack([fold.drafting[places] for fold in by_fold])[folds],
            "together": np.stack([everyone * fold.together for fold in by_fold])[folds],
        }
        heads = [
            part[..., : each.columns.texts.stop] for each, part in zip(drafters, parts, strict=True)
        ]
        assigned = [_decoded(drafters, number, routes, chosen[name]) for name in ASSIGNMENTS]
        blocks.append(np.concatenate([*heads, *assigned], axis=-1))
    return blocks


def _decoded(
    drafters: Sequence[DrafterTexts], number: int, routes: Sequence[Route], chosen: NDArray[np.intp]
) -> Array:
    """A block's documents, each decoded with the route chosen, (num_units, num_groups, ...)."""
    base = drafters[0].blocks[number]
    table = np.zeros((*chosen.shape, 1 + _PART * len(drafters)))
    tokens = base[..., drafters[0].columns.texts][..., 1]
    table[..., 0] = np.where(chosen == routes.index(PLAIN), tokens, 0.0)
    starts = {one.name: 1 + _PART * place for place, one in enumerate(drafters)}
    by_name = {one.name: one for one in drafters}
    for place in np.unique(chosen).tolist():
        route = routes[place]
        if route == PLAIN:
            continue
        drafter, here, start = by_name[route.drafter], chosen == place, starts[route.drafter]
        own = drafter.blocks[number][here]
        table[here, start] = own[:, drafter.columns.texts][:, 1]
        table[here, start + 1 : start + _PART] = own[:, drafter.columns.replayed(route.length)]
    return table


def tokens_and_costs(drafters: Sequence[DrafterTexts], sums: Array) -> tuple[Array, Array]:
    """Tokens and plain steps of each assignment, each (num_assignments, ..., num_groups).

    `sums` are those of `assigned_sums` over documents, shape (..., num_groups, num_columns).
    """
    start, costs, shifts = 0, [], []
    for one in drafters:
        head = sums[..., start : start + one.columns.texts.stop]
        start += one.columns.texts.stop
        costs.append(one.costs(head))
        shifts.append(one.shift(head))
    tokens, plain_steps = [], []
    for _ in ASSIGNMENTS:
        part = sums[..., start : start + 1 + _PART * len(drafters)]
        start += part.shape[-1]
        count, cost = part[..., 0].copy(), part[..., 0].copy()
        for place, (model, shift) in enumerate(zip(costs, shifts, strict=True)):
            own = part[..., 1 + _PART * place : 1 + _PART * (place + 1)]
            count += own[..., 0]
            cost += text_cost(own[..., 1:], model, shift)
        tokens.append(count)
        plain_steps.append(cost)
    return np.stack(tokens), np.stack(plain_steps)
