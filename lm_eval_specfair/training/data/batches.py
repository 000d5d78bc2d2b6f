"""Batches whose rows are shared among groups as asked, the same for every number of processes.

Drawing is without replacement: a group's rows are shuffled anew when they are used up. All state is
a few numbers, so that a resumed run draws what it would have drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.data.rows import Corpus, Row, epoch_order


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's rows."""

    rows: Sequence[Row]  # in an order that mixes the groups
    expected: Array  # rows that each group was to be given on average, shape (m,)
    drawn: Array  # rows drawn for each group, shape (m,)

    @property
    def membership(self) -> Array:
        """Shape (rows, m)."""
        return np.stack([row.membership for row in self.rows])

    @property
    def num_learnt(self) -> Array:
        """Tokens of each row that count, shape (rows,)."""
        return np.array([row.num_learnt for row in self.rows], dtype=float)

    def row_weights(self, weights: Array) -> Array:
        """What each token of a row weighs, so that the batch's loss estimates `sum_T w_T L_T`.

        L_T is the mean over the group's tokens in the batch, and a group that was drawn less often
        than expected (never, where there are more groups than rows) weighs more when it is drawn:
        `sum_T share w_T (drawn_T / expected_T) / tokens_T`, shape (rows,).
        """
        tokens = self.membership.T @ self.num_learnt
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = weights * self.drawn / self.expected / tokens
        # A group that another's soft member touches, but that was not itself drawn, has drawn 0.
        factor[~np.isfinite(factor)] = 0.0
        weighed: Array = self.membership @ factor
        return weighed


class Batches:
    """Draws batches of `rows` rows from the training split."""

    def __init__(self, corpus: Corpus, *, rows: int, seed: int) -> None:
        self._corpus, self._rows, self._seed = corpus, rows, seed
        self._names = corpus.names
        members = np.stack([row.membership for row in corpus.train]) > 0
        self._pools = [np.flatnonzero(column) for column in members.T]
        self._taken = np.zeros(len(self._names), dtype=np.int64)
        self._credit = np.zeros(len(self._names))
        self._num_drawn = 0
        self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def draw(self, shares: Array) -> Batch:
        """The next batch, with these shares of the groups, adding up to 1, shape (m,).

        Where a share is no whole number of rows, the rest is carried over to the next batch.
        """
        self._credit += self._rows * shares
        counts = np.clip(np.floor(self._credit), 0, None).astype(int)
        while counts.sum() > self._rows:
            counts[np.argmin(np.where(counts > 0, self._credit - counts, np.inf))] -= 1
        while counts.sum() < self._rows:
            counts[np.argmax(self._credit - counts)] += 1
        self._credit -= counts
        chosen = [index for group, n in enumerate(counts) for index in self._next(group, int(n))]
        self._num_drawn += 1
        # Processes and micro-batches take every n-th row; shuffled, none gets one group only.
        order = np.random.default_rng([self._seed, self._num_drawn]).permutation(len(chosen))
        return Batch(
            rows=[self._corpus.train[chosen[place]] for place in order],
            expected=self._rows * shares,
            drawn=counts.astype(float),
        )

    def _next(self, group: int, count: int) -> list[int]:
        pool, rows = self._pools[group], []
        for _ in range(count):
            epoch, place = divmod(int(self._taken[group]), len(pool))
            if self._orders.get(group, (-1, None))[0] != epoch:
                self._orders[group] = epoch, self._shuffled(group, epoch)
            rows.append(int(pool[self._orders[group][1][place]]))
            self._taken[group] += 1
        return rows

    def _shuffled(self, group: int, epoch: int) -> npt.NDArray[np.int64]:
        return epoch_order(self._seed, self._names[group], epoch, len(self._pools[group]))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON; `restore` undoes it."""
        arrays = {"taken": self._taken.tolist(), "credit": self._credit.tolist()}
        return arrays | {"num_drawn": self._num_drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._taken = np.array(state["taken"], dtype=np.int64)
        self._credit = np.array(state["credit"])
        self._num_drawn = state["num_drawn"]


def collate(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids padded at the end, and which predictions count.

    Returns:
        Ids, shape (rows, length), and booleans, shape (rows, length - 1).
    """
    longest = max(len(row.tokens) for row in rows)
    tokens: npt.NDArray[np.int64] = np.zeros((len(rows), longest), dtype=np.int64)
    counted = np.zeros((len(rows), longest - 1), dtype=bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        counted[place, row.first - 1 : len(row.tokens) - 1] = True
    return torch.from_numpy(tokens).to(device), torch.from_numpy(counted).to(device)
