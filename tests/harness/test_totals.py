"""What the progress bar shows while a run goes on."""

import re

import pytest

from lm_eval_specfair.harness import totals
from lm_eval_specfair.harness.totals import EARLY_REQUESTS, Totals

from support.evaluations import answers, generation, records_of, specfair
from support.synthetic_records import generation as record


def requests():
    return [generation(text, place, max_gen_toks=12) for place, text in enumerate(("abc", "de"))]


def test_the_bar_shows_tokens_per_second_and_the_running_acceptance(pair_folder, tmp_path, capsys):
    model = specfair(pair_folder, tmp_path, batch_size=2)
    model.generate_until(requests())
    model.get_model_info()

    bar = capsys.readouterr().err.split("\r")[-1]
    found = records_of(tmp_path).values()
    accepted, examined = (
        sum(getattr(each, f"num_{kind}_draft_tokens") for each in found)
        for kind in ("accepted", "examined")
    )
    assert bar.startswith("Decoding: 100%")
    assert "2/2" in bar
    assert int(re.search(r"tokens/s=(\d+)", bar)[1]) > 0
    assert f"accepted={accepted / examined:.1%} of examined" in bar


def test_a_bar_that_is_not_wanted_is_not_shown(pair_folder, tmp_path, capsys):
    answers(specfair(pair_folder, tmp_path), requests())

    assert "Decoding" not in capsys.readouterr().err


def test_tokens_of_an_earlier_run_took_no_time_of_this_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(totals.time, "monotonic", lambda: now[0])
    running = Totals()
    running.add(record("demo_sw", 0))  # 30 tokens, resumed
    now[0] += 1_000  # tasks are built
    running.begin()
    running.add(record("demo_sw", 1))
    now[0] += 10

    assert running.speed()["tokens/s"] == "3"
    assert running.as_dict()["total"]["num_generated_tokens"] == 60
    assert running.speed()["accepted"] == f"{20 / 28:.1%} of examined, early: 2 requests"
    for number in range(2, EARLY_REQUESTS):
        running.add(record("demo_sw", number))
    assert running.speed()["accepted"] == f"{20 / 28:.1%} of examined"


@pytest.mark.parametrize("examined", [0, None])
def test_without_a_drafter_no_acceptance_is_shown(examined):
    running = Totals()
    running.add(record("demo_sw", 0, num_examined_draft_tokens=examined))

    assert set(running.speed()) == {"tokens/s"}
