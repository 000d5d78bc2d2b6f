"""The counters of one request: what is counted, summed and timed while it is decoded."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lm_eval_specfair.divergence import divergences

NAN_TARGET = "target logits are NaN or infinite"
NAN_DRAFTER = "drafter logits are NaN or infinite"
"""How a record's `failure` begins where nothing can be chosen from."""


@dataclass(slots=True)
class RequestCounters:
    """Counts, sums (nats) and seconds of one request, from which its record is made."""

    drafted_per_step: list[int] = field(default_factory=list)
    accepted_per_step: list[int] = field(default_factory=list)
    discarded_per_step: list[list[int]] | None = None  # ids; None where they are not known
    overlaps: list[float] = field(default_factory=list)
    num_examined: int = 0
    num_active_rows_sum: int = 0
    overlap_sum: float = 0.0
    kl_sum: float = 0.0
    cross_entropy_sum: float = 0.0
    target_entropy_sum: float = 0.0
    num_positions: int = 0
    num_infinite: int = 0
    untruncated_kl_sum: float | None = None
    untruncated_cross_entropy_sum: float | None = None
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def rejected_tokens(self) -> list[int] | None:
        """The token that was rejected in each step that met one; None where they are not known."""
        if self.discarded_per_step is None:
            return None
        first = [step[0] for step in self.discarded_per_step if step]
        # A text that ended among its last drafts met none there.
        return first[: self.num_examined - sum(self.accepted_per_step)]

    @property
    def num_steps(self) -> int:
        """Target passes."""
        return len(self.drafted_per_step)

    def histogram(self, num_speculative_tokens: int) -> list[int]:
        """Steps by number accepted."""
        counts = Counter(self.accepted_per_step)
        return [counts[accepted] for accepted in range(num_speculative_tokens + 1)]

    def distribution_fields(self, *, measured: bool) -> dict[str, Any]:
        """The record's fields about distributions; all None where nothing was measured."""
        fields = {
            "overlap_per_position": [min(1.0, round(each, 3)) for each in self.overlaps],
            "overlap_sum": self.overlap_sum,
            "kl_sum": self.kl_sum,
            "cross_entropy_sum": self.cross_entropy_sum,
            "target_entropy_sum": self.target_entropy_sum,
            "num_distribution_positions": self.num_positions,
            "num_infinite_positions": self.num_infinite,
            # Infinite where q knows no token of the target's, whatever is cut off.
            "untruncated_kl_sum": _if_finite(self.untruncated_kl_sum),
            "untruncated_cross_entropy_sum": _if_finite(self.untruncated_cross_entropy_sum),
        }
        return {name: value if measured else None for name, value in fields.items()}

    def add_position(self, overlap: float, cross_entropy: float, entropy: float) -> None:
        """Add the divergences at one examined position, in nats."""
        self.num_positions += 1
        self.overlap_sum += overlap
        self.overlaps.append(overlap)
        self.target_entropy_sum += entropy
        if cross_entropy == math.inf:
            self.num_infinite += 1
        else:
            self.cross_entropy_sum += cross_entropy
            self.kl_sum += cross_entropy - entropy

    def add_untruncated_position(self, cross_entropy: float, entropy: float) -> None:
        """Add the same of the distributions before top-k and top-p."""
        self.untruncated_cross_entropy_sum = (
            self.untruncated_cross_entropy_sum or 0.0
        ) + cross_entropy
        self.untruncated_kl_sum = (self.untruncated_kl_sum or 0.0) + cross_entropy - entropy


def repeated_ngrams(tokens: Sequence[int], size: int) -> tuple[int, int]:
    """The n-grams of a text, and those among them that it had before.

    The share of the second among the first is 0 for a text without repetition and near 1 for a
    loop.

    Example:
        >>> repeated_ngrams([1, 2, 1, 2, 1, 2], 2)
        (5, 3)

    Source:
        Welleck et al. 2020 (arXiv:1908.04319), seq-rep-n: 1 - unique n-grams / n-grams.
    """
    grams = list(zip(*(tokens[start:] for start in range(size)), strict=False))
    return len(grams), len(grams) - len(set(grams))


def add_divergences(
    owners: Sequence[RequestCounters], target_scores: Tensor, drafter_scores: Tensor
) -> None:
    """Add the divergences at single positions to the sums of the requests that own them.

    Scores are log p and log q, normalised or not, of shape (positions, vocab).
    """
    terms = divergences(target_scores, drafter_scores)
    for owner, *own in zip(owners, *torch.stack(terms).tolist(), strict=True):
        owner.add_position(*own)


def add_untruncated(
    owners: Sequence[RequestCounters], target_scores: Tensor, drafter_scores: Tensor
) -> None:
    """Add KL and cross-entropy of the distributions at the temperature, before top-k and top-p.

    Arguments are those of `add_divergences`, which counts the positions.
    """
    terms = divergences(target_scores, drafter_scores)
    for owner, _, *own in zip(owners, *torch.stack(terms).tolist(), strict=True):
        owner.add_untruncated_position(*own)


def _if_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
