"""What no record may say: each invariant is broken by hand and by chance, and named."""

import json
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import parse_record, read_records
from lm_eval_specfair.records.invariants import INVARIANTS, broken
from lm_eval_specfair.records.invariants import columns_of as columns_of_batch
from lm_eval_specfair.records.record_batch import NUMBER_FIELDS, RecordBatch
from lm_eval_specfair.records.schema import BOUNDS, LARGEST_COUNT, Record

from support.synthetic_records import PAIRED, generation, scored, write_folder

RESULTS = Path(__file__).parents[2] / "results"
STEPS = {
    "drafted_per_step": [4] * 10,
    "accepted_per_step": [0, 0, 1, 2, 2, 2, 2, 3, 4, 4],
    "num_active_rows_sum": 12,
    "plain_pass_tokens": 30,
    "plain_pass_ties": 10,
    "plain_pass_differing": 11,
    "rejected_token_ids": [40, 41, 42, *[43] * 4, 45],
    "discarded_token_ids": [[40] * 4, [41], [42, 7], *[[43, 44]] * 4, [45], [], []],
    "overlap_per_position": [0.75] * 28,
    "generated_token_ids": list(range(30)),
    "generated_text": "ж" * 45,
    "num_letters": 45,
    "num_other_script_letters": 45,
}
WHOLE = generation("t", 0, **STEPS, **PAIRED)
SCORED = scored(
    "t",
    0,
    target_reference_probability_sum=9.0,
    drafter_reference_probability_sum=5.0,
    num_agreeing_positions=20,
)


def columns_of(records):
    return columns_of_batch(RecordBatch.of(records), records)


# One change for each invariant; what it must name.
IMPOSSIBLE = [
    ({"num_accepted_draft_tokens": 29}, "num_accepted_draft_tokens must be at most num_examined"),
    ({"num_draft_tokens": 12}, "num_accepted_draft_tokens must be at most num_draft_tokens"),
    ({"num_examined_draft_tokens": 50}, "num_examined_draft_tokens must be at most num_draft_to"),
    ({"num_examined_draft_tokens": 31}, "num_examined_draft_tokens must be at most one more than"),
    ({"num_draft_tokens": 41}, "num_draft_tokens must be at most num_speculative_tokens in each"),
    ({"acceptance_histogram": [2, 1, 4, 3]}, "acceptance_histogram must be as long as num_specul"),
    ({"acceptance_histogram": [3, 1, 4, 1, 2]}, "acceptance_histogram must be num_spec_steps st"),
    ({"acceptance_histogram": [3, 0, 4, 1, 2]}, "num_accepted_draft_tokens must be the tokens th"),
    ({"drafted_per_step": [4] * 9}, "drafted_per_step must be one number for each of num_spec"),
    ({"drafted_per_step": [3, *[4] * 9]}, "drafted_per_step must be num_draft_tokens in all, got"),
    ({"drafted_per_step": [3, 5, *[4] * 8]}, "drafted_per_step must be at most num_speculative"),
    ({"accepted_per_step": [1, 1, 2, 2, 2, 2, 2, 4, 4]}, "accepted_per_step must be one number"),
    ({"accepted_per_step": [1, 0, 1, 2, 2, 2, 2, 3, 4, 4]}, "accepted_per_step must be num_acce"),
    ({"accepted_per_step": [0, 0, 1, 1, 2, 2, 2, 3, 4, 5]}, "accepted_per_step must be at most"),
    ({"rejected_token_ids": [40] * 7}, "rejected_token_ids must be one token for each step that m"),
    (
        {"discarded_token_ids": [[]] * 9},
        "discarded_token_ids must be one list for each of num_spec_",
    ),
    ({"discarded_token_ids": [*[[]] * 9, [1]]}, "discarded_token_ids must be at most the drafted"),
    (
        {"discarded_token_ids": [[], [1], *[[]] * 8]},
        "discarded_token_ids must be others than the t",
    ),
    ({"overlap_per_position": [0.7] * 30}, "overlap_per_position must be one number for each of"),
    ({"overlap_per_position": [0.7] * 28}, "overlap_per_position must be overlap_sum in all, up"),
    ({"num_generated_tokens": 31}, "num_generated_tokens must be at most num_spec_steps + num_ac"),
    ({"num_generated_tokens": 28}, "num_generated_tokens must be at least num_spec_steps + num_a"),
    ({"generated_token_ids": [1] * 29}, "num_generated_tokens must be the length of generated_t"),
    ({"num_generated_bytes": 91}, "num_generated_bytes must be the UTF-8 bytes of generated_text"),
    ({"num_generated_chars": 46}, "num_generated_chars must be the characters of generated_text"),
    ({"num_active_rows_sum": 9}, "num_active_rows_sum must be at least num_spec_steps, got 9"),
    ({"num_infinite_positions": 29}, "num_infinite_positions must be at most num_distribution"),
    ({"num_distribution_positions": 29}, "num_distribution_positions must be at most num_exami"),
    ({"overlap_sum": 3.4 * 28}, "overlap_sum must be at most num_distribution_positions, got 95.2"),
    ({"kl_sum": -0.2}, "kl_sum must be 0 or above, up to rounding, got -0.2"),
    ({"draft_seconds": 0.3}, "decode_seconds must be at least draft_seconds + verify_seconds, go"),
    ({"baseline_seconds": 0.0}, "baseline_seconds must be above 0 where the baseline has more"),
    ({"plain_pass_tokens": 31}, "plain_pass_tokens must be at most num_generated_tokens, got 31"),
    ({"plain_pass_ties": 20}, "plain_pass_tokens must be at least plain_pass_ties + plain_pass_d"),
    ({"certain_spec_steps": 11}, "certain_spec_steps must be at most num_spec_steps, got 11"),
    ({"certain_accepted_draft_tokens": 21}, "certain_accepted_draft_tokens must be at most num_"),
    ({"certain_examined_draft_tokens": 29}, "certain_examined_draft_tokens must be at most num_"),
    ({"target_reference_probability_sum": 20.1}, "target_reference_probability_sum must be at m"),
    ({"drafter_reference_probability_sum": 21.0}, "drafter_reference_probability_sum must be at"),
    ({"num_agreeing_positions": 21}, "num_agreeing_positions must be at most num_scored_tokens, g"),
    ({"num_other_script_letters": 46}, "num_other_script_letters must be at most num_letters, got"),
]


def changed(change):
    of_scored = ("reference_probability", "num_agreeing")
    whole = SCORED if any(name in str(change) for name in of_scored) else WHOLE
    return structs.replace(whole, **change)


def test_every_invariant_is_among_those_that_are_broken_by_hand():
    assert not list(broken(columns_of([WHOLE, SCORED])))
    named = {
        f"{each.field} must be {each.expected}"
        for change, _ in IMPOSSIBLE
        for each in INVARIANTS
        if each.broken(columns_of([changed(change)])).any()
    }
    assert named == {f"{each.field} must be {each.expected}" for each in INVARIANTS}


@pytest.mark.parametrize(("change", "complaint"), IMPOSSIBLE)
def test_what_contradicts_is_named_with_file_line_record_field_and_value(
    tmp_path, change, complaint
):
    records = [generation("t", 8), structs.replace(changed(change), request_id="t/1/0")]
    folder = write_folder(tmp_path, records)

    with pytest.raises(ConfigError) as caught:
        list(read_records(folder))

    message = str(caught.value)
    assert message.startswith(f"{folder / 'records.jsonl'}:2: the record of 't/1/0' contradicts")
    assert complaint[:55] in message or any(
        f"{each.field} must be {each.expected}" in message
        for each in INVARIANTS
        if each.broken(columns_of([changed(change)])).any()
    )
    assert ", got " in message
    assert "\n" not in message


@pytest.mark.parametrize("verb", ["report", "policy"])
def test_no_verb_prints_impossible_figures_or_a_traceback(tmp_path, capsys, verb):
    folder = write_folder(tmp_path, [generation("specfair_demo_sw", i) for i in range(8)])
    text = (folder / "records.jsonl").read_text()
    for wrong in (
        text.replace('"num_accepted_draft_tokens": 20', '"num_accepted_draft_tokens": 955612', 1),
        text.replace('"overlap_sum": 21.0', '"overlap_sum": 95.2', 1),
        text.replace('"kl_sum": 14.0', '"kl_sum": 1e308', 1),
        text.replace('"decode_seconds": 0.6', '"decode_seconds": -0.6', 1),
    ):
        assert wrong != text
        (folder / "records.jsonl").write_text(wrong)
        assert main([verb, str(folder)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "records.jsonl:1: " in err
        assert ", got " in err
        assert "'specfair_demo_sw/0/0'" in err


def test_a_failed_request_may_be_cut_off_anywhere(tmp_path):
    record = structs.replace(WHOLE, num_accepted_draft_tokens=99, failure="out of memory")

    assert list(read_records(write_folder(tmp_path, [record]))) == [record]


def test_what_was_not_measured_contradicts_nothing():
    optional = [name for name in Record.__struct_fields__ if name not in ("request_id", "task")]
    for name in optional[3:]:
        left_out = structs.replace(WHOLE, **{name: None})
        if name not in ("doc_id", "num_generated_tokens"):
            assert not list(broken(columns_of([left_out]))), name


@pytest.mark.parametrize("field", sorted(set(BOUNDS) - {"doc_id"}))
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_numbers_out_of_their_bounds_are_refused_and_no_others(field, data):
    least, most = BOUNDS[field]
    is_count = most == float(LARGEST_COUNT)
    beyond = st.one_of(
        st.floats(max_value=math.nextafter(least, -math.inf), allow_infinity=False),
        st.floats(min_value=math.nextafter(most, math.inf), allow_infinity=False),
    )
    wrong, right = data.draw(beyond), data.draw(st.floats(least, most))
    if is_count:
        wrong, right = data.draw(st.integers(max_value=-1)), data.draw(st.integers(0, 2**63 - 1))
    line = json.loads(generation("t", 0).to_json())

    assert getattr(parse_record(json.dumps(line | {field: right})), field) == right
    with pytest.raises(ConfigError, match=rf"{field}`, got .*, in the record of 't/0/0'|integer"):
        parse_record(json.dumps(line | {field: wrong}))


@st.composite
def lawful(draw):
    """What an engine may count: any steps, each with its drafts and those kept."""
    most = draw(st.integers(0, 6))
    drafted = draw(st.lists(st.integers(0, most), min_size=1, max_size=30))
    accepted = [draw(st.integers(0, each)) for each in drafted]
    examined = [a + (a < d) for a, d in zip(accepted, drafted, strict=True)]
    tokens = len(drafted) + sum(accepted) - draw(st.booleans())
    overlaps = draw(
        st.lists(st.floats(0, 1), min_size=sum(examined), max_size=sum(examined)).map(sum)
    )
    return generation(
        "t",
        0,
        settings=structs.replace(WHOLE.settings, num_speculative_tokens=most),
        num_spec_steps=len(drafted),
        num_draft_tokens=sum(drafted),
        num_accepted_draft_tokens=sum(accepted),
        num_examined_draft_tokens=sum(examined),
        num_generated_tokens=tokens,
        acceptance_histogram=np.bincount(accepted, minlength=most + 1).tolist(),
        drafted_per_step=drafted,
        accepted_per_step=accepted,
        num_distribution_positions=sum(examined),
        overlap_sum=overlaps,
    )


@given(lawful())
@settings(max_examples=150, deadline=None)
def test_what_an_engine_counts_contradicts_nothing(record):
    assert not list(broken(columns_of([record])))


@given(lawful(), st.sampled_from(["accepted", "examined", "spec_steps", "tokens"]), st.data())
@settings(max_examples=150, deadline=None)
def test_a_count_that_is_changed_alone_is_noticed(record, part, data):
    field = {
        "accepted": "num_accepted_draft_tokens",
        "examined": "num_examined_draft_tokens",
        "spec_steps": "num_spec_steps",
        "tokens": "num_generated_tokens",
    }[part]
    now = getattr(record, field)
    far = now + data.draw(st.integers(2, 9_999)) * data.draw(st.sampled_from([1, -1]))
    if part == "examined":  # fewer may be examined than were drafted: only more are impossible
        far = record.num_accepted_draft_tokens + record.num_spec_steps + 1 + abs(far)
    wrong = structs.replace(record, **{field: max(far, 0)})

    assert wrong == record or list(broken(columns_of([wrong]))) or abs(max(far, 0) - now) < 2


def test_columns_are_the_fields_of_the_rows():
    columns = columns_of([WHOLE, SCORED])

    for name in NUMBER_FIELDS:
        expected = [getattr(each, name) for each in (WHOLE, SCORED)]
        assert np.array_equal(
            columns[name], np.array(expected, dtype=np.float64), equal_nan=True
        ), name


@pytest.mark.skipif(not RESULTS.exists(), reason="published runs are not in the sdist")
def test_published_runs_contradict_nothing():
    folders = sorted({path.parent for path in RESULTS.rglob("records.jsonl")})

    assert sum(len(list(read_records(folder))) for folder in folders) > 5_000


def test_parquet_is_held_against_the_same(tmp_path, capsys):
    folder = write_folder(tmp_path / "run", [generation("specfair_demo_sw", i) for i in range(8)])
    assert main(["export", str(folder), "-o", str(tmp_path / "columns")]) == 0
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "columns" / "records.parquet"
    table = pq.read_table(path)
    for column, value in (("overlap_sum", 95.2), ("kl_sum", 1e308), ("decode_seconds", -1.0)):
        values = [value, *table[column].to_pylist()[1:]]
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, table.schema.field(place), [values]), path)
        capsys.readouterr()
        assert main(["report", str(path.parent)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "records.parquet:row 0: the record of 'specfair_demo_sw/0/0' contr" in line
        assert f"{column} must be " in line
