"""Traces: fates and counts are the record's steps, and no character is ever cut.

python -m pytest tests/reporting/test_trace.py
"""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.records.texts.token_pieces import (
    TokenPieces,
    pieces_of_vocabulary,
    read_pieces,
    write_pieces,
)
from lm_eval_specfair.reporting.viewer.piece_source import pieces_of_run
from lm_eval_specfair.reporting.viewer.request_trace import Fate, trace_of
from lm_eval_specfair.reporting.viewer.token_cells import cells_of
from lm_eval_specfair.reporting.viewer.trace_text import ShownTrace

from support.synthetic_records import generation
from support.traces import assert_is_the_record

PUBLISHED = Path(__file__).parents[2] / "results" / "drafters" / "embedded"
OLDER = Path(__file__).parents[2] / "results" / "demo_batch_1"


def as_bytes(text):
    """One token a byte: the vocabulary that cuts most characters."""
    return list(text.encode()), TokenPieces(spelled={byte: bytes([byte]) for byte in range(256)})


def traced(tokens, accepted, drafted, rejected=None, **fields):
    record = generation(
        "t", 0, num_generated_tokens=len(tokens), num_spec_steps=len(accepted),
        num_draft_tokens=sum(drafted), num_accepted_draft_tokens=sum(accepted),
        drafted_per_step=drafted, accepted_per_step=accepted, discarded_token_ids=rejected,
        generated_token_ids=tokens, overlap_sum=None, num_distribution_positions=None, **fields,
    )  # fmt: skip
    return trace_of(record)


# ------------------------------------------------------------------ fates


def test_a_published_runs_traces_are_its_records_though_it_does_not_tell_what_it_rejected():
    generated = [r for r in read_records(OLDER) if r.request_type == "generate_until"]

    for record in generated:
        trace = trace_of(record)
        assert record.discarded_token_ids is None
        assert_is_the_record(trace)
        assert not any(step.thrown_away for step in trace.steps)
    assert len(generated) > 200


def test_fates_by_hand():
    # Drafts of 3 of which 1 is kept, of 2 that are all kept, none, and one that ends the text.
    trace = traced([1, 2, 3, 4, 5, 6, 7], [1, 2, 0, 1], [3, 2, 0, 3], [[8, 9], [], [], [10, 11]])

    assert [fate.value for fate in trace.fates] == [
        "kept", "replaced", "kept", "kept", "bonus", "undrafted", "kept",
    ]  # fmt: skip
    assert trace.counts() == {
        "kept": 4, "replaced": 1, "bonus": 1, "undrafted": 1, "thrown_away": 4,
    }  # fmt: skip
    assert trace.steps[-1].own is None
    assert [step.begin for step in trace.steps] == [0, 2, 5, 6]


def test_overlaps_are_at_the_tokens_that_were_examined():
    trace = traced([1, 2, 3, 4, 5], [1, 2], [3, 2], [[8, 9], []])
    record = structs.replace(
        trace.record,
        overlap_per_position=[0.1, 0.2, 0.3, 0.4],
        num_distribution_positions=4,
    )

    assert trace_of(record).overlaps == [0.1, 0.2, 0.3, 0.4, None]
    # Where some positions were not measured, nobody says which.
    assert set(trace_of(structs.replace(record, overlap_per_position=[0.1, 0.2])).overlaps) == {
        None
    }


def test_a_record_without_ids_or_steps_has_a_trace_too():
    served = structs.replace(generation("t", 0), generated_text="whole", accepted_per_step=None)
    bare = ShownTrace(trace_of(served), TokenPieces()).render()
    tokens = structs.replace(served, generated_token_ids=[1, 2] * 15)

    assert "whole" in bare
    assert set(trace_of(tokens).fates) == {Fate.UNKNOWN}


# ------------------------------------------------------------------ characters


def clusters_of(text):
    """What a reader sees as one character; what a virama joins is one, too."""
    found = []
    for cluster in regex.findall(r"\X", text):
        if found and unicodedata.combining(found[-1][-1]) == 9 and cluster[0].isalpha():
            found[-1] += cluster
        else:
            found.append(cluster)
    return found


SCRIPTS = [
    "कक्षा में क्षों",
    "ភាសាខ្មែរ ទិន្នន័យ",
    "ภาษาไทยต์ที่",
    "العَرَبِيَّة",
    "日本語のユーザー",
    "👩‍👩‍👧‍👦🇺🇦é",
]


@given(st.sampled_from(SCRIPTS) | st.text(), st.integers(1, 5))
def test_no_character_is_cut_and_none_is_lost(text, size):
    data = text.encode("utf-8", "surrogatepass")
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    cells = cells_of(range(len(parts)), TokenPieces(spelled=dict(enumerate(parts))))

    assert "".join(cell.text for cell in cells if cell.is_text) == data.decode("utf-8", "ignore")
    assert {n for cell in cells for n in range(cell.first, cell.last + 1)} == set(range(len(parts)))
    if all(cell.is_text for cell in cells):
        ends = set()
        place = 0
        for cluster in clusters_of(text):
            place += len(cluster)
            ends.add(place)
        place = 0
        for cell in cells:
            place += len(cell.text)
            assert place in ends


def test_a_character_of_several_tokens_names_them_all():
    tokens, pieces = as_bytes("aक्षb")
    cells = cells_of(tokens, pieces)

    assert [(cell.text, cell.first, cell.last) for cell in cells] == [
        ("a", 0, 0), ("क्ष", 1, 9), ("b", 10, 10),
    ]  # fmt: skip


def test_stray_bytes_unknown_ids_and_special_tokens_are_named():
    pieces = TokenPieces(spelled={0: b"a\xe2\x82", 1: b"b"}, special={2: "</s>"})
    cells = cells_of([0, 1, 7, 2], pieces)

    assert [(cell.text, cell.is_text) for cell in cells] == [
        ("a", True), ("\\xe2\\x82", False), ("b", True), ("#7", False), ("</s>", False),
    ]  # fmt: skip


def test_what_was_thrown_away_is_read_with_the_character_that_it_would_have_ended():
    tokens, pieces = as_bytes("ก!")
    *start, last, mark = tokens
    trace = traced([*start, mark], [2, 0], [3, 0], [[last], []])

    assert ShownTrace(trace, pieces).thrown_away(trace.steps[0]) == "ก"


# ------------------------------------------------------------------ the terminal


def test_marks_tell_the_same_as_colours():
    pieces = TokenPieces(spelled={n: bytes([96 + n]) for n in range(1, 20)})
    trace = traced([1, 2, 3, 4, 5, 6, 7], [1, 2, 0, 1], [3, 2, 0, 3], [[8, 9], [], [], [10, 11]])
    shown = ShownTrace(trace, pieces)

    assert "a[-hi-]{+b+}|cd{*e*}|{f}|g[-jk-]\n" in shown.render()
    assert "\x1b" not in shown.render()
    coloured = shown.render(colour=True)
    without = regex.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert "ahib│cde│f│gjk\n" in without
    assert "drafted and thrown away" in coloured


def test_nothing_that_a_terminal_obeys_is_printed():
    hostile = "\x1b[2J\x07\u202e\u2066\r\x00<b>"
    tokens, pieces = as_bytes(hostile)
    trace = traced(tokens, [0] * len(tokens), [0] * len(tokens), failure="\x1b[31mred")

    shown = ShownTrace(trace, pieces).render()

    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "\\x1b" in shown


def test_a_run_without_pieces_is_traced_by_its_targets_tokenizer(capsys):
    assert main(["trace", str(OLDER), "--request", "specfair_demo_en/0/0/0"]) == 0
    out = capsys.readouterr().out

    assert out.startswith("specfair_demo_en/0/0/0/1007bb34\n32 tokens in 15 steps, 2.13 tokens a")
    assert "[-…3-]{+ file+}" in out
    (shown,) = sf.trace(OLDER, request="specfair_demo_en/0/0/0")
    assert f"{shown}\n" == out
    text = "".join(cell.text for cell in shown.cells)
    assert text == shown.trace.record.generated_text


def test_the_worst_come_first(capsys):
    slowest = sf.trace(PUBLISHED, worst=5)
    rates = [len(each.trace.tokens) / len(each.trace.steps) for each in slowest]

    every = [
        record.num_generated_tokens / record.num_spec_steps
        for record in read_records(PUBLISHED)
        if record.request_type == "generate_until"
    ]
    assert rates == sorted(every)[:5]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--request", "nobody"], "there is no such request"),
        (["--request", "specfair_demo_en"], "several requests begin like it"),
        (["--tokenizer", "nowhere/at-all"], "no tokenizer.json in 'nowhere/at-all'"),
        (["--worst", "0"], "expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(arguments, complaint, capsys):
    assert main(["trace", str(PUBLISHED), *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


# ------------------------------------------------------------------ pieces


def test_pieces_survive_their_file(tmp_path):
    pieces = TokenPieces(
        spelled={0: b" the", 1: b"\xe0\xb8", 2: "ж".encode(), 9: b""}, special={3: "</s>"}
    )
    write_pieces(tmp_path, pieces)

    assert read_pieces(tmp_path) == pieces
    assert json.loads((tmp_path / "pieces.json").read_text("utf-8"))["bytes"] == {"1": "e0b8"}
    assert read_pieces(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", ["", "[]", '{"text": {"a": "b"}}', '{"bytes": {"1": "xyz"}}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "pieces.json").write_text(content)

    with pytest.raises(ConfigError, match=r"pieces.json is not what a run writes"):
        read_pieces(tmp_path)


def test_the_tokenizers_file_spells_the_texts():
    pieces = pieces_of_run(PUBLISHED, read_run(PUBLISHED))
    for record in read_records(PUBLISHED):
        if record.request_type == "generate_until" and record.finish_reason == "length":
            data = b"".join(pieces.spelled[token] for token in record.generated_token_ids)
            assert data.decode("utf-8", "replace") == record.generated_text


def test_words_that_spell_nothing_byte_for_byte_are_shown_as_written():
    pieces = pieces_of_vocabulary(
        {"run": 0, "##ning": 1, "[CLS]": 2},
        added={},
        special={2},
        encode=lambda text: [0, 1],
    )

    assert pieces == TokenPieces(spelled={0: b"run", 1: b"##ning"}, special={2: "[CLS]"})


def test_an_exported_run_keeps_its_pieces(tmp_path):
    shutil.copytree(PUBLISHED, tmp_path / "run")
    pieces = TokenPieces(spelled={0: b"a"})
    write_pieces(tmp_path / "run", pieces)

    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "new")]) == 0
    assert read_pieces(tmp_path / "new") == pieces
