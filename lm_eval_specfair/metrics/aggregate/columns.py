"""Requests as columns: one array a field, NaN where a request has no such field."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Record, Settings

MAX_POSITIONS = 16  # draft positions that are distinguished; later ones count in the totals alone

FIELDS = (
    "num_generated_tokens", "num_generated_bytes", "num_spec_steps", "num_draft_tokens",
    "num_accepted_draft_tokens", "num_examined_draft_tokens", "overlap_sum", "kl_sum",
    "cross_entropy_sum", "target_entropy_sum", "num_distribution_positions",
    "num_infinite_positions", "draft_seconds", "verify_seconds", "decode_seconds",
    "baseline_seconds", "baseline_generated_tokens", "target_nll_sum", "drafter_nll_sum",
    "num_scored_tokens", "num_scored_bytes", "target_reference_probability_sum",
    "drafter_reference_probability_sum",
)  # fmt: skip
"""The numbers of a record that metrics are made of."""
_FIELDS_OF = operator.attrgetter(*FIELDS)

_EXTRA = ("generates", "drafts", "gamma", "settings")
_POSITIONS = tuple(
    f"{name}_at_{position}"
    for name in ("kept", "examined")
    for position in range(1, MAX_POSITIONS + 1)
)
NAMES = (*FIELDS, *_EXTRA, *_POSITIONS)
_INDEX = {name: index for index, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Requests:
    """Some requests.

    Beside the record's own fields there are `generates` and `drafts` (1 or 0), `gamma` (tokens
    drafted per step at most), `settings` (a number for each combination of decoding settings), and
    for each draft position `kept_at_i` and `examined_at_i`, counts of steps.
    """

    table: Array  # (num_requests, len(NAMES))

    def __getitem__(self, name: str) -> Array:
        """One field, shape (num_requests,)."""
        return self.table[:, _INDEX[name]]

    def __len__(self) -> int:
        return len(self.table)


def requests_of(records: Sequence[Record], numbers: Mapping[Settings | None, int]) -> Requests:
    """Records as columns; settings become their numbers, unknown ones 0."""
    # None becomes NaN.
    fields = np.array([_FIELDS_OF(each) for each in records], dtype=np.float64)
    extra = np.array(
        [
            (
                each.request_type == "generate_until",
                is_speculative(each),
                None if each.settings is None else each.settings.num_speculative_tokens,
                numbers.get(each.settings, 0),
            )
            for each in records
        ],
        dtype=np.float64,
    )
    return Requests(np.concatenate([fields, extra, *_positions(records)], axis=1))


def is_speculative(record: Record) -> bool:
    """Whether a request was decoded with a drafter, even one that had nothing to draft."""
    if record.settings is not None:
        return record.settings.num_speculative_tokens > 0
    return bool(record.num_draft_tokens)


def _positions(records: Sequence[Record]) -> tuple[Array, Array]:
    """Steps that kept, and that examined, each draft position: shape (num_requests, MAX_POSITIONS).

    A step examines what it keeps and the draft after that, if it drafted one. Only a request's
    last step can end before (EOS, a stop, the length), so the number of examined tokens tells
    whether it did. Where these counts don't agree, `examined` stays unknown.
    """
    found = [each.acceptance_histogram or [] for each in records]
    width = 1 + max(map(len, found), default=MAX_POSITIONS)
    histograms = np.array(
        [histogram + [0] * (width - len(histogram)) for histogram in found], dtype=np.float64
    ).reshape(len(records), width)
    # at_least[:, i]: steps that accepted i drafts or more.
    at_least = histograms[:, ::-1].cumsum(1)[:, ::-1]
    kept, reached = at_least[:, 1:], at_least[:, :-1].copy()
    lengths = np.array([len(histogram) - 1 for histogram in found])
    for row in np.flatnonzero(~_are_whole(records, reached, lengths)).tolist():
        _correct(reached[row], records[row])
    beyond = np.arange(1, width) > lengths[:, None]
    places = min(width - 1, MAX_POSITIONS)
    both = []
    for counts in (kept, reached):
        shown = np.full((len(records), MAX_POSITIONS), np.nan)
        shown[:, :places] = np.where(beyond, np.nan, counts)[:, :places]
        both.append(shown)
    return both[0], both[1]


def _are_whole(
    records: Sequence[Record], reached: Array, lengths: NDArray[np.int_]
) -> NDArray[np.bool_]:
    """Which requests drafted as many tokens as they could in every step, and cut none off.

    There, every step that came to a position examined it. Sets `reached` to 0 after the last one.
    """
    reached[np.arange(reached.shape[1]) >= lengths[:, None]] = 0
    steps, drafted, examined = np.array(
        [
            (each.num_spec_steps, each.num_draft_tokens, each.num_examined_draft_tokens)
            for each in records
        ],
        dtype=np.float64,
    ).T
    return (drafted == lengths * steps) & (examined == reached.sum(1)) & (lengths >= 0)


def _correct(reached: Array, record: Record) -> None:
    """Turn steps that came to a position into steps that examined it."""
    histogram, examined = record.acceptance_histogram, record.num_examined_draft_tokens
    accepted, drafted = record.accepted_per_step or [], record.drafted_per_step or []
    are_known = record.num_spec_steps is not None and accepted and len(accepted) == len(drafted)
    if histogram is None or examined is None or not are_known:
        reached[:] = np.nan
        return
    for kept, length in zip(accepted, drafted, strict=True):
        if kept == length < len(histogram) - 1:
            reached[length] -= 1
    if reached.sum() == examined + 1 and accepted[-1] < drafted[-1]:
        reached[accepted[-1]] -= 1
    if reached.sum() != examined or reached.min() < 0:
        reached[:] = np.nan
