"""What is counted and summed for one request while it is decoded, and the clock beside it."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lm_eval_specfair.divergence import cross_entropy, entropy, overlap


@dataclass(slots=True)
class Statistics:
    """Counts, sums (nats) and seconds of one request; the record's fields are made from it."""

    drafted_per_step: list[int] = field(default_factory=list)
    accepted_per_step: list[int] = field(default_factory=list)
    num_examined: int = 0
    num_active_rows_sum: int = 0
    has_distributions: bool = False
    overlap_sum: float = 0.0
    kl_sum: float = 0.0
    cross_entropy_sum: float = 0.0
    target_entropy_sum: float = 0.0
    num_positions: int = 0
    num_infinite: int = 0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        """Target passes."""
        return len(self.drafted_per_step)

    def histogram(self, num_speculative_tokens: int) -> list[int]:
        """Steps by number accepted."""
        counts = [0] * (num_speculative_tokens + 1)
        for accepted in self.accepted_per_step:
            counts[accepted] += 1
        return counts

    def distribution_fields(self, *, measured: bool) -> dict[str, Any]:
        """The record's fields about distributions; all None where nothing was measured."""
        found = {
            "overlap_sum": self.overlap_sum,
            "kl_sum": self.kl_sum,
            "cross_entropy_sum": self.cross_entropy_sum,
            "target_entropy_sum": self.target_entropy_sum,
            "num_distribution_positions": self.num_positions,
            "num_infinite_positions": self.num_infinite,
        }
        return {name: value if measured else None for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Divergences:
    """The sums' terms at single positions, each shape (positions,)."""

    overlap: Tensor
    cross_entropy: Tensor
    target_entropy: Tensor

    def add_to(self, owners: list[Statistics]) -> None:
        """Add each position's terms to the statistics of the request it belongs to."""
        table = torch.stack([self.overlap, self.cross_entropy, self.target_entropy]).tolist()
        for owner, shared, crossed, spread in zip(owners, *table, strict=True):
            owner.has_distributions = True
            owner.num_positions += 1
            owner.overlap_sum += shared
            owner.target_entropy_sum += spread
            if crossed == float("inf"):
                owner.num_infinite += 1
            else:
                owner.cross_entropy_sum += crossed
                owner.kl_sum += crossed - spread


def divergences(target_scores: Tensor, drafter_scores: Tensor) -> Divergences:
    """Overlap, cross-entropy and target entropy at single positions.

    Args:
        target_scores: Unnormalised (or already processed) log p, shape (positions, vocab).
        drafter_scores: The same of q.
    """
    p, q = torch.log_softmax(target_scores, -1), torch.log_softmax(drafter_scores, -1)
    return Divergences(overlap(p, q), cross_entropy(p, q), entropy(p))


class Clock:
    """Seconds between marks; on a GPU the work before a mark is waited for."""

    def __init__(self, device: torch.device) -> None:
        """Start the clock."""
        self._device = device
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed
