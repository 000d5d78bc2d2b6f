"""What is summed per group or per row while a drafter is trained or probed. No torch.

Sums are kept and ratios derived, so that batches, processes and rows add up in any way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_eval_specfair.metrics.definitions.closed_forms import textbook_speedup

Array = npt.NDArray[np.float64]

COLUMNS = ("num_tokens", "num_bytes", "cross_entropy", "entropy", "overlap")
"""Predicted tokens, the bytes they stand for, nats, nats, and sum of min(p, q)."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over predicted tokens, for several groups or rows at once.

    Attributes:
        values: Shape (..., num_columns), in the order of `COLUMNS`.
    """

    values: Array

    @classmethod
    def zeros(cls, *shape: int) -> "Sums":
        """Nothing seen yet."""
        return cls(np.zeros((*shape, len(COLUMNS))))

    def __add__(self, other: "Sums") -> "Sums":
        """Both together."""
        return Sums(self.values + other.values)

    def column(self, name: str) -> Array:
        """One of `COLUMNS`, shape (...)."""
        column: Array = self.values[..., COLUMNS.index(name)]
        return column

    def per_token(self, name: str) -> Array:
        """Mean over tokens; NaN where there are none."""
        return _quotient(self.total(name), self.column("num_tokens"))

    def per_byte(self, name: str) -> Array:
        """Sum over the bytes of the text; NaN where there are none."""
        return _quotient(self.total(name), self.column("num_bytes"))

    def total(self, name: str) -> Array:
        """A column, or one of the derived sums `kl` and `tv` (`1 - overlap`)."""
        if name == "kl":
            return self.column("cross_entropy") - self.column("entropy")
        if name == "tv":
            return self.column("num_tokens") - self.column("overlap")
        return self.column(name)

    def by_group(self, membership: Array) -> "Sums":
        """Sums of groups from those of rows.

        Args:
            membership: Share of each row in each group, shape (num_rows, num_groups).
        """
        return Sums(membership.T @ self.values)

    def speedup(self, num_speculative_tokens: int, cost_ratio: float) -> Array:
        """Modelled speed-up of each entry, from its mean overlap (`textbook_speedup`)."""
        overlaps = np.clip(self.per_token("overlap"), 0.0, 1.0)
        found = [
            textbook_speedup(float(overlap), num_speculative_tokens, cost_ratio)
            if np.isfinite(overlap)
            else np.nan
            for overlap in overlaps.ravel()
        ]
        return np.array(found).reshape(overlaps.shape)


def _quotient(numerator: Array, denominator: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(denominator > 0, numerator / denominator, np.nan)
    return result
