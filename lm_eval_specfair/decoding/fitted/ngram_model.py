"""Interpolated Kneser-Ney: the chance of every token after a context, from counted n-grams."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.decoding.fitted.ngram_counts import Ints, NgramCounts

_KEPT_CONTEXTS = 4096
_FALLBACK = 0.75  # where too few n-grams occurred once and twice to estimate a discount


def discounts_of(counts: NgramCounts) -> list[float]:
    """What is taken from each count, by length: n1 / (n1 + 2 n2) of those that are 1 and 2.

    Source: Ney, Essen and Kneser 1994, "On structuring probabilistic dependences".
    """
    found = []
    for level in counts.counts:
        once, twice = int((level == 1).sum()), int((level == 2).sum())
        found.append(once / (once + 2 * twice) if once and twice else _FALLBACK)
    return found


class NgramModel:
    """Kneser-Ney smoothed n-grams, interpolated down to equal chances for all of a vocabulary.

    With c the counts of `NgramCounts`, D the discount of their length and h' the context h without
    its first token: `P(w | h) = max(c(h w) - D, 0) / c(h .) + D N(h .) / c(h .) P(w | h')`, where
    `c(h .)` adds up over w and `N(h .)` is the number of w with a count. After a context without
    counts it is `P(w | h')`.

    Source: Kneser and Ney 1995; the interpolated form is Chen and Goodman's (1998).
    """

    def __init__(
        self, counts: NgramCounts, vocab_size: int, discounts: Sequence[float] | None = None
    ) -> None:
        """Of counts of token ids below `vocab_size`; discounts by length, estimated by default."""
        self.counts, self.vocab_size = counts, vocab_size
        self.discounts = list(discounts_of(counts) if discounts is None else discounts)
        self._totals, self._backoffs = [], []  # by length, of each context
        for level, begins, discount in zip(
            counts.counts, counts.begins, self.discounts, strict=True
        ):
            totals, kinds = _sums(level, begins), _sums(level > 0, begins)
            self._totals.append(totals)
            self._backoffs.append(np.where(totals > 0, discount * kinds / np.maximum(totals, 1), 1))
        alike = np.full(vocab_size, self._backoffs[0][0] / vocab_size)
        known, chances = self._seen(0, 0)
        alike[known] += chances
        self._unigrams = alike
        with np.errstate(divide="ignore"):
            self._log_unigrams = np.log(alike).astype(np.float32)
        self._after = lru_cache(maxsize=_KEPT_CONTEXTS)(self._changes_after)

    def log_chances(self, history: Sequence[int]) -> NDArray[np.float32]:
        """Logarithms of the chances of all tokens after a history, shape (vocab_size,)."""
        reach = self.counts.order - 1
        scale, tokens, logs = self._after(tuple(history[-reach:]) if reach else ())
        chances: NDArray[np.float32] = self._log_unigrams + np.float32(scale)
        chances[tokens] = logs
        return chances

    def _seen(self, level: int, context: int) -> tuple[Ints, NDArray[np.float64]]:
        """The tokens seen after a context, in order, with the part of the chance that is theirs."""
        begin, end = self.counts.begins[level][context : context + 2]
        counts = self.counts.counts[level][begin:end]
        has_any = counts > 0
        chances = np.maximum(counts[has_any] - self.discounts[level], 0)
        return self.counts.tokens[level][begin:end][has_any], chances / max(
            self._totals[level][context], 1
        )

    def _changes_after(self, context: tuple[int, ...]) -> tuple[float, Ints, NDArray[np.float32]]:
        """What all unigrams' logarithms gain, and the tokens with others of their own."""
        scale, tokens = 1.0, np.zeros(0, dtype=np.int64)
        chances = np.zeros(0)
        for level, node in self._contexts(context):
            if not self._totals[level][node]:
                break  # nor has any longer one
            seen, own = self._seen(level, node)
            backoff = float(self._backoffs[level][node])
            if level == 1:  # the tokens of all longer contexts are among these
                tokens, chances = seen, self._unigrams[seen]
            chances = chances * backoff
            chances[np.searchsorted(tokens, seen)] += own
            scale *= backoff
        with np.errstate(divide="ignore"):
            return float(np.log(scale)), tokens, np.log(chances).astype(np.float32)

    def _contexts(self, context: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """The levels of what follows the last 1, 2, ... tokens, and which node they are."""
        for size in range(1, len(context) + 1):
            node = 0
            for level, token in enumerate(context[-size:]):
                begin, end = self.counts.begins[level][node : node + 2]
                tokens = self.counts.tokens[level]
                node = int(begin + np.searchsorted(tokens[begin:end], token))
                if node == end or tokens[node] != token:
                    return
            yield size, node


def _sums(values: Ints | NDArray[np.bool_], begins: Ints) -> Ints:
    """Sums of the values between each two places."""
    cumulated = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    found: Ints = cumulated[begins[1:]] - cumulated[begins[:-1]]
    return found
