"""Wrong input at the command line: status 2, one line that says what to do, nothing written."""

import functools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import lm_eval.tasks
import lm_eval.utils
import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.records import RECORDS_FILE, RUN_FILE, Record, RecordWriter, write_run

from support.commands import OFFLINE, refused
from support.evaluations import contents, save_pair


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Where a run would write; and the interpreter is put back into its state afterwards."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    # Only to save time: lm-eval reads its own 10,000 task files for each call otherwise.
    few = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", few)
    # lm-eval would give its logger this test's stderr for good.
    monkeypatch.setattr(lm_eval.utils, "_LOGGING_CONFIGURED", True)
    monkeypatch.setattr(logging.getLogger("lm_eval"), "handlers", [])
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def odd_pair(tmp_path_factory):
    """Equally many tokens, but two of them have changed places."""
    tokenizer = byte_tokenizer(["Ġb", "Ġa", "Ġc"])
    return save_pair(tmp_path_factory.mktemp("odd"), llama(0), llama(1), (None, tokenizer))


@pytest.fixture
def finished_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, {"command": ["specfair"], "settings": {"seed": 7}})
    writer = RecordWriter(folder)
    for doc_id in range(3):
        writer.write(
            Record(
                request_id=f"toy/{doc_id}",
                task="toy",
                doc_id=doc_id,
                request_type="loglikelihood",
                group_fields={"language": "en"},
                num_prompt_tokens=3,
            )
        )
    writer.close()
    return folder


def run_arguments(
    pair: Path, *more: str, task: str = "specfair_demo_en", **model_args
) -> list[str]:
    given = {"pretrained": str(pair / "target"), "drafter": str(pair / "drafter")} | model_args
    given = {name: value for name, value in given.items() if value is not None}
    return [
        *("run", "--tasks", task, "--limit", "1", "--device", "cpu"),
        *("--model_args", json.dumps(given), *more),
    ]


def assert_refused(arguments, capsys, *watched: Path) -> str:
    """Status 2, one line, and all files as they were."""
    before = [contents(folder) for folder in (Path(), *watched)]

    assert main(arguments) == 2

    assert [contents(folder) for folder in (Path(), *watched)] == before
    return refused(capsys)


@pytest.mark.parametrize(
    ("model_args", "complaint"),
    [
        (
            {"pretrained": "no/such/folder", "drafter": "none"},
            "cannot load target 'no/such/folder'",
        ),
        ({"drafter": "no/such/folder"}, "drafter 'no/such/folder'"),
        ({"drafter": None}, "a drafter is required"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens must be"),
        ({"num_speculative_tokens": "x"}, "num_speculative_tokens must be"),
        ({"num_speculative_token": 2}, "did you mean num_speculative_tokens?"),
        ({"baseline": "most"}, "baseline must be"),
        ({"backend": "tpu"}, "backend must be hf"),
        ({"resume": "perhaps"}, "resume must be true or false"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_a_wrong_model_argument(pair_folder, capsys, model_args, complaint):
    arguments = run_arguments(pair_folder, **model_args)

    assert complaint in assert_refused(arguments, capsys, pair_folder)


def test_a_drafter_with_another_tokenizer(odd_pair, capsys):
    message = assert_refused(run_arguments(odd_pair), capsys, odd_pair)

    assert "has another tokenizer" in message


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("temperature=-1", "temperature must be 0 (greedy) or a positive number, got -1"),
        ("do_sample=true,temperature=-1", "temperature must be"),
        ("do_sample=true,temperature=hot", "temperature must be a number"),
        ("num_beams=4", "num_beams=4 has no lossless counterpart"),
        ("do_sample=true,top_p=2", "top_p must lie in (0, 1]"),
        ("max_gen_toks=0", "max_gen_toks must be at least 1"),
        ("max_gen_toks=256", "leaves no room for the prompt"),
    ],
)
def test_a_wrong_generation_setting(pair_folder, capsys, settings, complaint):
    for where in ({}, {"records_dir": "records"}):
        arguments = run_arguments(pair_folder, "--gen_kwargs", settings, **where)

        assert complaint in assert_refused(arguments, capsys)


def test_an_unknown_task(pair_folder, capsys):
    message = assert_refused(run_arguments(pair_folder, task="specfair_dmo"), capsys)

    assert "specfair_dmo" in message


def test_a_folder_that_holds_a_run_already(pair_folder, finished_run, capsys):
    arguments = run_arguments(pair_folder, records_dir=str(finished_run))

    message = assert_refused(arguments, capsys)

    assert "already holds a run" in message
    assert "resume=true" in message


def test_resuming_a_run_of_other_settings(pair_folder, finished_run, capsys):
    arguments = run_arguments(pair_folder, records_dir=str(finished_run), resume=True)

    assert "seed was 7, is 0" in assert_refused(arguments, capsys)


def test_resuming_where_a_whole_line_is_broken(pair_folder, finished_run, capsys):
    write_run(finished_run, {"settings": {}})
    with (finished_run / RECORDS_FILE).open("a") as file:
        file.write("{broken}\n")
    arguments = run_arguments(pair_folder, records_dir=str(finished_run), resume=True)

    assert_refused(arguments, capsys)


def test_a_records_folder_that_cannot_be_made(pair_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = run_arguments(pair_folder, records_dir="file/records")

    assert "records_dir file/records cannot be used" in assert_refused(arguments, capsys)


def break_line(folder: Path) -> str:
    with (folder / RECORDS_FILE).open("a") as file:
        file.write('{"request_id": "a whole line, but no record"}\n')
    return f"{RECORDS_FILE}:4"


def break_bytes(folder: Path) -> str:
    with (folder / RECORDS_FILE).open("ab") as file:
        file.write(b"\xff\xfe\n")
    return f"{RECORDS_FILE}:4"


def break_run(folder: Path) -> str:
    (folder / RUN_FILE).write_text("{")
    return RUN_FILE


def break_version(folder: Path) -> str:
    (folder / RUN_FILE).write_text('{"schema_version": 99}')
    return "schema 1, got 99"


def lose_run(folder: Path) -> str:
    (folder / RUN_FILE).unlink()
    return f"holds no {RUN_FILE}"


def lose_records(folder: Path) -> str:
    (folder / RECORDS_FILE).unlink()
    return str(folder)


def hide_records(folder: Path) -> str:
    # As unreadable as a file without permission, for the superuser too.
    (folder / RECORDS_FILE).unlink()
    (folder / RECORDS_FILE).mkdir()
    return f"cannot read {folder / RECORDS_FILE}"


@pytest.mark.parametrize(
    "spoil",
    [
        *(break_line, break_bytes, break_run, break_version),
        *(lose_run, lose_records, hide_records),
    ],
)
def test_a_report_of_a_broken_run(finished_run, capsys, spoil):
    complaint = spoil(finished_run)

    message = assert_refused(["report", str(finished_run), "-o", "report"], capsys)

    assert complaint in message


def test_a_report_of_no_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in ("missing", "file", "."):
        assert_refused(["report", path], capsys)


@pytest.mark.slow
def test_a_real_process_ends_with_status_2_and_one_line(pair_folder, tmp_path):
    arguments = run_arguments(pair_folder, "--gen_kwargs", "temperature=-1")

    done = subprocess.run(
        [sys.executable, "-m", "lm_eval_specfair", *arguments],
        env=OFFLINE | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    ours = [line for line in done.stderr.splitlines() if line.startswith("specfair: error: ")]
    assert len(ours) == 1
    assert "temperature" in ours[0]
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == {}
