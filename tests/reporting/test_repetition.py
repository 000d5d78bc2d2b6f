"""Acceptance beside repetition: a table, a share of the spread, and a warning."""

import numpy as np
import pytest

from lm_eval_specfair.decoding.counters import repeated_ngrams
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.reporting.report.headline import headline

from support.synthetic_records import LANGUAGES, generation, write_folder


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], (0, 0)),
        ([1, 2, 3], (0, 0)),
        ([1, 2, 3, 4], (1, 0)),
        ([7] * 10, (7, 6)),
        ([1, 2, 3, 4, 1, 2, 3, 4], (5, 1)),
        (list(range(50)), (47, 0)),
    ],
)
def test_4grams_that_were_there_before(tokens, expected):
    assert repeated_ngrams(tokens, 4) == expected


def run_of(folder, shares, accepted):
    """A run of five documents for each language, with these shares and counts of acceptance."""
    records = [
        generation(
            f"t_{language}",
            doc,
            group_fields={"language": language},
            num_4grams=100,
            num_repeated_4grams=round(100 * share) + doc - 2,
            num_accepted_draft_tokens=kept,
            num_examined_draft_tokens=22,
            num_generated_tokens=kept + 10,
            acceptance_histogram=None,
        )
        for language, share, kept in zip(LANGUAGES, shares, accepted, strict=False)
        for doc in range(5)
    ]
    return write_folder(folder, records)


def test_a_report_warns_where_loops_are_measured(tmp_path):
    shares = np.linspace(0.05, 0.8, 10)
    folder = run_of(tmp_path / "run", shares, range(12, 22))

    summary = build_summary([folder])

    assert summary.groups["en"]["repeated_4grams"].value == pytest.approx(0.05)
    assert summary.overall["repeated_4grams"].value == pytest.approx(0.425)
    warning = next(each for each in headline(summary) if "repeat themselves" in each)
    assert warning.startswith("Texts repeat themselves in 8 of 10 groups")
    assert "Spearman 1.00" in warning
    text = " ".join(render(summary, "table").split())
    said = (
        "Of the variance of conditional acceptance rate across 10 groups go 100% [100%, 100%] with"
    )
    assert said in text
    assert "Repeated 4-grams" in text
    assert "repeat themselves" in text


def test_a_report_does_not_warn_of_ordinary_texts(tmp_path):
    chance = np.random.default_rng(0)
    folder = run_of(tmp_path / "run", np.full(10, 0.03), chance.integers(12, 22, size=10).tolist())

    summary = build_summary([folder])

    assert not any("repeat themselves" in each for each in headline(summary))


def test_older_records_have_no_such_figure(tmp_path):
    summary = build_summary([write_folder(tmp_path / "run", [generation("t_en", 0)] * 1)])

    assert summary.overall["repeated_4grams"] is None
    assert "Repeated 4-grams" not in render(summary, "table").split("Not measured")[0]
