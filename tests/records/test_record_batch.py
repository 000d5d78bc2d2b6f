"""Records as columns: the same from Parquet, from JSON Lines and from the records themselves."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.records import Record, read_batches, read_records
from lm_eval_specfair.records import parquet as files
from lm_eval_specfair.records import reader as lines
from lm_eval_specfair.records.parquet import read_parquet_batches, write_parquet
from lm_eval_specfair.records.record_batch import LIST_FIELDS, NUMBER_FIELDS, RecordBatch

from support.record_values import RECORDS
from support.synthetic_records import generation, scored, write_folder


def told(batch: RecordBatch) -> list[dict[str, object]]:
    """What a batch says of each of its records."""
    categories = {
        name: getattr(batch, name)
        for name in ("tasks", "request_types", "group_fields", "settings")
    }
    lists = {
        name: [part.tolist() for part in np.split(batch.lists[name].values, batch.lists[name].ends)]
        for name in LIST_FIELDS
    }
    return [
        {
            "request_id": batch.request_ids[row],
            "failed": bool(batch.is_failed[row]),
            "doc_id": int(batch.doc_ids[row]),
            **{name: one.values[one.codes[row]] for name, one in categories.items()},
            **{name: batch.numbers[name][row] for name in NUMBER_FIELDS},
            **{
                name: lists[name][row] if batch.lists[name].lengths[row] >= 0 else None
                for name in LIST_FIELDS
            },
        }
        for row in range(len(batch))
    ]


def expected(record: Record) -> dict[str, object]:
    numbers = {name: getattr(record, name) for name in NUMBER_FIELDS}
    return {
        "request_id": record.request_id,
        "failed": record.failure is not None,
        "doc_id": record.doc_id,
        "tasks": record.task,
        "request_types": record.request_type,
        "group_fields": record.group_fields,
        "settings": record.settings,
        **{name: np.nan if value is None else float(value) for name, value in numbers.items()},
        **{name: getattr(record, name) for name in LIST_FIELDS},
    }


def assert_tell(batches: list[RecordBatch], records: list[Record]) -> None:
    found = [one for batch in batches for one in told(batch)]
    assert len(found) == len(records)
    for one, record in zip(found, records, strict=True):
        np.testing.assert_equal(one, expected(record))


@given(RECORDS, st.integers(1, 3))
@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_batch_tells_what_its_records_do(tmp_path, records, at_once):
    path = tmp_path / "x.parquet"
    write_parquet(records, path)

    with mock.patch.object(files, "_COLUMNS_AT_ONCE", at_once):
        assert_tell(list(read_parquet_batches(path)), records)
    if records:
        assert_tell([RecordBatch.of(records)], records)


@given(RECORDS.filter(bool), st.data())
@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_selection_keeps_each_records_own_values(records, data):
    chosen = data.draw(st.lists(st.booleans(), min_size=len(records), max_size=len(records)))
    kept = [record for record, is_chosen in zip(records, chosen, strict=True) if is_chosen]

    assert_tell([RecordBatch.of(records).select(np.array(chosen))], kept)


@pytest.mark.parametrize(
    "fields",
    [
        [{"language": "sw"}, {"language": "fr"}, {"language": "sw"}],
        [{"language": "sw", "domain": "law"}, {"language": "law", "domain": "sw"}, {}],
        [{"language": ["sw", "fr"]}, {"language": "sw"}, {"language": ["fr", "sw"]}],
        [{}, {}, {}],
    ],
)
def test_documents_that_say_the_same_share_a_category(tmp_path, fields):
    records = [generation("t", number, group_fields=one) for number, one in enumerate(fields)]
    path = tmp_path / "x.parquet"
    write_parquet(records, path)
    [batch] = read_parquet_batches(path)

    assert_tell([batch], records)
    assert len(batch.group_fields.values) == len({repr(one) for one in fields})


def test_lines_are_read_in_batches_and_a_cut_one_is_left_out(tmp_path):
    records = [generation("t", number) for number in range(5)] + [scored("u", 0)]
    folder = write_folder(tmp_path / "run", records)
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"request_id": "t/9')

    with mock.patch.object(lines, "_AT_ONCE", 4):
        batches = list(read_batches(folder))
    assert [len(batch) for batch in batches] == [4, 2]
    assert_tell(batches, list(read_records(folder)))
