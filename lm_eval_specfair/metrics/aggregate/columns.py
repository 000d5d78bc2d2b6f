"""Requests as columns: one array a field, NaN where a request has no such field."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Settings
from lm_eval_specfair.records.record_batch import RecordBatch

MAX_POSITIONS = 16  # draft positions that are distinguished; later ones count in the totals alone

FIELDS = (
    "num_generated_tokens", "num_generated_bytes", "num_covered_tokens", "num_spec_steps",
    "num_draft_tokens", "num_accepted_draft_tokens", "num_examined_draft_tokens", "overlap_sum",
    "kl_sum", "cross_entropy_sum", "target_entropy_sum", "num_distribution_positions",
    "num_infinite_positions", "draft_seconds", "verify_seconds", "decode_seconds",
    "baseline_seconds", "baseline_generated_tokens", "target_nll_sum", "drafter_nll_sum",
    "num_scored_tokens", "num_scored_bytes", "target_reference_probability_sum",
    "drafter_reference_probability_sum", "untruncated_kl_sum", "untruncated_cross_entropy_sum",
    "num_4grams", "num_repeated_4grams", "num_accepted_bytes", "is_right_choice",
    "num_uncertain_tokens", "certain_spec_steps", "certain_accepted_draft_tokens",
    "certain_examined_draft_tokens",
    "first_token_seconds", "num_agreeing_positions", "num_letters", "num_other_script_letters",
)  # fmt: skip
"""The numbers of a record that metrics are made of."""

COSTS = ("modelled_draft", "modelled_verify", "modelled_overhead")
"""c, v and o of a replayed run's steps, in plain steps, where somebody named them."""

_EXTRA = ("generates", "drafts", "gamma", "settings", "truncates", *COSTS)
_POSITIONS = tuple(
    f"{name}_at_{position}"
    for name in ("kept", "examined")
    for position in range(1, MAX_POSITIONS + 1)
)
NAMES = (*FIELDS, *_EXTRA, *_POSITIONS)


class Requests:
    """Some requests.

    Beside the record's own fields there are `generates` and `drafts` (1 or 0), `gamma` (tokens
    drafted per step at most), `settings` (a number for each combination of decoding settings),
    `truncates` (1 where top-k or top-p cuts tokens off), the `COSTS` of a replayed run, and
    for each draft position `kept_at_i` and `examined_at_i`, counts of steps.
    """

    def __init__(
        self, columns: Mapping[str, Array], size: int, chosen: NDArray[np.intp] | None = None
    ) -> None:
        """Those that are `chosen` from columns by name, or all; a missing column is all NaN."""
        self._columns = columns
        self._size = size
        self._chosen = chosen
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """One field, shape (num_requests,)."""
        if name not in self._read:
            values = self._columns.get(name)
            if values is None:
                values = np.full(self._size, np.nan)
            elif self._chosen is not None:
                values = values[self._chosen]
            self._read[name] = values
        return self._read[name]

    def __len__(self) -> int:
        return self._size


def requests_of(
    batch: RecordBatch,
    numbers: Mapping[Settings | None, int],
    costs: Sequence[float] | None = None,
) -> Requests:
    """A batch's columns; settings become their numbers, unknown ones 0.

    `costs` are c, v and o of a replayed run.
    """
    settings, types = batch.settings, batch.request_types
    gammas = [np.nan if one is None else one.num_speculative_tokens for one in settings.values]
    gamma = np.array(gammas, dtype=np.float64)[settings.codes]
    known = np.array([numbers.get(one, 0) for one in settings.values], dtype=np.float64)
    is_generation = np.array([name == "generate_until" for name in types.values])
    extra = (
        is_generation[types.codes],
        # Decoded with a drafter, even one that had nothing to draft.
        np.where(np.isnan(gamma), batch.numbers["num_draft_tokens"], gamma) > 0,
        gamma,
        known[settings.codes],
        np.array([_truncates(one) for one in settings.values])[settings.codes],
        *(np.full(len(batch), cost) for cost in costs or (np.nan,) * len(COSTS)),
    )
    fields = [batch.numbers[name] for name in FIELDS]
    kept, examined = _positions(batch)
    columns = zip(NAMES, (*fields, *extra, *kept.T, *examined.T), strict=True)
    return Requests({name: np.asarray(values, float) for name, values in columns}, len(batch))


def _truncates(settings: Settings | None) -> bool:
    return settings is not None and (settings.top_k is not None or (settings.top_p or 1) < 1)


def _positions(batch: RecordBatch) -> tuple[Array, Array]:
    """Steps that kept, and that examined, each draft position: shape (num_requests, MAX_POSITIONS).

    A step examines what it keeps and the draft after that, if it drafted one. Only a request's
    last step can end before (EOS, a stop, the length), so the number of examined tokens tells
    whether it did. Where these counts don't agree, `examined` stays unknown.
    """
    found = batch.lists["acceptance_histogram"]
    lengths = found.lengths - 1  # most drafts of a step; below 0 where there is no histogram
    width = 1 + max(int(lengths.max(initial=0)), MAX_POSITIONS)
    histograms = np.zeros((len(batch), width))
    histograms[found.rows, found.offsets] = found.values
    # at_least[:, i]: steps that accepted i drafts or more.
    at_least = histograms[:, ::-1].cumsum(1)[:, ::-1]
    kept, reached = at_least[:, 1:], at_least[:, :-1].copy()
    beyond = np.arange(1, width) > lengths[:, None]
    reached[beyond] = 0
    drafted, examined = (
        batch.numbers[name] for name in ("num_draft_tokens", "num_examined_draft_tokens")
    )
    # Where all steps drafted what they could and none was cut off, every step that came to a
    # position examined it.
    is_whole = (
        (drafted == lengths * batch.numbers["num_spec_steps"])
        & (examined == reached.sum(1))
        & (lengths >= 0)
    )
    _correct(reached, batch, ~is_whole)
    kept, reached = (np.where(beyond, np.nan, counts) for counts in (kept, reached))
    return kept[:, :MAX_POSITIONS], reached[:, :MAX_POSITIONS]


def _correct(reached: Array, batch: RecordBatch, chosen: NDArray[np.bool_]) -> None:
    """Turn steps that came to a position into steps that examined it, in the chosen requests."""
    examined = batch.numbers["num_examined_draft_tokens"]
    drafted, accepted = (batch.lists[name] for name in ("drafted_per_step", "accepted_per_step"))
    is_known = (
        chosen
        & (batch.lists["acceptance_histogram"].lengths >= 0)
        & ~np.isnan(examined)
        & ~np.isnan(batch.numbers["num_spec_steps"])
        & (accepted.lengths > 0)
        & (accepted.lengths == drafted.lengths)
    )
    reached[chosen & ~is_known] = np.nan
    rows = np.flatnonzero(is_known)
    if not len(rows):
        return
    # Steps that kept all they drafted, fewer than the most, came to a position without a draft.
    most = batch.lists["acceptance_histogram"].lengths - 1
    of_row = accepted.rows[is_known[accepted.rows]]
    kept, lengths = (one.values[is_known[one.rows]] for one in (accepted, drafted))
    ended = (kept == lengths) & (lengths < most[of_row])
    np.subtract.at(reached, (of_row[ended], lengths[ended]), 1)
    # The last step's rejected draft was not looked at where the text ended before it.
    last_kept, last_drafted = (one.values[one.ends[rows] - 1] for one in (accepted, drafted))
    is_cut = (reached[rows].sum(1) == examined[rows] + 1) & (last_kept < last_drafted)
    is_cut &= last_kept < reached.shape[1]
    reached[rows[is_cut], last_kept[is_cut]] -= 1
    is_wrong = (reached[rows].sum(1) != examined[rows]) | (reached[rows].min(1) < 0)
    reached[rows[is_wrong]] = np.nan
