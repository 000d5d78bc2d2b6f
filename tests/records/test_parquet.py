"""Records as Parquet: the same records come back, whoever wrote them; the rest is refused."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from pyarrow import parquet

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.records import (
    TEXTS,
    Record,
    RecordWriter,
    Settings,
    export_run,
    read_records,
    record_files,
)
from lm_eval_specfair.records import parquet as files
from lm_eval_specfair.records.parquet import read_parquet, read_parquet_batches, write_parquet

from support.record_values import LARGEST, RECORDS
from support.synthetic_records import generation, many_languages, parallel_run, scored, write_folder


def lines(records) -> list[str]:
    # Unlike ==, text tells 1 from 1.0 and True, 0.0 from -0.0, and the order of fields.
    return [record.to_json() for record in records]


READERS = pytest.mark.parametrize("read", [read_parquet, read_parquet_batches])


def written(folder: Path, records) -> Path:
    path = folder / "records.parquet"
    write_parquet(records, path)
    return path


def rewritten(folder: Path, **columns) -> Path:
    """Two records, some of their columns exchanged for others (None: left out)."""
    path = written(folder, [generation("t", 0), generation("t", 1)])
    table = parquet.read_table(path)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            table = table.remove_column(place)
        if column is not None:
            table = table.append_column(name, column)
    parquet.write_table(table, path)
    return path


# ------------------------------------------------------------------ what comes back


@given(RECORDS, st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
def test_records_survive_whatever_parts_they_are_written_and_read_in(
    tmp_path, records, rows, at_once
):
    parts = {"_WRITE_AT_ONCE": at_once, "_GROUP_ROWS": rows, "_READ_AT_ONCE": at_once}
    with mock.patch.multiple(files, **parts):
        assert write_parquet(records, tmp_path / "x.parquet") == len(records)
        found = list(read_parquet(tmp_path / "x.parquet"))

    assert found == records
    assert lines(found) == lines(records)


@pytest.mark.parametrize(
    "change",
    [
        {"num_spec_steps": LARGEST, "num_prompt_tokens": 0},
        {"acceptance_histogram": [], "generated_token_ids": [LARGEST]},
        {"group_fields": {"language": [], "": "x", "ж": ["a", ""]}},
        {"generated_text": "ж漢🙂\u2028\x00\n", "failure": ""},
        {"overlap_sum": -0.0, "kl_sum": 5e-324, "cross_entropy_sum": 1.7976931348623157e308},
        {"settings": None, "baseline_agrees": False, "is_greedy": True},
    ],
)
def test_edges_survive(tmp_path, change):
    # Beside a record that has nothing in these fields, so that nulls lie between.
    records = [scored("t", 0), structs.replace(generation("t", 1), **change), scored("t", 2)]

    assert lines(read_parquet(written(tmp_path, records))) == lines(records)


def test_columns_have_the_types_that_the_schema_declares(tmp_path):
    schema = parquet.read_schema(written(tmp_path, many_languages(num_documents=1)))

    assert schema.field("doc_id") == pa.field("doc_id", pa.int64(), nullable=False)
    assert schema.field("kl_sum").type == pa.float64()
    assert schema.field("baseline_agrees").type == pa.bool_()
    assert schema.field("accepted_per_step").type == pa.list_(pa.int64())
    assert schema.field("settings").type.field("top_k").type == pa.int64()
    assert schema.names == [field.name for field in structs.fields(Record)]
    compressions = parquet.ParquetFile(tmp_path / "records.parquet").metadata.row_group(0)
    assert compressions.column(0).compression == "ZSTD"


def test_a_row_group_ends_before_long_texts_fill_the_memory(tmp_path):
    records = [generation("t", i, generated_text="x" * 1000) for i in range(50)]
    with mock.patch.object(files, "_GROUP_BYTES", 10_000):
        path = written(tmp_path, records)

    assert parquet.ParquetFile(path).metadata.num_row_groups >= 4
    assert list(read_parquet(path)) == records


def test_files_older_than_a_setting_have_its_default(tmp_path):
    settings = Settings(num_speculative_tokens=4, temperature=0.7, top_k=3, top_p=None)
    table = parquet.read_table(
        written(
            tmp_path, [generation("t", 0, settings=settings), generation("t", 1, settings=None)]
        )
    )
    place = table.schema.get_field_index("settings")
    column = table.column(place).combine_chunks()
    names = ["num_speculative_tokens", "temperature", "top_k", "top_p"]
    older = pa.StructArray.from_arrays(
        [column.field(name) for name in names], names=names, mask=column.is_null()
    )
    parquet.write_table(table.set_column(place, "settings", older), tmp_path / "older.parquet")

    with_none = pa.concat_tables([parquet.read_table(tmp_path / "older.parquet")] * 3)
    parquet.write_table(with_none, tmp_path / "older.parquet")

    records = list(read_parquet(tmp_path / "older.parquet"))
    assert [record.settings for record in records] == [settings, None] * 3
    assert records[0].settings.verification == "token"
    batch = next(iter(read_parquet_batches(tmp_path / "older.parquet")))
    assert batch.settings.values == [settings, None]


def test_what_other_programs_write_for_the_same_is_read(tmp_path):
    path = rewritten(
        tmp_path,
        doc_id=pa.array([0, 1], pa.uint8()),
        overlap_sum=pa.array([0.5, 1.5], pa.float32()),
        kl_sum=pa.array([1, 2], pa.int32()),
        task=pa.array(["t", "t"]).dictionary_encode(),
        generated_text=pa.array(["a", None], pa.large_string()),
        acceptance_histogram=pa.array([[1], None], pa.large_list(pa.int16())),
        failure=pa.nulls(2),
        num_scored_bytes=None,
    )
    changes = [
        {"overlap_sum": 0.5, "kl_sum": 1.0, "generated_text": "a", "acceptance_histogram": [1]},
        {"overlap_sum": 1.5, "kl_sum": 2.0, "generated_text": None, "acceptance_histogram": None},
    ]

    expected = [structs.replace(generation("t", i), **change) for i, change in enumerate(changes)]
    assert lines(read_parquet(path)) == lines(expected)


# ------------------------------------------------------------------ what is refused


@READERS
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"task": None}, "missing columns ['task']"),
        ({"tokens": pa.array([1, 2])}, "unknown columns ['tokens']"),
        ({"doc_id": pa.array(["0", "1"])}, "column doc_id must be int64, got string"),
        ({"doc_id": pa.array([0.0, 1.0])}, "column doc_id must be int64, got double"),
        ({"doc_id": pa.nulls(2)}, "column doc_id must be int64, got null"),
        ({"num_spec_steps": pa.array([True, False])}, "must be int64, got bool"),
        ({"num_spec_steps": pa.array([0, 2**64 - 1], pa.uint64())}, "num_spec_steps must be int"),
        ({"accepted_per_step": pa.array([1, 2])}, "must be list<item: int64>, got int64"),
        ({"group_fields": pa.array(["en", "de"])}, "column group_fields must be map<"),
        ({"settings": pa.array([{"top_k": 1}, None])}, "column settings must be struct<"),
        ({"doc_id": pa.array([0, -1])}, "row 1: doc_id must be int, 0 or above, got -1"),
        ({"accepted_per_step": pa.array([[1], [2, -1]])}, "row 1: accepted_per_step must be"),
        ({"doc_id": pa.array([0, None])}, "row 1: doc_id must be int, 0 or above, got None"),
        ({"kl_sum": pa.array([None, float("nan")])}, "row 1: kl_sum must be float | None, got nan"),
        ({"request_type": pa.array(["chat", "chat"])}, "row 0: request_type must be Literal["),
        ({"accepted_per_step": pa.array([[1], [2, None]])}, "row 1: accepted_per_step must be"),
        (
            {
                "group_fields": pa.array(
                    [[("a", {"text": "x"})], [("a", {"text": "x", "texts": ["y"]})]],
                    pa.map_(
                        pa.string(),
                        pa.struct([("text", pa.string()), ("texts", pa.list_(pa.string()))]),
                    ),
                )
            },
            "row 1: group_fields must be dict[str, str | list[str]]",
        ),
        (
            {
                "failure": pa.Array.from_buffers(
                    pa.string(), 2, pa.array([b"\xff", b"a"], pa.binary()).buffers()
                )
            },
            "failure must be str | None: ",
        ),
    ],
)
def test_columns_that_no_record_has_are_named_with_file_and_row(tmp_path, columns, expected, read):
    path = rewritten(tmp_path, **columns)

    with pytest.raises(ConfigError) as caught:
        list(read(path))

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


@READERS
def test_rows_are_counted_over_all_parts(tmp_path, read):
    path = rewritten(tmp_path, request_type=pa.array(["generate_until", "chat"]))
    parts = {"_READ_AT_ONCE": 1, "_COLUMNS_AT_ONCE": 1}

    with mock.patch.multiple(files, **parts), pytest.raises(ConfigError, match="row 1:"):
        list(read(path))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = written(tmp_path, [generation("t", 0)])
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("task", table["task"]), path)

    with pytest.raises(ConfigError, match=r"twice \['task'\]"):
        list(read_parquet(path))


def test_a_file_of_another_schema_version_is_refused(tmp_path):
    path = written(tmp_path, [generation("t", 0)])
    table = parquet.read_table(path)
    metadata = {b"specfair_schema_version": b"99"}
    parquet.write_table(table.replace_schema_metadata(metadata), path)

    with pytest.raises(ConfigError, match="this version reads schema 1, got b'99'"):
        list(read_parquet(path))


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    path = written(tmp_path, many_languages(num_documents=1))
    whole = path.read_bytes()

    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="expected a Parquet file of records") as caught:
            list(read_parquet(path))
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_data_is_found_out(tmp_path):
    records = many_languages(num_documents=2)
    path = written(tmp_path, records)
    group = parquet.ParquetFile(path).metadata.row_group(0)
    [column] = [
        each
        for each in map(group.column, range(group.num_columns))
        if each.path_in_schema == "kl_sum"
    ]
    whole = bytearray(path.read_bytes())
    # In the column's data: without a checksum, another number would be read.
    whole[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    path.write_bytes(whole)

    with pytest.raises(ConfigError, match="cannot read it"):
        list(read_parquet(path))


def test_a_number_of_more_than_64_bits_is_named(tmp_path):
    records = [generation("t", 0), structs.replace(generation("t", 1), num_spec_steps=2**63)]

    with pytest.raises(ConfigError, match=r"'t/1/0': num_spec_steps must fit into 64 bits"):
        written(tmp_path, records)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ from the command line


@pytest.fixture
def run_dir(tmp_path):
    records = parallel_run({"en": 0.8, "sw": 0.4}, num_documents=6)
    return write_folder(tmp_path / "run", records, settings={"seed": 0})


def exported(run_dir: Path, *options: str) -> Path:
    target = run_dir.with_name("exported")
    assert main(["export", str(run_dir), "-o", str(target), *options]) == 0
    return target


def printed(capsys, *arguments: object) -> str:
    status = main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    assert status == 0, found.err
    return found.out


def refused(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("specfair: error: ")
    assert err.count("\n") == 1
    return str(err)


def test_a_run_goes_to_parquet_and_back_without_a_changed_byte(run_dir, tmp_path, capsys):
    columns = exported(run_dir)

    assert sorted(path.name for path in columns.iterdir()) == ["records.parquet", "run.json"]
    assert main(["export", str(columns), "-o", str(tmp_path / "again"), "--format", "jsonl"]) == 0
    assert "wrote" in capsys.readouterr().err
    for name in ("records.jsonl", "run.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run_dir / name).read_bytes()


def test_csv_is_one_file_with_a_row_for_each_record(run_dir, tmp_path):
    target = tmp_path / "all.csv"
    assert main(["export", str(run_dir), "-o", str(target)]) == 0
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = list(read_records(run_dir))

    assert [row["request_id"] for row in rows] == [record.request_id for record in records]
    for row, record in zip(rows, records, strict=True):
        assert row["num_spec_steps"] == str(
            "" if record.num_spec_steps is None else record.num_spec_steps
        )
        assert json.loads(row["acceptance_histogram"] or "null") == record.acceptance_histogram
        assert float(row["kl_sum"] or 0) == (record.kl_sum or 0)


@pytest.mark.parametrize("name", ["all.parquet", "all.jsonl", "all.csv"])
def test_no_file_is_written_over_without_being_told_to(run_dir, tmp_path, capsys, name):
    target = tmp_path / name
    target.write_text("mine")

    assert "--force writes over it" in refused(capsys, "export", run_dir, "-o", target)
    assert target.read_text() == "mine"
    assert main(["export", str(run_dir), "-o", str(target), "--force"]) == 0
    assert target.read_bytes()[:4] != b"mine"


@pytest.mark.parametrize("name", ["all.xlsx", "all.json", "all.tsv"])
def test_a_file_of_another_kind_does_not_become_a_folder(run_dir, tmp_path, capsys, name):
    assert "ends in .jsonl, .parquet, .csv" in refused(
        capsys, "export", run_dir, "-o", tmp_path / name
    )
    assert not (tmp_path / name).exists()
    assert "one file" in refused(capsys, "export", run_dir, "-o", tmp_path / "x", "--format", "csv")


@pytest.mark.parametrize("name", ["all.parquet", "deep/all.jsonl"])
def test_one_file_is_written_where_the_name_says_which(run_dir, tmp_path, name):
    target = tmp_path / name

    assert main(["export", str(run_dir), "-o", str(target)]) == 0
    assert [path.name for path in target.parent.glob("*all*")] == [target.name]
    records = list(read_records(run_dir))
    if target.suffix == ".parquet":
        assert list(read_parquet(target)) == records
    else:
        assert target.read_bytes() == (run_dir / "records.jsonl").read_bytes()


@pytest.mark.parametrize("verb", ["report", "policy"])
def test_every_reader_of_records_reads_both_forms(run_dir, capsys, verb):
    columns = exported(run_dir)

    ours, theirs = (
        json.loads(printed(capsys, verb, folder, "--format", "json"))
        for folder in (run_dir, columns)
    )
    assert ours["groups"]["en"] == theirs["groups"]["en"]
    names = {"run", "runs", "notes", "unchecked"}  # which name the folder
    assert all(ours[part] == theirs[part] for part in ours.keys() - names)


def test_a_run_compared_with_its_export_has_not_changed(run_dir, capsys):
    columns = exported(run_dir)

    found = json.loads(printed(capsys, "compare", run_dir, columns, "--format", "json"))
    figures = found["candidates"]["exported"]["groups"]["en"]
    assert {each["difference"]["value"] for each in figures.values() if each} == {0.0}


def test_an_entry_of_the_board_may_hold_parquet(run_dir, capsys):
    columns = exported(run_dir)

    assert main(["submission", "pack", str(columns), "--name", "x"]) == 0
    assert main(["submission", "validate", str(columns)]) == 0
    [file] = json.loads((columns / "submission.json").read_text())["records"]
    assert file["name"] == "records.parquet"


def test_several_files_are_read_in_the_order_of_processes(tmp_path):
    records = {rank: generation("demo_sw", rank) for rank in (0, 2, 10)}
    for rank, record in records.items():
        name = "records.parquet" if rank == 0 else f"records.rank{rank}.parquet"
        write_parquet([record], tmp_path / name)

    assert list(read_records(tmp_path)) == list(records.values())


def test_a_shared_runs_files_become_one(tmp_path):
    for rank in (0, 1):
        writer = RecordWriter(tmp_path, rank)
        writer.write(generation("demo_sw", rank))
        writer.close()
    (tmp_path / "run.json").write_text('{"schema_version": 1}')

    export_run(tmp_path, tmp_path / "out", watch=iter)

    assert [path.name for path in record_files(tmp_path / "out")] == ["records.parquet"]
    assert [each.doc_id for each in read_records(tmp_path / "out")] == [0, 1]


def test_a_folder_with_both_forms_is_refused(run_dir, capsys):
    write_parquet(read_records(run_dir), run_dir / "records.parquet")

    said = refused(capsys, "report", run_dir)
    assert "holds records.jsonl and records.parquet: expected records in one form" in said


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        ("run/records.parquet", [], "would be read as a part of the run"),
        ("run", [], "already holds a run"),
        ("new.parquet", ["--format", "jsonl"], "names one format, --format another"),
        ("run/run.json/new", [], "cannot write"),
        ("run/run.json/new.parquet", [], "cannot write"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(run_dir, capsys, output, options, expected):
    before = sorted(run_dir.iterdir())
    target = run_dir.parent / output

    assert expected in refused(capsys, "export", run_dir, "-o", target, *options)
    assert sorted(run_dir.iterdir()) == before


def test_a_folder_without_a_run_is_not_exported(tmp_path, capsys):
    said = refused(capsys, "export", tmp_path / "x", "-o", tmp_path / "y")
    assert "holds no run.json" in said
    write_folder(tmp_path / "empty", [])
    (tmp_path / "empty" / "records.jsonl").unlink()
    said = refused(capsys, "export", tmp_path / "empty", "-o", tmp_path / "y")
    assert "no records in" in said


def test_what_is_no_parquet_is_refused_in_one_line(run_dir, capsys):
    columns = exported(run_dir)
    capsys.readouterr()
    (columns / "records.parquet").write_text('{"request_id": "x"}\n')

    said = refused(capsys, "report", columns)
    assert "records.parquet: expected a Parquet file of records, cannot read it" in said


def test_parquet_is_not_appended_to(run_dir):
    columns = exported(run_dir)
    run = {"settings": {"seed": 0}, "hardware": {}}

    with pytest.raises(ConfigError, match=r"can't be appended to.*specfair export"):
        RunFolder(columns, name="x", resume=True, run=run)


def test_a_table_from_json_lines_loads_neither_pyarrow_nor_matplotlib(run_dir):
    code = (
        "import sys; from lm_eval_specfair.cli import main;"
        f"main(['report', {str(run_dir)!r}]);"
        "heavy = {'pyarrow', 'torch', 'lm_eval', 'datasets', 'matplotlib', 'jinja2'};"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )

    assert done.stderr.strip() == "set()"


def test_fields_that_are_not_needed_are_not_read(tmp_path):
    records = many_languages(num_documents=1)
    whole = [structs.replace(each, generated_text="x", generated_token_ids=[1]) for each in records]
    written(tmp_path, whole)

    found = list(read_records(tmp_path, without=TEXTS))

    assert lines(found) == lines(records)
    assert all(each.generated_text is each.generated_token_ids is None for each in found)
