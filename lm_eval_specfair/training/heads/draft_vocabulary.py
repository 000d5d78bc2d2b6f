"""The tokens that a head drafts among, chosen so that each group's text is covered. No torch."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.data.rows import Row

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftIds:
    """A draft vocabulary.

    Attributes:
        ids: The target's, ascending.
        coverage: The share of each group's tokens that it has, shape (num_groups,).
        forced: How many of them the floor asked for; the others are the most frequent ones.
    """

    ids: tuple[int, ...]
    coverage: Array
    forced: int


def token_counts(rows: Sequence[Row], num_groups: int, vocab_size: int) -> Array:
    """How often each token is learnt from, by group, shape (num_groups, vocab_size).

    A row of several groups counts for each by its share.
    """
    counts = np.zeros((num_groups, vocab_size))
    for row in rows:
        found = np.bincount(row.tokens[row.first :], minlength=vocab_size)
        for group in np.flatnonzero(row.membership).tolist():
            counts[group] += row.membership[group] * found
    return counts


def choose_ids(
    counts: Array, size: int, *, floor: float = 0.0, names: Sequence[str] = ()
) -> DraftIds:
    """The most frequent tokens, with at least a share of each group's text among them.

    While a group is below the floor, the token is taken that lowers the groups' shortfalls most,
    added up; what is left of the size goes to the most frequent tokens of all groups together.
    Coverage that is cut off at the floor is submodular, so the first part takes at most a
    logarithmic factor more tokens than the fewest that would do.

    Args:
        counts: Of tokens by group, shape (num_groups, vocab_size).
        size: Of the draft vocabulary.
        floor: The share of each group's tokens that it must have.
        names: Of the groups, for messages.

    Raises:
        ConfigError: If that many tokens cannot cover as much.

    Example:
        >>> two = np.array([[6.0, 3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.7, 0.3]])
        >>> choose_ids(two, 3).ids, choose_ids(two, 3, floor=0.6).ids
        ((0, 1, 2), (0, 1, 3))

    Source:
        Wolsey 1982, An analysis of the greedy algorithm for the submodular set covering problem,
        Combinatorica 2(4).
    """
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    wanted = np.where(totals[:, 0] > 0, floor, 0.0)
    forced = _covering(shares, wanted)
    if len(forced) > size:
        covered = shares[:, forced[:size]].sum(1)
        short = int(np.argmax(wanted - covered))
        name = names[short] if short < len(names) else str(short)
        raise ConfigError(
            f"a draft vocabulary of {size} tokens cannot cover {floor:.1%} of every group's text: "
            f"about {len(forced)} are needed ({name} would have {covered[short]:.1%}); raise "
            "--draft-vocabulary or lower --coverage-floor"
        )
    taken = set(forced)
    # Of two that are as frequent, the smaller id: tokenizers number frequent pieces first.
    frequent = np.lexsort((np.arange(counts.shape[1]), -counts.sum(0))).tolist()
    for token in frequent:
        if len(taken) == size:
            break
        taken.add(token)
    ids = tuple(sorted(taken))
    return DraftIds(ids=ids, coverage=shares[:, list(ids)].sum(1), forced=len(forced))


def _covering(shares: Array, wanted: Array) -> list[int]:
    """Tokens in the order in which the greedy algorithm takes them, until all have what they want.

    Gains only shrink as tokens are taken, so most need not be computed again in each turn.
    """
    missing = wanted.copy()
    gains = np.minimum(shares, missing[:, None]).sum(0)
    heap = [(-gain, token) for token, gain in enumerate(gains.tolist()) if gain > 0]
    heapq.heapify(heap)
    taken: list[int] = []
    while (missing > _ROUNDING).any() and heap:
        _, token = heapq.heappop(heap)
        column: npt.NDArray[np.float64] = shares[:, token]
        gain = float(np.minimum(column, missing).sum())
        if heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, token))
            continue
        taken.append(token)
        missing = np.maximum(missing - column, 0.0)
    return taken
