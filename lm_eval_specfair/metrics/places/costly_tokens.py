"""The tokens at which most steps end: the target's own, in place of a drafter's proposal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.places.examined_tokens import NO_TOKEN, Numbers

MAX_PAIRS = 500_000
"""Pairs of token and proposal that are counted at once; of more the rarest are forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostlyToken:
    """A token of one group that ended steps."""

    token_id: int
    num_steps: int  # that ended with it
    share: float  # of all steps of the group that ended with a rejection
    proposal_id: int | None  # what the drafter proposed most often in its place; None if unknown
    num_proposals: int  # how often


class CostlyTokens:
    """Counts rejections by group, token and proposal, with bounded memory.

    Numbers by token are exact. Of proposals the rarest are forgotten where there are very many, so
    their numbers are then a little too low (Misra and Gries 1982, Finding Repeated Elements).
    """

    def __init__(self) -> None:
        self._tokens: Counter[tuple[int, int]] = Counter()
        self._pairs: Counter[tuple[int, int, int]] = Counter()

    def add(self, groups: Numbers, tokens: Numbers, proposals: Numbers) -> None:
        """Count rejections, each of a group with the text's token and the drafter's."""
        known = tokens != NO_TOKEN
        # As one number each: rows would be sorted byte by byte.
        ids, token = np.unique(tokens[known], return_inverse=True)
        others, proposal = np.unique(proposals[known], return_inverse=True)
        joined = (groups[known] * len(ids) + token) * len(others) + proposal
        distinct, counts = np.unique(joined, return_counts=True)
        rest, proposal = np.divmod(distinct, max(len(others), 1))
        group_numbers, token = np.divmod(rest, max(len(ids), 1))
        columns = (group_numbers, ids[token], others[proposal], counts)
        for group, token, proposal, number in zip(
            *(each.tolist() for each in columns), strict=True
        ):
            self._tokens[group, token] += number
            if proposal != NO_TOKEN:
                self._pairs[group, token, proposal] += number
        if len(self._pairs) > MAX_PAIRS:
            least = int(np.median(list(self._pairs.values())))
            self._pairs = Counter({p: n - least for p, n in self._pairs.items() if n > least})

    def most(self, group: int, total: int, number: int) -> Sequence[CostlyToken]:
        """The tokens that ended most steps of a group with this many rejections."""
        own = Counter({token: n for (g, token), n in self._tokens.items() if g == group})
        proposals: dict[int, Counter[int]] = {}
        for (g, token, proposal), n in self._pairs.items():
            if g == group:
                proposals.setdefault(token, Counter())[proposal] += n
        found = []
        # Ties in the order of ids, so that a report made twice is the same.
        for token, n in sorted(own.items(), key=lambda item: (-item[1], item[0]))[:number]:
            ranked = sorted(proposals.get(token, {}).items(), key=lambda item: (-item[1], item[0]))
            found.append(
                CostlyToken(
                    token_id=token,
                    num_steps=n,
                    share=n / total,
                    proposal_id=ranked[0][0] if ranked else None,
                    num_proposals=ranked[0][1] if ranked else 0,
                )
            )
        return found
