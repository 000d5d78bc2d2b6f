"""Requests as columns: how often each draft position was examined, against the steps themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair.metrics.aggregate.columns import MAX_POSITIONS, requests_of
from lm_eval_specfair.records import Record
from lm_eval_specfair.records.record_batch import RecordBatch

from support.synthetic_records import generation, scored

GAMMA = 4


@st.composite
def decoded(draw) -> tuple[Record, list[int], list[int]]:
    """A record, and the steps that kept and that examined each of its draft positions."""
    kept_at, examined_at, steps = [0] * MAX_POSITIONS, [0] * MAX_POSITIONS, []
    number = draw(st.integers(1, 6))
    for step in range(number):
        drafted = draw(st.integers(0, GAMMA))
        kept = draw(st.integers(0, drafted))
        # Only the last step can end inside what it kept; the rejected draft is then never met.
        is_cut = step == number - 1 and kept < drafted and draw(st.booleans())
        examined = kept if is_cut or kept == drafted else kept + 1
        steps.append((drafted, kept, examined))
        for position in range(examined):
            kept_at[position] += position < kept
            examined_at[position] += 1
    accepted = [kept for _, kept, _ in steps]
    record = generation(
        "t",
        0,
        num_spec_steps=number,
        num_draft_tokens=sum(drafted for drafted, _, _ in steps),
        num_accepted_draft_tokens=sum(accepted),
        num_examined_draft_tokens=sum(examined for _, _, examined in steps),
        acceptance_histogram=np.bincount(accepted, minlength=GAMMA + 1).tolist(),
        drafted_per_step=[drafted for drafted, _, _ in steps],
        accepted_per_step=accepted,
    )
    return record, kept_at, examined_at


def positions(records: list[Record], name: str) -> np.ndarray:
    requests = requests_of(RecordBatch.of(records), {})
    return np.stack([requests[f"{name}_at_{i}"] for i in range(1, MAX_POSITIONS + 1)], axis=1)


@given(st.lists(decoded(), min_size=1, max_size=5))
def test_positions_are_counted_as_the_steps_examined_them(some):
    # Beside a request without steps, so that lists of different lengths meet.
    records = [scored("t", 9), *(record for record, _, _ in some)]
    kept, examined = (positions(records, name) for name in ("kept", "examined"))

    assert np.isnan(kept[0]).all()
    assert np.isnan(examined[0]).all()
    for row, (_, kept_at, examined_at) in enumerate(some, start=1):
        assert kept[row, :GAMMA].tolist() == kept_at[:GAMMA]
        assert examined[row, :GAMMA].tolist() == examined_at[:GAMMA]
        assert np.isnan(kept[row, GAMMA:]).all()
        assert np.isnan(examined[row, GAMMA:]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"num_examined_draft_tokens": 3},  # neither all that were met nor one fewer
        {"drafted_per_step": None},
        {"accepted_per_step": [2]},
        {"accepted_per_step": None, "drafted_per_step": None},
        {"num_spec_steps": None},
    ],
)
def test_steps_that_do_not_add_up_leave_the_examined_positions_unknown(change):
    whole = {
        "num_spec_steps": 2,
        "num_draft_tokens": 7,
        "num_accepted_draft_tokens": 5,
        "num_examined_draft_tokens": 6,
        "acceptance_histogram": [0, 0, 1, 1, 0],
        "drafted_per_step": [4, 3],
        "accepted_per_step": [2, 3],
    }
    records = [generation("t", 0, **whole), generation("t", 1, **(whole | change))]

    assert positions(records, "examined")[0, :GAMMA].tolist() == [2, 2, 2, 0]
    assert np.isnan(positions(records, "examined")[1]).all()
