"""Acceptance beside answers on public models: slopes within languages, tables, chosen questions.

python -m pytest tests/experiments/test_pretrained_answers.py
"""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lm_eval_specfair.metrics.statistics.intervals import Estimate

pytestmark = pytest.mark.usefixtures("pretrained_scripts")


def documents(language, scores, examined, accepted):
    from within import Document

    return [
        Document(
            language=language, score=score, num_examined=drafted, num_accepted=kept,
            is_cut_off=score == 0,
        )
        for score, drafted, kept in zip(scores, examined, accepted, strict=True)
    ]  # fmt: skip


def score(document):
    return document.score


def test_a_slope_is_that_of_a_weighted_regression_with_a_level_for_each_language():
    from within import slope

    random = np.random.default_rng(5)
    examined = random.integers(1, 40, 24)
    accepted = random.binomial(examined, 0.6)
    scores = random.random(24)
    levels = np.repeat(np.eye(3), 8, axis=0)
    table = np.column_stack([scores, levels]) * np.sqrt(examined)[:, None]
    up = accepted / examined * np.sqrt(examined)
    expected = np.linalg.lstsq(table, up, rcond=None)[0][0]

    found = slope(
        [
            one
            for place, name in enumerate(("de", "en", "th"))
            for one in documents(
                name, *(each[8 * place :][:8] for each in (scores, examined, accepted))
            )
        ],
        score,
    )

    assert found.value == pytest.approx(expected)
    assert (found.num_documents, found.num_languages) == (24, 3)
    assert found.low < found.value < found.high


def test_levels_of_languages_are_no_slope():
    from within import slope

    # The language that answers well is drafted well; in neither do right answers differ.
    good = documents("en", [1, 1, 1, 0], [10] * 4, [8] * 4)
    bad = documents("th", [0, 0, 0, 1], [10] * 4, [2] * 4)

    found = slope(good + bad, score)

    assert found.value == pytest.approx(0)
    assert found.p_value == 1


def test_p_is_the_share_of_orders_that_are_as_steep():
    from within import slope

    scores, accepted = np.array([0, 0.2, 0.7, 1, 0.4]), np.array([1, 4, 7, 6, 6])
    found = slope(documents("en", scores, [10] * 5, accepted), score)

    away = scores - scores.mean()
    steep = [abs(away[list(order)] @ accepted) for order in itertools.permutations(range(5))]
    exact = np.mean([one >= abs(away @ accepted) - 1e-9 for one in steep])
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert 0 < exact < 0.2


def test_languages_without_different_scores_say_nothing():
    from within import slope

    alike = documents("th", [0, 0, 0], [10, 20, 30], [1, 5, 9])
    assert slope(alike, score) is None
    differing = documents("en", [0, 1], [10, 10], [3, 8])
    undrafted = documents("en", [1, None], [0, 10], [0, 0])
    found = slope([*alike, *differing, *undrafted], score)
    assert found.value == pytest.approx(0.5)
    assert (found.num_documents, found.num_languages) == (2, 1)


def test_shares_of_texts_are_by_language():
    from within import shares

    texts = documents("en", [1, 1, 0, 0], [1] * 4, [0] * 4) + documents("th", [0], [1], [0])
    assert shares(texts, lambda one: one.is_cut_off) == {"en": 0.5, "th": 1}


def test_the_table_is_ordered_by_the_first_drafters_acceptance():
    from answer_tables import ordered_table
    from cells import RATE

    def of(kind, rates):
        groups = {
            name: {
                RATE: Estimate(value=rate, low=rate - 0.1, high=rate + 0.1, n=4),
                "answer_quality": Estimate(value=0.25, n=4),
                "bytes_per_token": Estimate(value=3.0, n=4),
            }
            for name, rate in rates.items()
        }
        texts = documents("en", [0, 1], [1, 1], [0, 0]) + documents("th", [1], [1], [0])
        return SimpleNamespace(kind=kind, summary=SimpleNamespace(groups=groups), documents=texts)

    coarse, copy = of("3bit", {"en": 0.9, "th": 0.2}), of("4bit", {"en": 0.3, "th": 0.8})
    header, _, first, second = ordered_table([coarse, copy]).splitlines()

    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells == ["language (class)", "answers", "empty", "cut off", "4bit", "3bit"]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["th (3)", "0.25", "0.00", "0.00", "0.80 [0.70, 0.90]", "0.20 [0.10, 0.30]"]
    assert second.startswith("| en (5)")
    assert "0.50" in second


def write_xquad(folder, language, rows):
    path = folder / "google/xquad" / f"xquad.{language}" / "validation.jsonl"
    path.parent.mkdir(parents=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def test_the_shortest_paragraphs_of_english_are_asked_in_every_language(tmp_path):
    from data_sets import write_short_mirror

    contexts = [("long long long", 2), ("mid mid", 2), ("short", 1)]
    rows = [
        {"id": f"{text}-{number}", "context": text, "question": str(number)}
        for text, questions in contexts
        for number in range(questions)
    ]
    data, mirror = tmp_path / "data", tmp_path / "mirror"
    write_xquad(data, "en", rows)
    # U+2028 ends no line of JSON Lines; lengths of other languages do not count.
    thai = [{**row, "context": "\u2028" * (20 - len(row["context"]))} for row in rows]
    write_xquad(data, "th", thai)

    write_short_mirror(data, ["en", "th"], 2, mirror)

    for language, whole in (("en", rows), ("th", thai)):
        path = mirror / "google/xquad" / f"xquad.{language}" / "validation.jsonl"
        kept = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        assert kept == [whole[4], whole[2]]

    write_xquad(data, "ru", list(reversed(rows)))
    with pytest.raises(SystemExit, match="XQuAD in ru has not the questions of English"):
        write_short_mirror(data, ["ru"], 2, tmp_path / "other")


def test_shares_of_the_spread_are_those_of_a_regression_on_languages_and_runs():
    from shares import ALIKE, REST, language_shares

    random = np.random.default_rng(3)
    values = random.random((2, 3, 1, 5))
    found = language_shares(values, ("target", "drafter", "data set"))

    assert list(found) == [ALIKE, "with the target", "with the drafter", REST]
    assert sum(found.values()) == pytest.approx(1)
    # What dummies explain, one kind after the other: a run's level is no spread.
    target, drafter, language = (one.ravel() for one in np.indices((2, 3, 5)))
    run = np.eye(6)[3 * target + drafter]
    of_language = np.eye(5)[language]
    of_target = np.eye(10)[5 * target + language]
    of_drafter = np.eye(15)[5 * drafter + language]
    left = []
    for tables in ((run,), (run, of_language), (run, of_target), (run, of_target, of_drafter)):
        table = np.hstack(tables)
        fitted = table @ np.linalg.lstsq(table, values.ravel(), rcond=None)[0]
        left.append(((values.ravel() - fitted) ** 2).sum())
    expected = -np.diff(left) / left[0]
    assert [float(one) for one in found.values()] == pytest.approx([*expected, left[-1] / left[0]])

    drawn = language_shares(np.stack([values, values[:, ::-1]]), ("target", "drafter", "data set"))
    assert drawn[ALIKE] == pytest.approx([found[ALIKE]] * 2)


def test_noise_is_the_share_of_values_that_differ_by_chance():
    from shares import noise_share

    random = np.random.default_rng(4)
    values = random.normal(size=(2, 2, 400))
    observed = values + random.normal(size=values.shape) / 2
    replicates = observed + random.normal(size=(500, *values.shape)) / 2

    assert noise_share(observed, replicates) == pytest.approx(0.25 / 1.25, abs=0.02)


def test_a_run_takes_the_drafters_asked_for_and_no_target_without_need(tmp_path):
    from run import drafters_of, target_flags

    for name in ("smollm2-4bit", "smollm2-8bit", "smollm2-layers25", "gemma3-4bit"):
        (tmp_path / name).mkdir()
    args = SimpleNamespace(models=tmp_path, work=tmp_path / "work", drafter=None, overlap=False)

    made = ["smollm2-layers25", "smollm2-8bit", "smollm2-4bit"]
    assert drafters_of("smollm2", "mgsm", args) == made
    assert drafters_of("smollm2", "xquad", args) == ["smollm2-layers25", "smollm2-4bit"]
    args.drafter = ["gemma3-4bit", "gemma3-3bit"]
    assert drafters_of("gemma3", "xquad", args) == ["gemma3-4bit"]
    assert drafters_of("smollm2", "xquad", args) == []

    tokenizer = ("--tokenizer", str(tmp_path / "smollm2"))
    assert target_flags("smollm2", "mgsm", args) == tokenizer
    # What is kept of a sampled text depends on the target.
    sampled = target_flags("smollm2", "demo-sampled", args)
    assert sampled[:3] == ("--target", str(tmp_path / "smollm2"), "--target-cache")
    args.overlap = True
    assert target_flags("smollm2", "mgsm", args)[0] == "--target"
