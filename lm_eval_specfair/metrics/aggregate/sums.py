"""What each request adds to the sums that metrics are computed from.

A metric is counts summed over requests and divided once (pooled), hence a function of sums; that
makes resampling cheap (`metrics.statistics.bootstrap`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.columns import MAX_POSITIONS, Requests
from lm_eval_specfair.metrics.arrays import Array

MAX_SETTINGS = 10
"""Combinations of decoding settings whose costs are distinguished; rarer ones share the last."""

_Read = Callable[[Requests], Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ratio:
    """One sum over another; a request counts if it has both."""

    numerator: _Read  # what a request adds above the line; NaN where not measured
    denominator: _Read
    needs_drafts: bool = True  # without a drafter a request does not count
    only: Literal["generated", "scored"] | None = None  # just requests of this kind

    def counts(self, requests: Requests) -> NDArray[np.bool_]:
        mask = np.ones(len(requests), dtype=bool)
        if self.needs_drafts:
            mask &= requests["drafts"] == 1
        if self.only is not None:
            mask &= (requests["generates"] == 1) == (self.only == "generated")
        return mask


def _field(name: str, factor: float = 1) -> _Read:
    return lambda requests: requests[name] * factor


def _emitted(requests: Requests) -> Array:
    return requests["num_spec_steps"] + requests["num_accepted_draft_tokens"]


def _target_passes(requests: Requests) -> Array:
    return requests["num_spec_steps"] + 1  # the prompt's


def _once(requests: Requests) -> Array:
    return np.ones(len(requests))


def _diverging(name: str) -> _Read:
    """Infinite where q lacks a token of p: such positions are missing from the record's sum."""
    return lambda requests: np.where(
        requests["num_infinite_positions"] > 0, math.inf, requests[name]
    )


# Two kinds of position, never mixed: those that decoding examined, on text of the target's own, and
# those of given text (a benchmark's choices or references).
_DIVERGENCES: dict[str, _Read] = {
    "overlap": _field("overlap_sum"),
    "kl": _diverging("kl_sum"),
    "cross_entropy": _diverging("cross_entropy_sum"),
    "target_entropy": _field("target_entropy_sum"),
}
_BYTES = _field("num_generated_bytes")
_SPENT: dict[str, _Read] = {
    "seconds": _field("decode_seconds"),
    "steps": _field("num_spec_steps"),
    "target_passes": _target_passes,
    "tokens": _field("num_generated_tokens"),
}
PER_DOCUMENT = tuple(f"{name}_per_document" for name in _SPENT)
"""Ratios whose denominator counts documents, however many requests a document makes."""

BY_DOCUMENT = tuple(
    f"{name}_per_{unit}"
    for name in ("seconds", "steps", "target_passes")
    for unit in ("kilobyte", "document")
)
"""Ratios that are also read document by document, for percentiles."""

RATIOS: dict[str, _Ratio] = {
    "conditional_acceptance_rate": _Ratio(
        numerator=_field("num_accepted_draft_tokens"),
        denominator=_field("num_examined_draft_tokens"),
    ),
    "draft_acceptance_rate": _Ratio(
        numerator=_field("num_accepted_draft_tokens"), denominator=_field("num_draft_tokens")
    ),
    "mean_acceptance_length": _Ratio(numerator=_emitted, denominator=_field("num_spec_steps")),
    **{
        name: _Ratio(
            numerator=read, denominator=_field("num_distribution_positions"), only="generated"
        )
        for name, read in _DIVERGENCES.items()
    },
    **{
        f"scored_{name}": _Ratio(
            numerator=read,
            denominator=_field("num_distribution_positions"),
            needs_drafts=False,
            only="scored",
        )
        for name, read in _DIVERGENCES.items()
    },
    **{
        name: _Ratio(numerator=numerator, denominator=denominator, needs_drafts=False)
        for name, numerator, denominator in (
            ("bytes_per_token", _BYTES, _field("num_generated_tokens")),
            (
                "bits_per_byte",
                _field("target_nll_sum", 1 / math.log(2)),
                _field("num_scored_bytes"),
            ),
            (
                "drafter_bits_per_byte",
                _field("drafter_nll_sum", 1 / math.log(2)),
                _field("num_scored_bytes"),
            ),
            (
                "target_reference_probability",
                _field("target_reference_probability_sum"),
                _field("num_scored_tokens"),
            ),
            (
                "drafter_reference_probability",
                _field("drafter_reference_probability_sum"),
                _field("num_scored_tokens"),
            ),
        )
    },
    **{
        f"{name}_per_kilobyte": _Ratio(
            numerator=lambda requests, read=read: read(requests) * 1_000,  # type: ignore[misc]
            denominator=_BYTES,
            needs_drafts=False,
            only="generated",
        )
        for name, read in _SPENT.items()
    },
    **{
        f"{name}_per_document": _Ratio(
            numerator=read, denominator=_once, needs_drafts=False, only="generated"
        )
        for name, read in _SPENT.items()
    },
    **{
        f"{kind}_at_{position}": _Ratio(
            numerator=_field(f"kept_at_{position}"),
            denominator=denominator,
            only="generated",
        )
        for position in range(1, MAX_POSITIONS + 1)
        for kind, denominator in (
            ("conditional_acceptance", _field(f"examined_at_{position}")),
            ("acceptance", _field("num_spec_steps")),
        )
    },
}
"""By name."""

ANSWER_QUALITY = "answer_quality"
"""A ratio whose sums don't come from records, but from lm-eval's score of a document."""

# Requests that were decoded both ways.
_PAIRED: dict[str, _Read] = {
    "paired_baseline_seconds": _field("baseline_seconds"),
    "paired_baseline_tokens": _field("baseline_generated_tokens"),
    "paired_decode_seconds": _field("decode_seconds"),
    "paired_tokens": _field("num_generated_tokens"),
    "paired_steps": _field("num_spec_steps"),
    "paired_emitted": _emitted,
    "paired_draft_tokens": _field("num_draft_tokens"),
    "paired_draft_seconds": _field("draft_seconds"),
    "paired_verify_seconds": _field("verify_seconds"),
}
# A backend may not know them; the costs that need them are then NaN.
_OPTIONAL = {"paired_draft_seconds", "paired_verify_seconds"}
_BY_SETTINGS = ("steps", "gamma_steps", "paired_steps", "paired_seconds")

COLUMNS = (
    "requests",
    "paired_requests",
    *_PAIRED,
    # Tokens of requests decoded without a drafter: a plain step each.
    "plain_tokens",
    "timed_requests",
    *(f"{part}_of_settings_{number}" for part in _BY_SETTINGS for number in range(MAX_SETTINGS)),
    *(
        f"{name}.{part}"
        for name in (*RATIOS, ANSWER_QUALITY)
        for part in ("numerator", "denominator", "requests")
    ),
)
INDEX = {column: index for index, column in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over requests, for any number of sets of requests at once."""

    values: Array  # (..., len(COLUMNS))

    def __getitem__(self, column: str) -> Array:
        """One column, shape (...)."""
        return self.values[..., INDEX[column]]

    def by_settings(self, part: str) -> Array:
        """A sum for each combination of settings, shape (..., MAX_SETTINGS)."""
        first = INDEX[f"{part}_of_settings_0"]
        return self.values[..., first : first + MAX_SETTINGS]


def addends_of(requests: Requests) -> Array:
    """What each of many requests adds to each sum, shape (num_requests, len(COLUMNS))."""
    rows = np.zeros((len(requests), len(COLUMNS)))
    rows[:, INDEX["requests"]] = 1
    for name, ratio in RATIOS.items():
        numerator, denominator = ratio.numerator(requests), ratio.denominator(requests)
        has = ~np.isnan(numerator) & (denominator > 0) & ratio.counts(requests)
        first = INDEX[f"{name}.numerator"]
        rows[has, first] = numerator[has]
        rows[has, first + 1] = denominator[has]
        rows[has, first + 2] = 1
    _add_times(rows, requests)
    return rows


def _add_times(rows: Array, requests: Requests) -> None:
    paired = {name: read(requests) for name, read in _PAIRED.items()}
    is_paired = (requests["drafts"] == 1) & (requests["num_spec_steps"] > 0)
    for name, values in paired.items():
        if name not in _OPTIONAL:
            is_paired &= ~np.isnan(values)
    rows[is_paired, INDEX["paired_requests"]] = 1
    for name, values in paired.items():
        rows[is_paired, INDEX[name]] = values[is_paired]

    emitted, steps = _emitted(requests), requests["num_spec_steps"]
    is_timed = (requests["drafts"] == 1) & ~np.isnan(emitted) & (steps > 0)
    tokens = requests["num_generated_tokens"]
    is_plain = (requests["generates"] == 1) & (requests["gamma"] == 0) & (tokens > 0)
    rows[is_plain, INDEX["plain_tokens"]] = tokens[is_plain]
    rows[is_timed | is_plain, INDEX["timed_requests"]] = 1
    settings = np.minimum(requests["settings"], MAX_SETTINGS - 1).astype(int)
    for part, values, mask in (
        ("steps", steps, is_timed),
        ("gamma_steps", requests["gamma"] * steps, is_timed),
        ("paired_steps", paired["paired_steps"], is_paired),
        ("paired_seconds", paired["paired_decode_seconds"], is_paired),
    ):
        rows[mask, INDEX[f"{part}_of_settings_0"] + settings[mask]] = values[mask]
