"""What a record's text and its course say of its counts, as numbers that invariants are about."""

import math

from lm_eval_specfair.records.schema import Record
from lm_eval_specfair.text_lines import num_bytes

OF_TEXTS = (
    "token_ids", "text_chars", "text_bytes", "text_bytes_known", "rejected_ids", "discarding_steps",
    "steps_above_unkept", "steps_replaced_by_same", "overlap_positions", "overlap_difference",
)  # fmt: skip
"""Columns that follow from texts, where these were read."""


def of_text(record: Record) -> tuple[float | None, ...]:
    """The columns of `OF_TEXTS` of one record; None for what it does not know."""
    ids, text = record.generated_token_ids, record.generated_text
    lengths: tuple[int | None, ...] = None, None, None
    if text is not None:
        lengths = len(text), len(text.encode("utf-8", "replace")), num_bytes(text)
    return (
        None if ids is None else len(ids),
        *lengths,
        *_of_discarded(record),
        *_of_overlaps(record),
    )


def _of_discarded(record: Record) -> tuple[int | None, ...]:
    discarded, accepted = record.discarded_token_ids, record.accepted_per_step
    rejected = None if record.rejected_token_ids is None else len(record.rejected_token_ids)
    if discarded is None:
        return rejected, None, None, None
    if accepted is None or record.drafted_per_step is None:
        return rejected, len(discarded), None, None
    unkept = [d - a for d, a in zip(record.drafted_per_step, accepted, strict=False)]
    above = sum(len(ids) > left for ids, left in zip(discarded, unkept, strict=False))
    ids, same, place = record.generated_token_ids or [], 0, 0
    if record.settings is not None and record.settings.temperature == 0:
        for kept, thrown in zip(accepted, discarded, strict=False):
            place += kept + 1
            same += bool(thrown) and ids[place - 1 : place] == thrown[:1]
    return rejected, len(discarded), above, same


def _of_overlaps(record: Record) -> tuple[float | None, ...]:
    overlaps = record.overlap_per_position
    if overlaps is None:
        return None, None
    known = record.overlap_sum
    if overlaps and not 0 <= min(overlaps) <= max(overlaps) <= 1:  # columns are not bounded
        return len(overlaps), math.inf
    return len(overlaps), None if known is None else abs(sum(overlaps) - known)
