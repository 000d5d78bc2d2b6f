"""The cheapest draft length, and what it costs on documents that had no part in finding it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.definitions.registry import quotient
from lm_eval_specfair.metrics.draft_length.length_sums import Columns
from lm_eval_specfair.metrics.draft_length.recount import Array
from lm_eval_specfair.metrics.draft_length.step_cost import StepCosts

NUM_FOLDS = 10

CostModel = Callable[[Array], StepCosts]
"""From sums of shape (..., num_groups, num_columns) to what a step costs."""


def cost_of(replayed: Array, costs: StepCosts, shift: Array | float = 0.0) -> Array:
    """Plain steps that texts cost; where nothing is drafted, a step is a plain one.

    Args:
        replayed: Steps, drafted tokens and their derivatives, shape (..., 4).
        costs: What a step costs.
        shift: By how much the chance at unknown tokens differs from the one replayed with.
    """
    steps = replayed[..., 0] + shift * replayed[..., 2]
    drafted = replayed[..., 1] + shift * replayed[..., 3]
    total: Array = steps * np.where(drafted > 0, costs.of(quotient(drafted, steps)), 1.0)
    return total


def best(sums: Array, costs: StepCosts, columns: Columns, current: int) -> NDArray[np.int64]:
    """The cheapest draft length of each group; the current one where nothing is cheaper."""
    table = np.stack(
        [cost_of(sums[:, columns.replayed(each)], costs) for each in range(columns.longest + 1)]
    )
    cheapest = np.argmin(np.where(np.isfinite(table), table, np.inf), axis=0)
    gains = np.min(np.where(np.isfinite(table), table, np.inf), axis=0) < table[current]
    picked: NDArray[np.int64] = np.where(gains, cheapest, current)
    return picked


def held_out(
    blocks: Sequence[Array], every: Array, model: CostModel, columns: Columns, current: int
) -> list[Array]:
    """Sums by document, with what it costs at the length that the other documents choose.

    Returns:
        Blocks of shape (num_documents, num_groups, ...): paired sums and texts as they were, then
        the replay with the current length, then that with the length chosen.
    """
    first = np.cumsum([0, *(block.shape[1] for block in blocks)])
    chosen = [block[..., columns.replayed(current)].copy() for block in blocks]
    for fold in range(NUM_FOLDS):
        left_out = np.concatenate([block[fold::NUM_FOLDS].sum(0) for block in blocks])
        others = every - left_out
        costs = model(others)
        if not np.isfinite(costs.cost).all():
            continue  # all that was decoded plainly is left out: nothing is chosen
        found = best(others, costs, columns, current)
        for block, start, mine in zip(blocks, first, chosen, strict=False):
            for place in range(block.shape[1]):
                length = int(found[start + place])
                mine[fold::NUM_FOLDS, place] = block[
                    fold::NUM_FOLDS, place, columns.replayed(length)
                ]
    return [
        np.concatenate(
            [block[..., : columns.texts.stop], block[..., columns.replayed(current)], mine], -1
        )
        for block, mine in zip(blocks, chosen, strict=True)
    ]


def tokens_and_costs(sums: Array, every: Array, columns: Columns, model: CostModel) -> Array:
    """Tokens, plain steps at the current length, plain steps at the chosen one.

    Args:
        sums: As of `held_out`, summed over documents, shape (..., num_groups, num_columns).
        every: Observed sums of all columns, shape (num_groups, num_columns).
        columns: Where what is.
        model: The costs.

    Returns:
        Shape (3, ..., num_groups).
    """
    _, tokens, examined, kept = np.moveaxis(sums[..., columns.texts], -1, 0)
    observed = every[:, columns.texts]
    shift = np.nan_to_num(
        quotient(kept, examined) - quotient(observed[:, 3], observed[:, 2]), nan=0.0
    )
    costs, end = model(sums), columns.texts.stop
    return np.stack(
        [
            tokens,
            cost_of(sums[..., end : end + 4], costs, shift),
            cost_of(sums[..., end + 4 :], costs, shift),
        ]
    )
