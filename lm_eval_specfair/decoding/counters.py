"""What is counted and summed for one request while it is decoded, and the clock beside it."""

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lm_eval_specfair.divergence import cross_entropy, entropy


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

    The sums of `lm_eval_specfair.divergence` in a third of its time: a mask costs a CPU as much as
    all else here, and only distributions with tokens of no mass need one.

    Args:
        target_scores: Unnormalised (or already processed) log p, shape (positions, vocab).
        drafter_scores: The same of q.
    """
    log_p, log_q = torch.log_softmax(target_scores, -1), torch.log_softmax(drafter_scores, -1)
    p = log_p.exp()
    crossed, spread = -(p * log_q).sum(-1), -(p * log_p).sum(-1)
    if bool((crossed + spread).isnan().any()):  # 0 * -inf
        crossed, spread = cross_entropy(log_p, log_q), entropy(log_p)
    return Divergences(torch.minimum(p, log_q.exp()).sum(-1), crossed, spread)


class Clock:
    """Seconds between marks of a stream of work.

    On a GPU a mark is an event in the stream: nothing waits until `laps` asks, which is when the
    host has waited for the results anyway.
    """

    def __init__(self, device: torch.device) -> None:
        """Start the clock."""
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """End a lap."""
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def laps(self) -> list[float]:
        """Seconds of each lap so far."""
        pairs = pairwise(self._marks)
        if not self._on_gpu:
            return [end - start for start, end in pairs]
        self._marks[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]
