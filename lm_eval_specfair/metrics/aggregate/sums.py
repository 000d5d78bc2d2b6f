"""The sums that metrics are computed from, and what each request adds to them.

A metric is counts summed over requests and divided once (pooled), hence a function of sums; that
makes resampling cheap (`metrics.statistics.bootstrap`).
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.columns import COSTS, MAX_POSITIONS, Requests
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


def _column(requests: Requests, name: str) -> Array:
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
_PAIRED = {
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
    """Sums over requests, for any number of sets of requests at once.

    Many columns are equal: with `places`, `values` has each of them once, and `places` says where,
    shape (len(COLUMNS),).
    """

    values: Array  # (..., len(COLUMNS))
    places: NDArray[np.intp] | None = None

    def __getitem__(self, column: str) -> Array:
        """One column, shape (...)."""
        number = INDEX[column]
        return self.values[..., number if self.places is None else self.places[number]]

    def by_settings(self, part: str) -> Array:
        """A sum for each combination of settings, shape (..., MAX_SETTINGS)."""
        first = INDEX[f"{part}_of_settings_0"]
        columns = slice(first, first + MAX_SETTINGS)
        return self.values[..., columns if self.places is None else self.places[columns]]


def addends_of(requests: Requests, ratios: Collection[str] = RATIOS) -> Array:
    """What each of many requests adds to each sum, shape (num_requests, len(COLUMNS)).

    With `ratios`, only to their sums; the others stay 0.
    """
    rows = np.zeros((len(COLUMNS), len(requests))).T  # a column after the other in memory
    rows[:, INDEX["requests"]] = 1
    for name in ratios:
        ratio = RATIOS[name]
        numerator = _column(requests, ratio.numerator) * ratio.factor
        denominator = _column(requests, ratio.denominator)
        has = ~np.isnan(numerator) & (denominator > 0) & ratio.counts(requests)
        if has.any():
            for part, values in (("numerator", numerator), ("denominator", denominator)):
                rows[:, INDEX[f"{name}.{part}"]] = np.where(has, values, 0)
            rows[:, INDEX[f"{name}.requests"]] = has
    if ratios is RATIOS:
        _add_times(rows, requests)
    return rows


def _add_times(rows: Array, requests: Requests) -> None:
    paired = {name: _column(requests, column) for name, column in _PAIRED.items()}
    is_paired = (requests["drafts"] == 1) & (requests["num_spec_steps"] > 0)
    for name, values in paired.items():
        if name not in _OPTIONAL:
            is_paired &= ~np.isnan(values)
    rows[is_paired, INDEX["paired_requests"]] = 1
    for name, values in paired.items():
        rows[is_paired, INDEX[name]] = values[is_paired]

    emitted, steps = _column(requests, "emitted"), requests["num_spec_steps"]
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
    _add_modelled_times(rows, requests, is_timed & ~is_paired, settings)


def _add_modelled_times(
    rows: Array, requests: Requests, is_timed: NDArray[np.bool_], settings: NDArray[np.int_]
) -> None:
    """Times of a replay whose costs were named, in plain steps: it counts as no paired request."""
    chosen = np.flatnonzero(is_timed & ~np.isnan(requests["modelled_draft"]))
    if not len(chosen):
        return
    steps, drafted = (requests[name][chosen] for name in ("num_spec_steps", "num_draft_tokens"))
    draft, verify, overhead = (requests[name][chosen] for name in COSTS)
    seconds = drafted * draft + steps * (verify + overhead)
    for name, values in {
        "paired_baseline_seconds": steps,  # a plain step is the unit: one a token
        "paired_baseline_tokens": steps,
        "paired_decode_seconds": seconds,
        "paired_steps": steps,
        "paired_draft_tokens": drafted,
        "paired_draft_seconds": drafted * draft,
        "paired_verify_seconds": steps * verify,
    }.items():
        rows[chosen, INDEX[name]] = values
    first = INDEX["paired_steps_of_settings_0"], INDEX["paired_seconds_of_settings_0"]
    rows[chosen, first[0] + settings[chosen]] = steps
    rows[chosen, first[1] + settings[chosen]] = seconds
