"""The sums kept per group or per row while a drafter is trained or probed. No torch.

Sums are kept and ratios derived, so that batches, processes and rows add up in any way.
"""

from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.definitions.closed_forms import textbook_speedup

COLUMNS = ("num_tokens", "num_bytes", "overlap", "cross_entropy", "entropy")
"""Predicted tokens, the bytes they stand for, sum of min(p, q), nats, nats."""


@dataclass(frozen=True, slots=True)
class GroupSums:
    """Sums over predicted tokens, for several groups or rows at once."""

    values: Array  # (..., num_columns), in the order of `COLUMNS`

    @classmethod
    def zeros(cls, *shape: int) -> "GroupSums":
        return cls(np.zeros((*shape, len(COLUMNS))))

    def column(self, name: str) -> Array:
        """One of `COLUMNS`, or the derived sums `kl` and `tv` (`1 - overlap`), shape (...)."""
        if name == "kl":
            return self.column("cross_entropy") - self.column("entropy")
        if name == "tv":
            return self.column("num_tokens") - self.column("overlap")
        column: Array = self.values[..., COLUMNS.index(name)]
        return column

    def per_token(self, name: str) -> Array:
        """Mean over tokens; NaN where there are none."""
        return quotient(self.column(name), self.column("num_tokens"))

    def per_byte(self, name: str) -> Array:
        """Sum over the bytes of the text; NaN where there are none."""
        return quotient(self.column(name), self.column("num_bytes"))

    def by_group(self, membership: Array) -> "GroupSums":
        """Sums of groups from those of rows; membership has shape (num_rows, num_groups)."""
        return GroupSums(membership.T @ self.values)

    def speedup(self, num_speculative_tokens: int, cost_ratio: float) -> Array:
        """Textbook speed-up of each entry, from its mean overlap (`textbook_speedup`)."""
        overlaps = np.clip(self.per_token("overlap"), 0.0, 1.0)
        settings = (num_speculative_tokens, cost_ratio)
        speedups = [
            textbook_speedup(float(x), *settings) if np.isfinite(x) else np.nan
            for x in overlaps.ravel()
        ]
        return np.array(speedups).reshape(overlaps.shape)
