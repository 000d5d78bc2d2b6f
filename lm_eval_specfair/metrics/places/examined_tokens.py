"""The drafted tokens that were examined, each with its place: the records' steps, spelled out.

A step of k kept tokens examines the k places after its start; where it met a rejected token, the
place after them as well, whose token is the target's own. Steps begin where the one before ended.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.records import Record

Numbers = NDArray[np.int64]
NO_TOKEN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class ExaminedTokens:
    """Examined tokens of some records, one after the other, each column of shape (num_examined,).

    Attributes:
        rows: The record of each, by its number among those given.
        places: Its place in the generated text, from 0.
        draft_positions: Its place in its draft, from 1.
        is_kept: Whether it was kept.
        token_ids: The text's token at this place, kept or the target's own; `NO_TOKEN` where
            records have none.
        rejected_ids: The drafter's proposal where it was not kept; `NO_TOKEN` else, or if unknown.
        is_placed: Of each record, whether its steps are known and agree with its counts.
    """

    rows: Numbers
    places: Numbers
    draft_positions: Numbers
    is_kept: NDArray[np.bool_]
    token_ids: Numbers
    rejected_ids: Numbers
    is_placed: NDArray[np.bool_]


def examined_tokens(records: Sequence[Record]) -> ExaminedTokens:
    """The examined tokens of some records, in the order of records, steps and drafts.

    A record without steps, or whose steps do not add up to its `num_examined_draft_tokens`, has
    none.

    Example:
        >>> from lm_eval_specfair.records import Record
        >>> one = Record(
        ...     request_id="a", task="t", doc_id=0, request_type="generate_until", group_fields={},
        ...     num_prompt_tokens=9, num_generated_tokens=5, num_examined_draft_tokens=4,
        ...     accepted_per_step=[1, 2], drafted_per_step=[2, 2],
        ... )
        >>> found = examined_tokens([one])
        >>> found.places.tolist(), found.is_kept.tolist(), found.draft_positions.tolist()
        ([0, 1, 2, 3], [True, False, True, True], [1, 2, 1, 2])
    """
    known = [_has_steps(record) for record in records]
    lists = [record if here else None for record, here in zip(records, known, strict=True)]
    steps = np.array([len(one.accepted_per_step or ()) if one else 0 for one in lists], np.int64)
    rows = np.repeat(np.arange(len(records)), steps)
    accepted, drafted = (
        np.fromiter(
            itertools.chain.from_iterable(getattr(one, name) for one in lists if one), np.int64
        )
        for name in ("accepted_per_step", "drafted_per_step")
    )
    lengths = np.array([record.num_generated_tokens or 0 for record in records], np.int64)
    # Where each step starts: after what the record's earlier steps emitted.
    emitted = np.cumsum(accepted + 1) - (accepted + 1)
    first = np.cumsum(steps) - steps
    starts = emitted - (
        emitted[np.minimum(first, max(len(emitted) - 1, 0))][rows] if len(rows) else 0
    )
    # Where the text ended among the kept tokens, the rejected one was not looked at.
    is_met = (accepted < drafted) & (starts + accepted < lengths[rows])
    examined = accepted + is_met
    counts = np.bincount(rows, weights=examined, minlength=len(records)).astype(np.int64)
    told = np.array(
        [-1 if one is None or one.num_examined_draft_tokens is None
         else one.num_examined_draft_tokens for one in lists], np.int64
    )  # fmt: skip
    is_placed = np.array(known, bool) & (counts == told)
    wanted = is_placed[rows]
    rows, starts, accepted, examined = (each[wanted] for each in (rows, starts, accepted, examined))
    own_rows = np.repeat(rows, examined)
    offsets = np.arange(len(own_rows)) - np.repeat(np.cumsum(examined) - examined, examined)
    is_kept = offsets < np.repeat(accepted, examined)
    places = np.repeat(starts, examined) + offsets
    return ExaminedTokens(
        rows=own_rows,
        places=places,
        draft_positions=offsets + 1,
        is_kept=is_kept,
        token_ids=_texts(records, own_rows, places),
        rejected_ids=_rejected(records, is_placed, examined > accepted, own_rows, is_kept),
        is_placed=is_placed,
    )


def _has_steps(record: Record) -> bool:
    accepted, drafted = record.accepted_per_step, record.drafted_per_step
    return (
        record.failure is None
        and accepted is not None
        and drafted is not None
        and len(accepted) == len(drafted)
        and record.num_generated_tokens is not None
    )


def _texts(records: Sequence[Record], rows: Numbers, places: Numbers) -> Numbers:
    """The text's token at each place."""
    texts = [record.generated_token_ids or [] for record in records]
    lengths = np.array([len(text) for text in texts], np.int64)
    flat = np.fromiter(itertools.chain.from_iterable(texts), np.int64)
    at = (np.cumsum(lengths) - lengths)[rows] + places
    is_known = places < lengths[rows]
    found = np.full(len(rows), NO_TOKEN, np.int64)
    found[is_known] = flat[at[is_known]]
    return found


def _rejected(
    records: Sequence[Record],
    is_placed: NDArray[np.bool_],
    has_rejected: NDArray[np.bool_],
    rows: Numbers,
    is_kept: NDArray[np.bool_],
) -> Numbers:
    """The first of each step's thrown away tokens, where the step met it and it is known."""
    first = [
        thrown[0] if thrown else NO_TOKEN
        for record, here in zip(records, is_placed.tolist(), strict=True)
        if here
        for thrown in (record.discarded_token_ids or [[]] * len(record.accepted_per_step or ()))
    ]
    found = np.full(len(rows), NO_TOKEN, np.int64)
    found[~is_kept] = np.array(first, np.int64)[has_rejected]
    return found
