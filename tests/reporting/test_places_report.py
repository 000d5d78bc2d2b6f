"""`specfair report --where`: the section on where drafts are lost, in every form."""

import json

import jsonschema
import numpy as np
import pytest

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.metrics.places.position_share import PositionShare
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, write_pieces
from lm_eval_specfair.reporting.json_schema import json_schema
from lm_eval_specfair.reporting.places.build_places import _name
from lm_eval_specfair.reporting.places.places_text import _explained

from support.placed_records import decoded
from support.synthetic_records import write_folder

SPELLED = {
    100: b" a", 101: b"b", 102: b"12", 103: b",", 104: b"\n", 105: bytes([0xE3, 0x81]),
    106: " и".encode(), 107: "ل".encode(), 108: b"<script>alert(1)</script>", 109: b"|*x*|",
    303: b" der",
}  # fmt: skip


def a_run(folder, *, target="t", languages=("sw", "fr", "de", "ar"), with_pieces=True, **changes):
    generator = np.random.default_rng(0)
    records = [
        decoded(language, doc, lambda _, p=p: p, generator, length=80)
        for language, p in zip(languages, (0.3, 0.5, 0.6, 0.7), strict=False)
        for doc in range(10)
    ]
    write_folder(folder, records, settings={"target": target, **changes})
    if with_pieces:
        special = {token: f"<special{token}>" for token in range(300, 303)}
        write_pieces(folder, TokenPieces(spelled=SPELLED, special=special))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return sf.report(a_run(tmp_path_factory.mktemp("runs") / "run"), where=True)


def test_every_form_has_the_section(report):
    data = json.loads(report.render("json"))
    jsonschema.Draft202012Validator(json_schema("report")).validate(data)
    table = " ".join(report.render("table").split())
    page, markdown = report.render("html"), report.render("md")

    where = data["where"]
    assert where["groups"].keys() == {"sw", "fr", "de", "ar"}
    assert where["overall"]["by_kind"].keys() == {
        "word start", "inside a word", "digits", "punctuation and signs", "white space",
        "part of a character",
    }  # fmt: skip
    assert where["overall"]["by_script"].keys() == {"Latn", "Cyrl", "Arab"}
    for sentence in where["sentences"]:
        assert f"<p>{sentence}</p>" in page
        assert f"- {sentence}\n" in markdown
        assert sentence in table
    for text in (table, page, markdown):
        assert "Where drafts are lost" in text
        assert "Conditional acceptance by draft position" in text
        assert "Tokens that end most steps" in text
    assert "<script>alert" not in page.split("<main>")[1].split("</main>")[0]
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in markdown
    assert markdown.count("<details>") == markdown.count("</details>")


def test_costly_tokens_are_named_with_what_was_proposed(report):
    costly = report.summary.where.overall.costly
    names = report.summary.token_names

    assert len(costly) == 5
    assert names.keys() >= {each.token_id for each in costly}
    assert all(each.proposal_id == each.token_id + 200 for each in costly)
    assert 0 < sum(each.share for each in costly) <= 1


@pytest.mark.parametrize(
    ("token", "name"),
    [(100, " a"), (104, "\\n"), (105, "\\xe3\\x81"), (107, "ل"), (301, "<s>"), (305, "#305")],
)
def test_what_cannot_be_seen_in_a_token_is_written_out(token, name):
    assert _name(token, TokenPieces(spelled=SPELLED, special={301: "<s>"})) == name


def test_without_the_flag_tokens_are_not_read(tmp_path, capsys):
    folder = a_run(tmp_path / "run")

    assert main(["report", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["where"] is None
    assert main(["report", str(folder), "--where", "--format", "md"]) == 0
    assert "## Where drafts are lost" in capsys.readouterr().out


def test_ids_of_unlike_tokenizers_are_not_put_together(tmp_path):
    one = a_run(tmp_path / "one", languages=("sw", "fr"))
    other = a_run(tmp_path / "other", target="u", languages=("de", "ar"))

    where = sf.report(one, other, where=True).summary.where

    assert where.overall.by_kind == {}
    assert where.overall.costly == []
    assert where.overall.by_draft_position.keys() == {"1", "2", "3", "4"}


def test_a_run_whose_tokens_nobody_can_spell_has_ids(tmp_path):
    folder = a_run(tmp_path / "run", with_pieces=False)

    report = sf.report(folder, where=True)

    assert report.summary.where.overall.by_kind == {}
    assert "by kind of token" not in report.render("table")
    assert "#10" in report.render("table")


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.5, 0.3, 0.7, "P goes with 50% (30% to 70%) of the spread of acceptance across "
         "languages; what remains does so at equal positions."),
        (1.0, 0.9, 1.1, "P goes with 100% (90% to 110%) of the spread of acceptance across "
         "languages."),
        (0.1, -0.1, 0.3, "P is not shown to explain any of the spread of acceptance across "
         "languages (-10% to 30%); it explains 30% at most."),
        (-0.2, -0.3, -0.1, "P explains none of the spread of acceptance across languages (-30% to "
         "-10%): at equal positions they would differ as much, or more."),
        (0.4, None, None, "P goes with 40% of the spread of acceptance across languages, on too "
         "little to say how sure that is."),
    ],
)  # fmt: skip
def test_what_position_explains_is_said_as_surely_as_its_interval(value, low, high, expected):
    share = Estimate(value=value, low=low, high=high, n=9)

    assert _explained(PositionShare(share=share, at_equal_positions=()), "languages", "P") == [
        expected
    ]
