"""Cross-fitting: draft lengths chosen on some documents, their costs taken from the others."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.draft_length.length_sums import ReplayColumns
from lm_eval_specfair.metrics.draft_length.step_cost import StepCosts

NUM_FOLDS = 10

CostModel = Callable[[Array], StepCosts]
"""From sums of shape (..., num_groups, num_columns) to the cost of a step."""


def text_cost(replayed: Array, costs: StepCosts, shift: Array | float = 0.0) -> Array:
    """The cost of texts in plain steps; a step that drafts nothing is a plain one.

    `replayed` holds steps, drafted tokens and their derivatives, shape (..., 4); `shift` is by how
    much the chance at unknown tokens differs from the one replayed with.
    """
    steps = replayed[..., 0] + shift * replayed[..., 2]
    drafted = replayed[..., 1] + shift * replayed[..., 3]
    return steps * np.where(drafted > 0, costs.of(quotient(drafted, steps)), 1.0)


def cheapest_lengths(
    sums: Array, costs: StepCosts, columns: ReplayColumns, current: int
) -> NDArray[np.int64]:
    """The cheapest draft length of each group; the current one where nothing is cheaper."""
    lengths = np.array(columns.candidates or range(columns.longest + 1))
    table = np.stack([text_cost(sums[:, columns.replayed(length)], costs) for length in lengths])
    finite = np.where(np.isfinite(table), table, np.inf)
    now = text_cost(sums[:, columns.replayed(current)], costs)
    return np.where(finite.min(0) < now, lengths[finite.argmin(0)], current)


def held_out(
    blocks: Sequence[Array], total: Array, model: CostModel, columns: ReplayColumns, current: int
) -> list[Array]:
    """Sums by document, with each replayed at the length that the other folds choose.

    `blocks` have shape (num_documents, num_groups, num_columns), `total` sums them over documents.

    Returns:
        Blocks of shape (num_documents, num_groups, ...): paired sums and texts as they were, then
        the replay with the current length, then that with the length chosen.
    """
    first = np.cumsum([0, *(block.shape[1] for block in blocks)])
    chosen = [block[..., columns.replayed(current)].copy() for block in blocks]
    for fold in range(NUM_FOLDS):
        others = total - np.concatenate([block[fold::NUM_FOLDS].sum(0) for block in blocks])
        costs = model(others)
        if not np.isfinite(costs.cost).all():
            continue  # all plain decoding is left out: nothing is chosen
        lengths = cheapest_lengths(others, costs, columns, current)
        for block, start, replays in zip(blocks, first, chosen, strict=False):
            for place in range(block.shape[1]):
                replayed = columns.replayed(int(lengths[start + place]))
                replays[fold::NUM_FOLDS, place] = block[fold::NUM_FOLDS, place, replayed]
    return [
        np.concatenate(
            [block[..., : columns.texts.stop], block[..., columns.replayed(current)], replays], -1
        )
        for block, replays in zip(blocks, chosen, strict=True)
    ]


def tokens_and_costs(sums: Array, total: Array, columns: ReplayColumns, model: CostModel) -> Array:
    """Tokens, plain steps at the current length and at the chosen one, shape (3, ..., num_groups).

    `sums` are those of `held_out`, summed over documents, shape (..., num_groups, num_columns);
    `total` are the observed sums of all columns, shape (num_groups, num_columns).
    """
    _, tokens, examined, kept = np.moveaxis(sums[..., columns.texts], -1, 0)
    observed = total[:, columns.texts]
    shift = np.nan_to_num(
        quotient(kept, examined) - quotient(observed[:, 3], observed[:, 2]), nan=0.0
    )
    costs, end = model(sums), columns.texts.stop
    current, chosen = sums[..., end : end + 4], sums[..., end + 4 :]
    return np.stack([tokens, text_cost(current, costs, shift), text_cost(chosen, costs, shift)])
