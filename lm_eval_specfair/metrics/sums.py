"""What each request adds to the sums that figures are made of.

A figure is counts summed over requests and divided once (pooled), hence a function of sums; that
makes resampling cheap (`metrics.uncertainty`). Knows no figures, groups or intervals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.records import Record

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ratio:
    """A figure that is one sum over another; a request counts if it has both.

    Attributes:
        numerator: What a request adds above the line; None where it was not measured.
        denominator: What it adds below the line.
        needs_drafts: Whether a request decoded without a drafter has no such figure.
        only: Whether just requests that generate text count, or just those that score some.
    """

    numerator: Callable[[Record], float | None]
    denominator: Callable[[Record], float | None]
    needs_drafts: bool = True
    only: Literal["generated", "scored"] | None = None

    def counts(self, record: Record) -> bool:
        """Whether a request may have this figure at all."""
        if self.needs_drafts and not _is_speculative(record):
            return False
        generates = record.request_type == "generate_until"
        return self.only is None or (self.only == "generated") == generates


def _emitted(record: Record) -> float | None:
    steps, accepted = record.num_spec_steps, record.num_accepted_draft_tokens
    return None if steps is None or accepted is None else steps + accepted


def _positions(record: Record) -> float | None:
    return record.num_distribution_positions


def _diverging(total: float | None, record: Record) -> float | None:
    """Infinite where q lacks a token of p: such positions are missing from the record's sum."""
    return math.inf if record.num_infinite_positions else total


# Two kinds of position, never mixed: those that decoding examined, on text of the target's own, and
# those of given text (a benchmark's choices or references).
_DIVERGENCES: dict[str, Callable[[Record], float | None]] = {
    "overlap": lambda r: r.overlap_sum,
    "kl": lambda r: _diverging(r.kl_sum, r),
    "cross_entropy": lambda r: _diverging(r.cross_entropy_sum, r),
    "target_entropy": lambda r: r.target_entropy_sum,
}


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


RATIOS: dict[str, _Ratio] = {
    "conditional_acceptance_rate": _Ratio(
        numerator=lambda r: r.num_accepted_draft_tokens,
        denominator=lambda r: r.num_examined_draft_tokens,
    ),
    "draft_acceptance_rate": _Ratio(
        numerator=lambda r: r.num_accepted_draft_tokens,
        denominator=lambda r: r.num_draft_tokens,
    ),
    "mean_acceptance_length": _Ratio(numerator=_emitted, denominator=lambda r: r.num_spec_steps),
    **{
        name: _Ratio(numerator=read, denominator=_positions, only="generated")
        for name, read in _DIVERGENCES.items()
    },
    **{
        f"scored_{name}": _Ratio(
            numerator=read, denominator=_positions, needs_drafts=False, only="scored"
        )
        for name, read in _DIVERGENCES.items()
    },
    "bytes_per_token": _Ratio(
        numerator=lambda r: r.num_generated_bytes,
        denominator=lambda r: r.num_generated_tokens,
        needs_drafts=False,
    ),
    "bits_per_byte": _Ratio(
        numerator=lambda r: _scaled(r.target_nll_sum, 1 / math.log(2)),
        denominator=lambda r: r.num_scored_bytes,
        needs_drafts=False,
    ),
    "drafter_bits_per_byte": _Ratio(
        numerator=lambda r: _scaled(r.drafter_nll_sum, 1 / math.log(2)),
        denominator=lambda r: r.num_scored_bytes,
        needs_drafts=False,
    ),
    "seconds_per_kilobyte": _Ratio(
        numerator=lambda r: _scaled(r.decode_seconds, 1_000),
        denominator=lambda r: r.num_generated_bytes,
        needs_drafts=False,
    ),
}
"""By the figure's name."""

# Requests that were decoded both ways.
_PAIRED: dict[str, Callable[[Record], float | None]] = {
    "paired_baseline_seconds": lambda r: r.baseline_seconds,
    "paired_baseline_tokens": lambda r: r.baseline_generated_tokens,
    "paired_decode_seconds": lambda r: r.decode_seconds,
    "paired_tokens": lambda r: r.num_generated_tokens,
    "paired_steps": lambda r: r.num_spec_steps,
    "paired_emitted": _emitted,
    "paired_draft_tokens": lambda r: r.num_draft_tokens,
    "paired_draft_seconds": lambda r: r.draft_seconds,
    "paired_verify_seconds": lambda r: r.verify_seconds,
}
# A backend may not know them; the costs that need them are then NaN.
_OPTIONAL = {"paired_draft_seconds", "paired_verify_seconds"}

COLUMNS = (
    "requests",
    "paired_requests",
    *_PAIRED,
    *(f"{name}.{part}" for name in RATIOS for part in ("numerator", "denominator", "requests")),
)
_INDEX = {column: index for index, column in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over requests, for any number of sets of requests at once.

    Attributes:
        values: Shape (..., len(COLUMNS)).
    """

    values: Array

    def __getitem__(self, column: str) -> Array:
        """One column, shape (...)."""
        picked: Array = self.values[..., _INDEX[column]]
        return picked


def addends(record: Record) -> Array:
    """What one request adds to each sum, shape (len(COLUMNS),)."""
    found: dict[str, float] = {"requests": 1}
    for name, ratio in RATIOS.items():
        numerator, denominator = ratio.numerator(record), ratio.denominator(record)
        if numerator is not None and denominator and ratio.counts(record):
            found[f"{name}.numerator"] = numerator
            found[f"{name}.denominator"] = denominator
            found[f"{name}.requests"] = 1
    paired = {column: read(record) for column, read in _PAIRED.items()}
    is_paired = all(paired[column] is not None for column in _PAIRED if column not in _OPTIONAL)
    if _is_speculative(record) and is_paired and record.num_spec_steps:
        found["paired_requests"] = 1
        found |= {name: math.nan if value is None else value for name, value in paired.items()}
    row = np.zeros(len(COLUMNS))
    for column, value in found.items():
        row[_INDEX[column]] = value
    return row


def _is_speculative(record: Record) -> bool:
    if record.settings is not None:
        return record.settings.num_speculative_tokens > 0
    return bool(record.num_draft_tokens)
