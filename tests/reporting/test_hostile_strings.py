"""Strings from outside, through every verb that shows them: terminal, HTML, CSV, Markdown, files.

Task names, model ids, names of groups, reasons of failures and the submitter's own words are all
hostile at once. `test_escape.py` has the properties of each escape by itself.
"""

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from msgspec import structs

from lm_eval_specfair.cli import main

from support.evaluations import contents
from support.pages import Elements
from support.synthetic_records import parallel_run, write_folder

EVIL = (
    "=HYPERLINK('http://x')\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>"
    "<img src=x onerror=alert(1)>|`*_[a](javascript:alert(1))\r\n../../etc/\u202e\u2028\x9b31m"
)
BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def hostile_run(folder, seed=0):
    records = []
    rates = {"sw": 0.4, "fr": 0.7}
    for record in parallel_run(rates, num_documents=8, seed=seed):
        language = record.task.removeprefix("demo_")
        records.append(
            structs.replace(
                record,
                task=f"{EVIL}{language}",
                request_id=f"{EVIL}{record.request_id}",
                group_fields={"language": language, "topic": f"{EVIL}{record.doc_id % 2}"},
            )
        )
    failed = structs.replace(records[0], request_id="failed", doc_id=99, failure=EVIL)
    settings = {"target": EVIL, "drafter": f"{EVIL}{seed}", "num_speculative_tokens": 4}
    return write_folder(
        folder,
        [*records, failed],
        command=["specfair", EVIL],
        settings=settings,
        hardware={"processor": EVIL},
        versions={"python": EVIL},
        git_commit=EVIL,
        tasks={EVIL: {"metadata": {"version": EVIL}, "config": {"task": EVIL}}},
    )


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Two hostile runs, in a folder whose own name is."""
    place = tmp_path / "<script>alert(2)<" / "here"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    hostile_run(Path("run"))
    hostile_run(Path("other"), seed=1)


def assert_terminal_is_told_nothing(text):
    for character in text.replace("\n", "").replace("\t", ""):
        assert unicodedata.category(character) not in {"Cc", "Zl", "Zp"}, ascii(character)
    assert not set(text) & BIDI


def assert_page_is_harmless(page):
    for tag, attributes in Elements(page).found:
        assert tag != "img"
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src"):
            assert "javascript:" not in (attributes.get(name) or "")
    assert "<script>alert" not in page
    assert "Content-Security-Policy" in page


def assert_table_is_harmless(text):
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            bare = cell.lstrip()
            is_number = bare[:1] in "+-" and bare[1:2].isdigit()
            assert is_number or not bare.startswith(("=", "+", "-", "@", "\t", "\r")), cell


def assert_markdown_is_harmless(text):
    assert "<script" not in text
    assert "<img" not in text
    assert "](javascript" not in text


CHECKS = {
    "table": assert_terminal_is_told_nothing,
    "md": assert_markdown_is_harmless,
    "csv": assert_table_is_harmless,
    "html": assert_page_is_harmless,
    "json": json.loads,
}
BY_TOPIC = ("--group-by", "topic")


@pytest.mark.parametrize("form", CHECKS)
@pytest.mark.parametrize(
    "command",
    [
        ["report", "run"],
        ["report", "run", *BY_TOPIC],
        pytest.param(["report", "run", "--group-by", "task"], marks=pytest.mark.slow),
        pytest.param(["compare", "run", "other"], marks=pytest.mark.slow),
        ["compare", "run", "other", *BY_TOPIC, "--gate", "default"],
        ["policy", "run", *BY_TOPIC],
    ],
    ids=" ".join,
)
def test_what_is_printed_does_nothing(command, form, capsys):
    if command[0] == "policy" and form == "html":
        pytest.skip("policy has no page")
    assert main([*command, "--format", form]) in (0, 1)

    shown = capsys.readouterr()
    CHECKS[form](shown.out)
    if form in ("md", "csv"):
        assert_terminal_is_told_nothing(shown.out.replace("\r", ""))
    assert_terminal_is_told_nothing(shown.err)


def test_files_are_written_where_they_were_asked_for_and_nowhere_else(tmp_path):
    before = set(contents(tmp_path))
    assert main(["report", "run", *BY_TOPIC, "-o", "out"]) == 0
    gate = ["--gate", "default", "--junit", "out/gate.xml"]
    assert main(["compare", "run", "other", *BY_TOPIC, *gate]) in (0, 1)
    assert main(["policy", "run", *BY_TOPIC, "-o", "out/policy.json"]) == 0

    new = {Path(name).name for name in set(contents(tmp_path)) - before} - {"out"}
    assert new == {
        *("report.md", "report.json", "report.csv", "report.html", "acceptance.svg"),
        *("gate.xml", "policy.json"),
    }
    assert_page_is_harmless(Path("out/report.html").read_text())
    assert_markdown_is_harmless(Path("out/report.md").read_text())
    assert_table_is_harmless(Path("out/report.csv").read_text())


def test_a_board_of_hostile_entries_runs_nothing(capsys):
    records = Path("run/records.jsonl")  # an entry may hold no failed request
    whole = [
        line
        for line in records.read_text("utf-8").split("\n")
        if line and json.loads(line)["failure"] is None
    ]
    records.write_text("\n".join(whole) + "\n", encoding="utf-8")
    arguments = ["submission", "pack", "run", "--group-by", "topic", "--name"]
    assert main([*arguments, "<script>alert(1)</script>|=1+1", "--submitter", "`<b>`"]) == 0
    Path("entries").mkdir()
    Path("run").rename("entries/<script>")
    assert main(["leaderboard", "entries", "-o", "board"]) == 0

    assert_page_is_harmless(Path("board/leaderboard.html").read_text())
    assert_markdown_is_harmless(Path("board/leaderboard.md").read_text())
    shown = capsys.readouterr()
    assert_terminal_is_told_nothing(shown.err + shown.out)


@pytest.mark.parametrize(
    "command", [["report", EVIL.replace("\0", "")], ["compare", "run", EVIL], ["policy", EVIL]],
    ids=["report", "compare", "policy"],
)  # fmt: skip
def test_a_refusal_of_a_hostile_argument_is_one_line_without_effect(command, capsys):
    assert main(command) == 2

    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert_terminal_is_told_nothing(shown)
