"""The invariants of a record: what its fields must say of one another, as one table.

Bounds of single fields are the schema's (`schema.Seconds`, `schema.Nats`, ...), which are checked
while a line is read. `INVARIANTS` is about columns, so that whoever reads rows (a block at a time)
and whoever reads columns asks the same. What was not measured (NaN) breaks nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.records.record_batch import FloatColumn, RecordBatch
from lm_eval_specfair.records.schema import BOUNDS, Record
from lm_eval_specfair.records.texts.list_columns import LIST_COLUMNS, summed
from lm_eval_specfair.records.texts.text_columns import OF_TEXTS, of_text

Columns = Mapping[str, FloatColumn]

OF_LISTS = (
    "drafts_per_step", "histogram_length", "histogram_steps", "histogram_accepted",
    "drafted_steps", "drafted_sum", "drafted_most", "accepted_steps", "accepted_sum",
    "steps_above_drafted",
)  # fmt: skip
"""Columns that follow from settings and lists."""

_ROUNDING = 1e-6  # of sums of seconds and probabilities
_HALF_A_DIGIT = 0.51e-3  # of what is noted to three digits
_LEAST_KL = 1e-3  # nats a position that types of few bits may be below 0


@dataclass(frozen=True, slots=True)
class Invariant:
    """A field and what it must be; `broken` says of each row whether it is not."""

    field: str
    expected: str
    broken: Callable[[Columns], NDArray[np.bool_]]
    got: str = ""  # the column that is shown, where it isn't the field's own


def _differ(one: FloatColumn, other: FloatColumn) -> NDArray[np.bool_]:
    return (one < other) | (one > other)  # != is true of NaN


def _above(probabilities: FloatColumn, most: FloatColumn) -> NDArray[np.bool_]:
    return probabilities > most * (1 + _ROUNDING)


def _at_most(field: str, most: str) -> Invariant:
    return Invariant(field, f"at most {most}", lambda c: c[field] > c[most])


def _equal(field: str, expected: str, found: str, other: str) -> Invariant:
    return Invariant(field, expected, lambda c: _differ(c[found], c[other]), found)


def _one_for_each(
    field: str, found: str, *, what: str = "number", of: str = "num_spec_steps"
) -> Invariant:
    return _equal(field, f"one {what} for each of {of}", found, of)


INVARIANTS = (
    _at_most("num_accepted_draft_tokens", "num_examined_draft_tokens"),
    _at_most("num_accepted_draft_tokens", "num_draft_tokens"),
    _at_most("num_examined_draft_tokens", "num_draft_tokens"),
    Invariant(
        "num_examined_draft_tokens",
        "at most one more than accepted in each step",
        lambda c: (
            c["num_examined_draft_tokens"] > c["num_accepted_draft_tokens"] + c["num_spec_steps"]
        ),
    ),
    Invariant(
        "num_draft_tokens",
        "at most num_speculative_tokens in each step",
        lambda c: c["num_draft_tokens"] > c["drafts_per_step"] * c["num_spec_steps"],
    ),
    Invariant(
        "acceptance_histogram",
        "as long as num_speculative_tokens + 1",
        lambda c: _differ(c["histogram_length"], c["drafts_per_step"] + 1),
        "histogram_length",
    ),
    _equal(
        "acceptance_histogram", "num_spec_steps steps in all", "histogram_steps", "num_spec_steps"
    ),
    Invariant(
        "num_accepted_draft_tokens",
        "the tokens that acceptance_histogram adds up to",
        lambda c: _differ(c["histogram_accepted"], c["num_accepted_draft_tokens"]),
    ),
    _one_for_each("drafted_per_step", "drafted_steps"),
    _equal("drafted_per_step", "num_draft_tokens in all", "drafted_sum", "num_draft_tokens"),
    Invariant(
        "drafted_per_step",
        "at most num_speculative_tokens in each step",
        lambda c: c["drafted_most"] > c["drafts_per_step"],
        "drafted_most",
    ),
    _one_for_each("accepted_per_step", "accepted_steps"),
    _equal(
        "accepted_per_step",
        "num_accepted_draft_tokens in all",
        "accepted_sum",
        "num_accepted_draft_tokens",
    ),
    Invariant(
        "accepted_per_step",
        "at most what drafted_per_step says, in every step",
        lambda c: c["steps_above_drafted"] > 0,
        "steps_above_drafted",
    ),
    _equal(
        "rejected_token_ids",
        "one token for each step that met a rejection",
        "rejected_ids",
        "rejections",
    ),
    _one_for_each("discarded_token_ids", "discarding_steps", what="list"),
    Invariant(
        "discarded_token_ids",
        "at most the drafted tokens that were not kept, in every step",
        lambda c: c["steps_above_unkept"] > 0,
        "steps_above_unkept",
    ),
    Invariant(
        "discarded_token_ids",
        "others than the tokens that replaced them, in greedy texts",
        lambda c: c["steps_replaced_by_same"] > 0,
        "steps_replaced_by_same",
    ),
    _one_for_each("overlap_per_position", "overlap_positions", of="num_distribution_positions"),
    Invariant(
        "overlap_per_position",
        "overlap_sum in all, up to its digits",
        lambda c: c["overlap_difference"] > _HALF_A_DIGIT * (1 + c["overlap_positions"]),
        "overlap_difference",
    ),
    Invariant(
        "num_generated_tokens",
        "at most num_spec_steps + num_accepted_draft_tokens",
        lambda c: c["num_generated_tokens"] > c["num_spec_steps"] + c["num_accepted_draft_tokens"],
    ),
    # Only a text's last step may end before the target's own token.
    Invariant(
        "num_generated_tokens",
        "at least num_spec_steps + num_accepted_draft_tokens - 1",
        lambda c: (
            c["num_generated_tokens"] + 1 < c["num_spec_steps"] + c["num_accepted_draft_tokens"]
        ),
    ),
    Invariant(
        "num_generated_tokens",
        "the length of generated_token_ids",
        lambda c: _differ(c["num_generated_tokens"], c["token_ids"]),
    ),
    Invariant(
        "num_generated_bytes",
        "the UTF-8 bytes of generated_text",
        # Older records count three bytes for a character that could not be decoded.
        lambda c: (
            (c["num_generated_bytes"] > c["text_bytes"])
            | (c["num_generated_bytes"] < c["text_bytes_known"])
        ),
    ),
    Invariant(
        "num_generated_chars",
        "the characters of generated_text",
        lambda c: _differ(c["num_generated_chars"], c["text_chars"]),
    ),
    Invariant(
        "num_active_rows_sum",
        "at least num_spec_steps",
        lambda c: c["num_active_rows_sum"] < c["num_spec_steps"],
    ),
    _at_most("num_infinite_positions", "num_distribution_positions"),
    _at_most("num_distribution_positions", "num_examined_draft_tokens"),
    Invariant(
        "overlap_sum",
        "at most num_distribution_positions",
        lambda c: _above(c["overlap_sum"], c["num_distribution_positions"]),
    ),
    Invariant(
        "kl_sum",
        "0 or above, up to rounding",
        lambda c: c["kl_sum"] < -_LEAST_KL * (1 + c["num_distribution_positions"]),
    ),
    Invariant(
        "decode_seconds",
        "at least draft_seconds + verify_seconds",
        lambda c: (
            _known(c["draft_seconds"]) + _known(c["verify_seconds"])
            > c["decode_seconds"] * (1 + _ROUNDING) + _ROUNDING
        ),
    ),
    Invariant(
        "baseline_seconds",
        "above 0 where the baseline has more than one token",
        lambda c: (c["baseline_seconds"] <= 0) & (c["baseline_generated_tokens"] > 1),
    ),
    _at_most("plain_pass_tokens", "num_generated_tokens"),
    _at_most("certain_spec_steps", "num_spec_steps"),
    _at_most("certain_accepted_draft_tokens", "num_accepted_draft_tokens"),
    _at_most("certain_examined_draft_tokens", "num_examined_draft_tokens"),
    Invariant(
        "plain_pass_tokens",
        "at least plain_pass_ties + plain_pass_differing",
        lambda c: c["plain_pass_tokens"] < c["plain_pass_ties"] + c["plain_pass_differing"],
    ),
    Invariant(
        "target_reference_probability_sum",
        "at most num_scored_tokens",
        lambda c: _above(c["target_reference_probability_sum"], c["num_scored_tokens"]),
    ),
    Invariant(
        "drafter_reference_probability_sum",
        "at most num_scored_tokens",
        lambda c: _above(c["drafter_reference_probability_sum"], c["num_scored_tokens"]),
    ),
    Invariant(
        "num_other_script_letters",
        "at most num_letters",
        lambda c: _above(c["num_other_script_letters"], c["num_letters"]),
    ),
    Invariant(
        "num_agreeing_positions",
        "at most num_scored_tokens",
        lambda c: _above(c["num_agreeing_positions"], c["num_scored_tokens"]),
    ),
)


def _known(column: FloatColumn) -> FloatColumn:
    return np.nan_to_num(column)


def columns_of(batch: RecordBatch, records: Sequence[Record] = ()) -> dict[str, FloatColumn]:
    """The columns that invariants are about, (num_records,) each, NaN for None.

    Those of texts come from the `records` of the batch; without them they are not known.
    """
    nothing = np.full(len(batch), np.nan)
    columns = {**batch.numbers, **dict.fromkeys(OF_TEXTS, nothing)}
    lengths = [np.nan if s is None else s.num_speculative_tokens for s in batch.settings.values]
    columns["drafts_per_step"] = np.array(lengths, dtype=np.float64)[batch.settings.codes]
    for name, parts in LIST_COLUMNS.items():
        lists = batch.lists[name]
        known = np.where(lists.lengths < 0, np.nan, 1.0)
        for column, value in parts.items():
            columns[column] = known * value(lists)
    drafted, accepted = batch.lists["drafted_per_step"], batch.lists["accepted_per_step"]
    columns["rejections"] = (
        columns["num_examined_draft_tokens"] - columns["num_accepted_draft_tokens"]
    )
    columns["steps_above_drafted"] = nothing
    if np.array_equal(drafted.lengths, accepted.lengths):
        columns["steps_above_drafted"] = summed(
            accepted, (accepted.values > drafted.values).astype(np.float64)
        )
    if records:
        texts = np.array([of_text(record) for record in records], dtype=np.float64)
        columns |= dict(zip(OF_TEXTS, texts.T, strict=True))
    return columns


def broken(columns: Columns) -> Iterator[tuple[int, str]]:
    """The rows that break an invariant, each with field, what is expected, and what it has."""
    for invariant in INVARIANTS:
        wrong = invariant.broken(columns)
        if wrong.any():
            shown = columns[invariant.got or invariant.field]
            for row in np.flatnonzero(wrong).tolist():
                yield row, f"{invariant.field} must be {invariant.expected}, got {shown[row]:g}"


def out_of_bounds(columns: Columns) -> Iterator[tuple[int, str]]:
    """The rows whose fields lie outside the schema's bounds, for columns that no line held."""
    for field, (least, most) in BOUNDS.items():
        if field in columns:
            wrong = (columns[field] < least) | (columns[field] > most)
            for row in np.flatnonzero(wrong).tolist():
                value = columns[field][row]
                yield row, f"{field} must be from {least:g} to {most:g}, got {value:g}"
