"""The sums that metrics are computed from, and what each request adds to them.

A metric is counts summed over requests and divided once (pooled), hence a function of sums; that
makes resampling cheap (`metrics.statistics.bootstrap`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.columns import MAX_POSITIONS, Requests
from lm_eval_specfair.metrics.arrays import Array

MAX_SETTINGS = 10
"""Settings whose costs are distinguished; rarer ones share the last."""

# Columns that are computed from those of `Requests`.
_COMPUTED: dict[str, Callable[[Requests], Array]] = {
    "emitted": lambda requests: requests["num_spec_steps"] + requests["num_accepted_draft_tokens"],
    "target_passes": lambda requests: requests["num_spec_steps"] + 1,  # the prompt's
    # Of served texts, whose seconds are each one's own wall-clock.
    "after_first_seconds": lambda requests: (
        requests["decode_seconds"] + 0 * requests["first_token_seconds"]
    ),
    "after_first_tokens": lambda requests: requests["num_generated_tokens"] - 1,
    "once": lambda requests: np.ones(len(requests)),
    "kl": lambda requests: _diverging(requests, "kl_sum"),
    "cross_entropy": lambda requests: _diverging(requests, "cross_entropy_sum"),
    "untruncated_kl": lambda requests: _untruncated(requests, "kl_sum"),
    "untruncated_cross_entropy": lambda requests: _untruncated(requests, "cross_entropy_sum"),
    # Of a replayed text whose end is uncertain: as if all of that were kept, or none.
    "most_accepted": lambda requests: (
        requests["certain_accepted_draft_tokens"] + requests["num_uncertain_tokens"]
    ),
    "most_examined": lambda requests: (
        requests["certain_examined_draft_tokens"] + requests["num_uncertain_tokens"]
    ),
    "all_emitted": lambda requests: (
        requests["certain_spec_steps"]
        + requests["certain_accepted_draft_tokens"]
        + requests["num_uncertain_tokens"]
    ),
    # A text that ends with a kept draft has one token less than steps and kept drafts.
    "most_emitted": lambda requests: (
        _COMPUTED["all_emitted"](requests) + (requests["num_uncertain_tokens"] > 0)
    ),
    "certain_emitted": lambda requests: (
        requests["certain_spec_steps"] + requests["certain_accepted_draft_tokens"]
    ),
    "most_steps": lambda requests: (
        requests["certain_spec_steps"] + requests["num_uncertain_tokens"]
    ),
    "fewest_steps": lambda requests: (
        requests["certain_spec_steps"]
        + np.ceil(requests["num_uncertain_tokens"] / (requests["gamma"] + 1))
    ),
}


def _diverging(requests: Requests, name: str) -> Array:
    """Infinite where q lacks a token of p: such positions are missing from the record's sum."""
    return np.where(requests["num_infinite_positions"] > 0, math.inf, requests[name])


def _untruncated(requests: Requests, name: str) -> Array:
    """Before top-k and top-p; where these cut nothing off, the same as with them."""
    cut_off, own = requests[f"untruncated_{name}"], _diverging(requests, name)
    return np.where(requests["truncates"] == 1, cut_off, own)


def column_of(requests: Requests, name: str) -> Array:
    """A field of requests, or what is computed from several, shape (num_requests,)."""
    return _COMPUTED[name](requests) if name in _COMPUTED else requests[name]


@dataclass(frozen=True, slots=True)
class _Ratio:
    """One sum over another; a request counts if it has both."""

    numerator: str
    denominator: str
    only: Literal["generated", "scored", "right"] | None = None  # just requests of this kind
    factor: float = 1
    needs_drafts: bool = True  # without a drafter a request does not count

    def counts(self, requests: Requests) -> NDArray[np.bool_]:
        mask = (requests["drafts"] == 1) | (not self.needs_drafts)
        if self.only == "right":  # of texts to choose from, only what the target should say
            mask &= requests["is_right_choice"] != 0
        elif self.only is not None:
            mask &= (requests["generates"] == 1) == (self.only == "generated")
        return mask


_also_plain = partial(_Ratio, needs_drafts=False)

_SPENT = {
    "seconds": "decode_seconds",
    "steps": "num_spec_steps",
    "target_passes": "target_passes",
    "tokens": "num_generated_tokens",
}
PER_DOCUMENT = tuple(f"{name}_per_document" for name in _SPENT)
"""Ratios whose denominator counts documents, however many requests a document makes."""

BY_DOCUMENT = (
    *(
        f"{name}_per_{unit}"
        for name in ("seconds", "steps", "target_passes")
        for unit in ("kilobyte", "document")
    ),
    "time_to_first_token",
    "time_per_output_token",
)
"""Ratios that are also read document by document, for percentiles."""

_BITS = 1 / math.log(2)
RATIOS = {
    "conditional_acceptance_rate": _Ratio("num_accepted_draft_tokens", "num_examined_draft_tokens"),
    "draft_acceptance_rate": _Ratio("num_accepted_draft_tokens", "num_draft_tokens"),
    "mean_acceptance_length": _Ratio("emitted", "num_spec_steps"),
    "accepted_bytes_share": _Ratio("num_accepted_bytes", "num_generated_bytes"),
    "conditional_acceptance_rate_at_least": _Ratio(
        "certain_accepted_draft_tokens", "most_examined"
    ),
    "conditional_acceptance_rate_at_most": _Ratio("most_accepted", "most_examined"),
    "conditional_acceptance_rate_certain": _Ratio(
        "certain_accepted_draft_tokens", "certain_examined_draft_tokens"
    ),
    "mean_acceptance_length_at_least": _Ratio("all_emitted", "most_steps"),
    "mean_acceptance_length_at_most": _Ratio("most_emitted", "fewest_steps"),
    "mean_acceptance_length_certain": _Ratio("certain_emitted", "certain_spec_steps"),
    "uncertain_tokens_share": _Ratio("num_uncertain_tokens", "all_emitted"),
    "draft_vocabulary_coverage": _also_plain("num_covered_tokens", "num_generated_tokens"),
    "bytes_per_token": _also_plain("num_generated_bytes", "num_generated_tokens"),
    "other_script_letters": _also_plain("num_other_script_letters", "num_letters", "generated"),
    "scored_agreement": _also_plain("num_agreeing_positions", "num_scored_tokens"),
    "scored_bytes_per_token": _also_plain("num_scored_bytes", "num_scored_tokens", "right"),
    "repeated_4grams": _also_plain("num_repeated_4grams", "num_4grams", "generated"),
    "time_to_first_token": _also_plain("first_token_seconds", "once", "generated"),
    "time_per_output_token": _also_plain("after_first_seconds", "after_first_tokens", "generated"),
    "bits_per_byte": _also_plain("target_nll_sum", "num_scored_bytes", "right", _BITS),
    "drafter_bits_per_byte": _also_plain("drafter_nll_sum", "num_scored_bytes", "right", _BITS),
}
"""By name."""
# Two kinds of position, never mixed: those that decoding examined, and those of given text.
for _name, _sum in {
    "overlap": "overlap_sum",
    "kl": "kl",
    "cross_entropy": "cross_entropy",
    "target_entropy": "target_entropy_sum",
}.items():
    RATIOS[_name] = _Ratio(_sum, "num_distribution_positions", only="generated")
    RATIOS[f"scored_{_name}"] = _also_plain(_sum, "num_distribution_positions", "scored")
for _name in ("untruncated_kl", "untruncated_cross_entropy"):
    RATIOS[_name] = _Ratio(_name, "num_distribution_positions", only="generated")
for _name in ("target_reference_probability", "drafter_reference_probability"):
    RATIOS[_name] = _also_plain(f"{_name}_sum", "num_scored_tokens")
for _name, _sum in _SPENT.items():
    RATIOS[f"{_name}_per_kilobyte"] = _also_plain(_sum, "num_generated_bytes", "generated", 1_000)
    RATIOS[f"{_name}_per_document"] = _also_plain(_sum, "once", "generated")
for _position in range(1, MAX_POSITIONS + 1):
    _kept, _examined = f"kept_at_{_position}", f"examined_at_{_position}"
    RATIOS[f"conditional_acceptance_at_{_position}"] = _Ratio(_kept, _examined, only="generated")
    RATIOS[f"acceptance_at_{_position}"] = _Ratio(_kept, "num_spec_steps", only="generated")

ANSWER_QUALITY = "answer_quality"
"""A ratio whose sums don't come from records, but from lm-eval's score of a document."""

# Requests that were decoded both ways.
PAIRED = {
    "paired_baseline_seconds": "baseline_seconds",
    "paired_baseline_tokens": "baseline_generated_tokens",
    "paired_decode_seconds": "decode_seconds",
    "paired_tokens": "num_generated_tokens",
    "paired_steps": "num_spec_steps",
    "paired_emitted": "emitted",
    "paired_draft_tokens": "num_draft_tokens",
    "paired_draft_seconds": "draft_seconds",
    "paired_verify_seconds": "verify_seconds",
}
# A backend may not know them; the costs that need them are then NaN.
OPTIONAL_OF_PAIRED = {"paired_draft_seconds", "paired_verify_seconds"}
_BY_SETTINGS = ("steps", "gamma_steps", "paired_steps", "paired_seconds")

COLUMNS = (
    "requests",
    "paired_requests",
    *PAIRED,
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
    """Sums over requests, for any number of sets of requests at once.

    Many columns are equal: with `places`, `values` has each of them once, and `places` says where,
    shape (len(COLUMNS),).
    """

    values: Array  # (..., len(COLUMNS))
    places: NDArray[np.intp] | None = None

    def __getitem__(self, column: str) -> Array:
        """One column, shape (...)."""
        return self._columns(INDEX[column])

    def by_settings(self, part: str) -> Array:
        """A sum for each combination of settings, shape (..., MAX_SETTINGS)."""
        first = INDEX[f"{part}_of_settings_0"]
        return self._columns(slice(first, first + MAX_SETTINGS))

    @property
    def table(self) -> Array:
        """All columns, shape (..., len(COLUMNS))."""
        return self._columns(slice(None))

    def _columns(self, numbers: int | slice) -> Array:
        return self.values[..., numbers if self.places is None else self.places[numbers]]
