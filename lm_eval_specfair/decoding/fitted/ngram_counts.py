"""N-grams of texts, counted: a tree of token ids in plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAD = -1
"""Stands before a text's first token, as often as the order needs."""

Ints = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class NgramCounts:
    """A level for each length k = 1, 2, ...: all k-grams, in the order of their tokens.

    Attributes:
        tokens: The last token of each k-gram.
        begins: Where the k-grams begin whose first k - 1 tokens are the n-th (k-1)-gram; one number
            more than there are (k-1)-grams, of which level 1 has one, the empty one.
        counts: Of the longest k-grams how often they occurred; of shorter ones how many different
            tokens were seen before them. 0 for what is only the beginning of a longer one.
    """

    tokens: Sequence[Ints]
    begins: Sequence[Ints]
    counts: Sequence[Ints]

    @property
    def order(self) -> int:
        """Length of the longest."""
        return len(self.tokens)


def count_ngrams(texts: Sequence[tuple[Sequence[int], int]], order: int) -> NgramCounts:
    """Count the n-grams that end at a learnt token; contexts reach back to their text's beginning.

    Args:
        texts: Token ids of each, and the place of its first learnt token.
        order: Length of the longest, at least 1.
    """
    before = [PAD] * (order - 1)
    flat = np.array([t for text, _ in texts for t in (*before, *text)], dtype=np.int64)
    learnt = np.array(
        [
            place
            for text, first in texts
            for place in (*[False] * (len(before) + first), *[True] * (len(text) - first))
        ],
        dtype=bool,
    )
    width = int(flat.max(initial=PAD)) + 2  # ids from PAD on
    nodes = np.zeros(len(flat), dtype=np.int64)  # of the (k-1)-gram that ends at each place
    num_parents = 1
    tokens, begins, ends_of_learnt = [], [], []
    for length in range(1, order + 1):
        # Where k-grams end that are an n-gram or its beginning.
        ends = learnt.copy()
        for back in range(1, order - length + 1):
            ends[:-back] |= learnt[back:]
        places = np.flatnonzero(ends)
        parents = nodes[places - 1] if length > 1 else np.zeros(len(places), dtype=np.int64)
        keys, own = np.unique(parents * width + flat[places] + 1, return_inverse=True)
        tokens.append((keys % width - 1).astype(np.int32))
        begins.append(np.searchsorted(keys // width, np.arange(num_parents + 1)).astype(np.int64))
        nodes = np.zeros(len(flat), dtype=np.int64)
        nodes[places] = own
        num_parents = len(keys)
        ends_of_learnt.append(nodes[learnt])
    counts = [np.bincount(ends_of_learnt[-1], minlength=num_parents)]
    for shorter, longer in zip(ends_of_learnt[-2::-1], ends_of_learnt[:0:-1], strict=True):
        _, first_places = np.unique(longer, return_index=True)
        number = len(tokens[order - 1 - len(counts)])
        counts.append(np.bincount(shorter[first_places], minlength=number))
    return NgramCounts(tokens, begins, [each.astype(np.int64) for each in counts[::-1]])
