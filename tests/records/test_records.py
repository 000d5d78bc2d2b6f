"""The contract between decoding and metrics: what is written is read again, the rest is refused."""

import io
import json
import typing
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import (
    Record,
    RecordWriter,
    Settings,
    parse_record,
    read_records,
    read_run,
    write_run,
    writer,
)
from lm_eval_specfair.records.schema import BOUNDS

from support.synthetic_records import generation, scored, write_folder

_FINITE = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, _FINITE)
st.register_type_strategy(int, st.integers(0, 2**63 - 1))  # counts and ids
_NUMBERS = {
    name: st.none() | st.floats(*bounds)
    for name, bounds in BOUNDS.items()
    if float in typing.get_args(typing.get_type_hints(Record)[name])
}
SETTINGS = st.none() | st.builds(Settings, temperature=st.floats(0, 9), top_p=st.floats(0, 1))
RECORDS = st.builds(
    Record,
    **{name: st.from_type(hint) for name, hint in typing.get_type_hints(Record).items()}
    | _NUMBERS
    | {"settings": SETTINGS, "overlap_per_position": st.none() | st.lists(st.floats(0, 1))},
)


@given(RECORDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_record_survives_its_line(record):
    line = record.to_json()

    assert "\n" not in line
    assert parse_record(line) == record


@pytest.mark.parametrize(
    ("name", "value"),
    [("overlap_sum", 10**400), ("task", "\ud800"), ("group_fields", {"language": "a\udfff"})],
)
def test_what_no_float_or_file_can_hold_is_refused(name, value):
    line = json.dumps(json.loads(generation(task="t", doc_id=0).to_json()) | {name: value})

    with pytest.raises(ConfigError, match=r"^record: "):
        parse_record(line)


@pytest.mark.parametrize(
    ("change", "is_right"),
    [
        ({"kl_sum": 3}, True),
        ({"settings": None}, True),
        ({"num_spec_steps": 1.0}, False),
        ({"num_spec_steps": True}, False),
        ({"num_spec_steps": "1"}, False),
        ({"num_spec_steps": 2**63}, False),
        ({"finish_reason": "other"}, False),
        ({"acceptance_histogram": [1, "a"]}, False),
        ({"group_fields": None}, False),
        ({"settings": {"num_speculative_tokens": 4}}, False),
    ],
)
def test_an_odd_value_is_never_taken_for_another(change, is_right):
    line = json.loads(generation("t", 0).to_json()) | change

    if is_right:
        assert json.loads(parse_record(json.dumps(line)).to_json()) == line
    else:
        with pytest.raises(ConfigError, match=f"at `\\$.{next(iter(change))}"):
            parse_record(json.dumps(line))


def test_records_are_read_in_the_order_they_were_written(tmp_path):
    records = [generation("demo_sw", 1), scored("demo_sw", 1), generation("demo_fr", 0)]
    write_folder(tmp_path, records)

    assert list(read_records(tmp_path)) == records


def test_every_process_has_a_file_and_all_are_read(tmp_path):
    records = {rank: generation("demo_sw", rank) for rank in (0, 2, 10)}
    for rank, record in records.items():
        writer = RecordWriter(tmp_path, rank)
        writer.write(record)
        writer.close()

    assert list(read_records(tmp_path)) == list(records.values())


def test_every_prefix_of_a_file_is_readable(tmp_path):
    # A run may be killed after any byte; the text holds letters of several bytes.
    records = [generation("demo_sw", i, generated_text="ж漢🙂\u2028") for i in range(3)]
    write_folder(tmp_path, records)
    path = tmp_path / "records.jsonl"
    whole = path.read_bytes()

    for length in range(0, len(whole) + 1, 17):
        path.write_bytes(whole[:length])
        expected = records[: whole[:length].count(b"\n")]
        assert list(read_records(tmp_path)) == expected


def test_the_writer_cuts_off_what_a_killed_process_left(tmp_path):
    write_folder(tmp_path, [generation("demo_sw", 0)])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"request_id": "demo_sw/1/')

    writer = RecordWriter(tmp_path)
    writer.write(generation("demo_sw", 2))
    writer.close()
    writer.close()

    assert [record.doc_id for record in read_records(tmp_path)] == [0, 2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokens": 3}, "unknown field `tokens`"),
        ({"doc_id": "7"}, "Expected `int`, got `str` - at `$.doc_id`"),
        ({"doc_id": True}, "Expected `int`, got `bool` - at `$.doc_id`"),
        ({"doc_id": None}, "Expected `int`, got `null` - at `$.doc_id`"),
        ({"doc_id": -1}, "Expected `int` >= 0 - at `$.doc_id`"),
        ({"request_type": "chat"}, "Invalid enum value 'chat' - at `$.request_type`"),
        ({"overlap_sum": "0.5"}, "Expected `float | null`, got `str` - at `$.overlap_sum`"),
        (
            {"overlap_sum": float("nan")},
            "one JSON object per line, in UTF-8: JSON is malformed",
        ),
        ({"acceptance_histogram": [1, 2.5]}, "got `float` - at `$.acceptance_histogram[1]`"),
        ({"group_fields": {"language": 3}}, "got `int` - at `$.group_fields[...]`"),
        (
            {"settings": {"temperature": 0.0}},
            "missing required field `num_speculative_tokens` - at `$.settings`",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(tmp_path, change, expected):
    write_folder(tmp_path, [generation("demo_sw", 0)])
    path = tmp_path / "records.jsonl"
    line = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(path.read_text() + line + "\n")

    with pytest.raises(ConfigError) as caught:
        list(read_records(tmp_path))

    message = str(caught.value)
    assert f"{path}:2: " in message
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["request_id", "task", "group_fields"])
def test_a_missing_field_is_named(field):
    data = json.loads(generation("demo_sw", 0).to_json())
    del data[field]

    with pytest.raises(ConfigError, match=f"missing required field `{field}`"):
        parse_record(json.dumps(data))


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(line):
    with pytest.raises(ConfigError, match=r"^record: (expected one JSON|not a record of schema 1)"):
        parse_record(line)


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b"\xff\n")

    with pytest.raises(ConfigError, match=r"records.jsonl:1: expected .* in UTF-8"):
        list(read_records(tmp_path))


def test_a_run_is_read_as_written(tmp_path):
    write_run(tmp_path, {"command": ["lm_eval"], "name": "日本"})

    assert read_run(tmp_path) == {"schema_version": 1, "command": ["lm_eval"], "name": "日本"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no run.json"),
        ("{", "is not JSON"),
        ("[]", "this version reads schema 1, got None"),
        ('{"schema_version": 99}', "this version reads schema 1, got 99"),
        ('{"schema_version": 1, "settings": "x"}', "expected an object at 'settings', got a str"),
        ('{"schema_version": 1, "totals": [1]}', "expected an object at 'totals', got a list"),
    ],
)
def test_a_run_that_cannot_be_read_says_why(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "run.json").write_text(content)

    with pytest.raises(ConfigError, match=expected):
        read_run(tmp_path)


def test_settings_survive_too():
    chosen = Settings(num_speculative_tokens=2, temperature=0.7, top_k=None, top_p=0.9)

    assert parse_record(generation("demo_sw", 0, settings=chosen).to_json()).settings == chosen


@given(st.binary(max_size=40), st.integers(1, 9))
def test_the_end_of_the_last_line_is_found_from_the_end(content, block):
    with mock.patch.object(writer, "_BLOCK", block):
        assert writer._end_of_lines(io.BytesIO(content)) == content.rfind(b"\n") + 1
