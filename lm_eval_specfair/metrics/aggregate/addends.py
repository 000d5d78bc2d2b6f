"""What each request adds to the sums that metrics are computed from."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.columns import COSTS, Requests
from lm_eval_specfair.metrics.aggregate.sums import (
    COLUMNS,
    INDEX,
    MAX_SETTINGS,
    OPTIONAL_OF_PAIRED,
    PAIRED,
    RATIOS,
    column_of,
)
from lm_eval_specfair.metrics.arrays import Array


def addends_of(requests: Requests, ratios: Collection[str] = RATIOS) -> Array:
    """What each of many requests adds to each sum, shape (num_requests, len(COLUMNS)).

    With `ratios`, only to their sums; the others stay 0.
    """
    rows = np.zeros((len(COLUMNS), len(requests))).T  # a column after the other in memory
    rows[:, INDEX["requests"]] = 1
    for name in ratios:
        ratio = RATIOS[name]
        numerator = column_of(requests, ratio.numerator) * ratio.factor
        denominator = column_of(requests, ratio.denominator)
        has = ~np.isnan(numerator) & (denominator > 0) & ratio.counts(requests)
        if has.any():
            for part, values in (("numerator", numerator), ("denominator", denominator)):
                rows[:, INDEX[f"{name}.{part}"]] = np.where(has, values, 0)
            rows[:, INDEX[f"{name}.requests"]] = has
    if ratios is RATIOS:
        _add_times(rows, requests)
    return rows


def _add_times(rows: Array, requests: Requests) -> None:
    paired = {name: column_of(requests, column) for name, column in PAIRED.items()}
    is_paired = (requests["drafts"] == 1) & (requests["num_spec_steps"] > 0)
    for name, values in paired.items():
        if name not in OPTIONAL_OF_PAIRED:
            is_paired &= ~np.isnan(values)
    rows[is_paired, INDEX["paired_requests"]] = 1
    for name, values in paired.items():
        rows[is_paired, INDEX[name]] = values[is_paired]

    emitted, steps = column_of(requests, "emitted"), requests["num_spec_steps"]
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
