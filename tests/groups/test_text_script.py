"""Letters of the script that was asked for, and of others.

python -m pytest tests/groups/test_text_script.py
"""

import pytest

from lm_eval_specfair.groups.language_tags import is_language, tag_script
from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.text_script import script_counts, script_fields
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.synthetic_records import generation, write_folder


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("plain", "de", (5, 0)),
        ("Привет, world 1!", "ru", (11, 5)),
        # Marks are no letters: virama, vowel signs, tones.
        ("नमस्ते", "hi", (4, 0)),
        ("ภาษาไทย abc", "th", (10, 3)),
        # Japanese has three scripts, Korean two, Chinese one.
        ("東京タワーのえ", "ja", (6, 0)),
        ("東京タワー", "zh", (4, 2)),
        ("한국 漢字 x", "ko", (5, 1)),
        ("漢字", "zh-Hant", (2, 0)),
        # A tag names its script, or its region implies one.
        ("đevđelija", "sr-Latn", (9, 0)),
        ("đevđelija", "sr", (9, 9)),
        # Half-width forms and Latin with diacritics are letters of their scripts.
        ("ﾃｽﾄ", "ja", (3, 0)),
        ("Straße", "de", (6, 0)),
        ("12 + 3 = ?!", "en", (0, 0)),
        ("\ufffd\ufffd", "km", (0, 0)),
        ("", "km", (0, 0)),
    ],
)
def test_letters(text, language, expected):
    assert script_counts(text, language) == expected


@pytest.mark.parametrize("language", ["", "(none)", "und", "klingon it is", "qq"])
def test_unknown_languages_have_no_counts(language):
    assert script_counts("text", language) is None


def test_every_script_of_the_table_can_be_counted():
    tags = [tag for tag in languages() if is_language(tag) and tag_script(tag)]
    assert len(tags) > 500
    assert [tag for tag in tags if script_counts("x", tag) is None] == []


def test_the_language_is_the_documents_or_the_tasks():
    task = TaskFacts("some_task", metadata={"language": "el"})

    assert script_fields("abγ", task, {}) == {"num_letters": 3, "num_other_script_letters": 2}
    assert script_fields("abγ", task, {"language": "en"})["num_other_script_letters"] == 1
    assert script_fields("abγ", TaskFacts("some_task"), {}) == {}
    assert script_fields(None, task, {}) == {}


def test_a_report_has_the_share_by_group(tmp_path):
    records = [
        generation(
            f"t_{language}",
            doc,
            group_fields={"language": language},
            num_letters=10 + doc,
            num_other_script_letters=others,
        )
        for language, others in (("ru", 4), ("en", 0))
        for doc in range(5)
    ]
    summary = build_summary([write_folder(tmp_path / "run", records)])

    assert summary.groups["ru"]["other_script_letters"].value == pytest.approx(20 / 60)
    assert summary.groups["en"]["other_script_letters"].value == 0
    assert "Other script" in " ".join(render(summary, "table").split())
