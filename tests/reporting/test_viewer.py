"""What a page knows of requests: the record's own steps, safe in a page, a stated sample of many.

python -m pytest tests/reporting/test_viewer.py
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.records import read_records
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, write_pieces
from lm_eval_specfair.reporting.viewer import page_data
from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

from support.synthetic_records import generation, write_folder

PUBLISHED = Path(__file__).parents[2] / "results" / "drafters"


def data_of(viewer):
    return json.loads(viewer.content().data)


def embedded_in(page):
    (found,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', page)
    return json.loads(found)


def test_the_pages_numbers_are_the_records(tmp_path):
    viewer = RequestViewer(run_dirs=[PUBLISHED / "embedded"])
    data = data_of(viewer)
    records = {
        record.request_id: record
        for record in read_records(PUBLISHED / "embedded")
        if record.request_type == "generate_until"
    }

    assert viewer.content().sample == "All 300 requests with a generated text."
    assert {request["i"] for request in data["requests"]} == set(records)
    assert len(data["groups"]) == 30
    for request in data["requests"]:
        record, (trace,) = records[request["i"]], request["t"]
        assert (trace["k"], trace["d"]) == (record.accepted_per_step, record.drafted_per_step)
        assert trace["n"] == record.num_generated_tokens
        spans = [cell if isinstance(cell, str) else cell[0] for cell in trace["x"]]
        if record.finish_reason == "length" and "\ufffd" not in record.generated_text:
            assert "".join(spans) == record.generated_text


def test_a_comparison_holds_the_same_request_of_every_run():
    folders = [PUBLISHED / "embedded", PUBLISHED / "embedded-fair"]
    data = data_of(RequestViewer(run_dirs=folders, compares=True))
    other = {record.request_id: record for record in read_records(folders[1])}

    assert data["runs"] == ["embedded", "embedded-fair"]
    for request in data["requests"]:
        assert request["t"][1]["k"] == other[request["i"]].accepted_per_step


@pytest.mark.parametrize("most", [60, 90])
def test_of_many_requests_the_slowest_of_every_group_are_there_and_others_by_chance(most):
    viewer = RequestViewer(run_dirs=[PUBLISHED / "embedded"], most=most)
    data = data_of(viewer)
    records = [r for r in read_records(PUBLISHED / "embedded") if r.request_type[0] == "g"]
    speed = {r.request_id: r.num_generated_tokens / r.num_spec_steps for r in records}
    shown = {request["i"] for request in data["requests"]}

    assert viewer.content().sample.startswith(f"A sample: {most} of 300 requests, of each group")
    assert set(Counter(request["g"] for request in data["requests"]).values()) == {most // 30}
    for language in {record.task for record in records}:
        own = {r.request_id for r in records if r.task == language}
        slowest = sorted(own, key=lambda name: (speed[name], name))
        assert set(slowest[: (most // 30 + 1) // 2]) <= shown
    # Not the slowest only.
    assert shown != {
        name
        for language in {record.task for record in records}
        for name in sorted(
            (r.request_id for r in records if r.task == language), key=speed.__getitem__
        )[: most // 30]
    }


def test_long_texts_take_no_more_room_than_there_is(monkeypatch):
    monkeypatch.setattr(page_data, "MOST_BYTES", 50_000)
    content = RequestViewer(run_dirs=[PUBLISHED / "embedded"]).content()

    assert len(content.data.encode()) <= 55_000  # "<" takes six letters
    assert content.sample.startswith("A sample: ")


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u202e"


def hostile_run(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    tokens = list(range(30))
    record = generation(
        "t", 0, request_id=HOSTILE, group_fields={"language": HOSTILE}, generated_token_ids=tokens,
        generated_text="x" * 90, drafted_per_step=[4] * 10, accepted_per_step=[2] * 10,
        acceptance_histogram=[0, 0, 10, 0, 0], discarded_token_ids=[[40, 41]] * 10,
    )  # fmt: skip
    failed = structs.replace(record, request_id=f"{HOSTILE}2", failure=HOSTILE)
    folder = write_folder(tmp_path, [record, failed])
    pieces = TokenPieces(
        spelled={token: HOSTILE.encode() for token in range(29)}, special={29: HOSTILE}
    )
    write_pieces(folder, pieces)
    return folder


def test_hostile_strings_of_every_field_stay_text(tmp_path, capsys):
    folder = hostile_run(tmp_path)
    assert main(["report", str(folder), "--min-requests", "1", "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")

    scripts = re.findall(r"<script\b[^>]*>", page)
    assert scripts == ['<script type="application/json" id="viewer-data">', "<script>", "<script>"]
    assert "<img" not in page
    (request, _) = embedded_in(page)["requests"]
    assert request["i"] == HOSTILE.replace("\u202e", "\\u202e")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert len(re.findall("sha256-", policy.replace("&#39;", "'"))) == 3
    assert "default-src 'none'" in policy.replace("&#39;", "'")


def test_without_texts_there_is_nothing_of_single_requests(tmp_path, capsys):
    folder = hostile_run(tmp_path)
    options = ["--min-requests", "1", "--no-texts", "--format", "html"]

    assert main(["report", str(folder), *options]) == 0
    assert "viewer" not in capsys.readouterr().out


def test_a_report_that_is_only_printed_reads_no_requests(tmp_path, monkeypatch, capsys):
    def never(self):
        raise AssertionError("a table needs no requests")

    monkeypatch.setattr(RequestViewer, "content", never)

    one, other = (hostile_run(tmp_path / name) for name in ("one", "other"))
    assert main(["report", str(one), "--min-requests", "1"]) == 0
    assert main(["compare", str(one), str(other), "--min-requests", "1"]) == 0


def test_a_served_record_without_ids_shows_its_text_and_counts(tmp_path):
    served = generation(
        "t", 0, generated_text="ж" * 45, drafted_per_step=[4] * 10, accepted_per_step=[2] * 10,
        acceptance_histogram=[0, 0, 10, 0, 0],
    )  # fmt: skip
    (request,) = data_of(RequestViewer(run_dirs=[write_folder(tmp_path, [served])]))["requests"]
    (trace,) = request["t"]

    assert trace["w"] == "ж" * 45
    assert (trace["n"], sum(trace["k"]), sum(trace["d"])) == (30, 20, 40)
    assert trace["r"] is True


def test_runs_without_texts_have_no_viewer(tmp_path):
    from support.synthetic_records import scored

    assert RequestViewer(run_dirs=[write_folder(tmp_path, [scored("t", 0)])]).content() is None
