"""`num_speculative_tokens=auto`: the draft length that is fastest, found before a run."""

import logging

import pytest

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.decoder import InProcessDecoder
from lm_eval_specfair.decoding.drafters import NoDrafter
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.draft_policy import read_policy_argument
from lm_eval_specfair.harness.recording import auto_length
from lm_eval_specfair.harness.recording.auto_length import LENGTHS, LONGEST, fastest_length
from lm_eval_specfair.harness.requests import Job

from support.decoding_runs import model_drafter
from support.evaluations import (
    answers,
    evaluate,
    generation,
    records_of,
    run_of,
    specfair,
    toy_task,
)

DOCUMENTS = [{"prompt": each, "reference": each} for each in ("one", "two", "three")]


def jobs(number: int = 8, **config) -> list[Job]:
    made = []
    for place in range(number):
        request = Request(
            request_id=f"toy/{place}",
            prompt=[1 + place, 7, 3 + 2 * place],
            stopping=Stopping(max_new_tokens=40),
            num_speculative_tokens=LONGEST,
        )
        settings = DecodeConfig(num_speculative_tokens=LONGEST, **config)
        made.append(
            Job(
                place=place,
                instance=generation("x", place),
                request=request,
                config=settings,
                is_padding=False,
            )
        )
    return made


@pytest.fixture
def decoder(target, near_drafter):
    drafter = model_drafter(near_drafter, target.config.vocab_size)
    return InProcessDecoder(CausalModel(target), drafter, max_rows=4)


def number_of_steps(decoder, length: int) -> int:
    done = list(auto_length._decoded(decoder, jobs(), length, 40))
    return sum(each.completion.counters.num_steps for each in done)


@pytest.mark.parametrize("rise", [0.02, 0.1, 0.3, 0.8])
def test_the_length_with_the_least_time_is_chosen(decoder, monkeypatch, rise):
    """Its recounts are the steps of decoding at each length; a table says what a step costs."""
    costs = {length: 1 + rise * length for length in (0, *LENGTHS)}
    monkeypatch.setattr(auto_length, "_step_seconds", lambda *_: costs)
    time = {length: number_of_steps(decoder, length) * cost for length, cost in costs.items()}

    choice = fastest_length(decoder, jobs(), seed=0)

    assert choice.length == min(LENGTHS, key=lambda length: time[length])
    for length, speed in choice.speedups.items():
        # Unknown is only what follows a draft that was kept whole.
        assert speed == pytest.approx(time[0] / time[length], rel=0.05)
    assert len({round(speed, 3) for speed in choice.speedups.values()}) == len(LENGTHS)


def test_dearer_steps_make_shorter_drafts(decoder, monkeypatch):
    chosen = []
    for rise in (0.0, 0.05, 0.1, 0.2, 0.4, 1.0):
        costs = {length: 1 + rise * length for length in (0, *LENGTHS)}
        monkeypatch.setattr(auto_length, "_step_seconds", lambda *_, costs=costs: costs)
        chosen.append(fastest_length(decoder, jobs(), seed=0).length)
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > 4
    assert chosen[-1] == 1


@pytest.mark.parametrize("config", [{}, {"temperature": 0.8}])
def test_it_times_and_decodes_for_real(decoder, config):
    choice = fastest_length(decoder, jobs(**config), seed=0)
    assert choice.length in LENGTHS
    assert set(choice.speedups) == set(LENGTHS)
    assert all(0 < speed < 20 for speed in choice.speedups.values())
    assert (choice.requests, choice.rows) == (8, 4)


def test_without_a_drafter_or_requests_nothing_is_tried(target, decoder):
    model = CausalModel(target)
    plain = InProcessDecoder(model, NoDrafter(model.device), max_rows=4)
    assert fastest_length(plain, jobs(), seed=0).speedups == {}
    assert fastest_length(decoder, [], seed=0).length == 4


def test_a_length_that_does_not_pay_is_told(decoder, monkeypatch, caplog):
    monkeypatch.setattr(
        auto_length, "_step_seconds", lambda *_: {n: 1 + 9 * n for n in (0, *LENGTHS)}
    )
    with caplog.at_level(logging.WARNING):
        fastest_length(decoder, jobs(), seed=0).log()
    assert "auto: 1 (expected speed, plain decoding 1, 1: 0." in caplog.text
    assert "no draft length pays here" in caplog.text


def test_a_run_states_its_length_and_keeps_it_when_resumed(pair_folder, tmp_path, monkeypatch):
    asked = [generation(f"text {n}", n) for n in range(4)]
    texts = answers(specfair(pair_folder, tmp_path / "4"), asked)
    model = specfair(pair_folder, tmp_path / "auto", num_speculative_tokens="auto")
    assert answers(model, asked) == texts

    settings = run_of(tmp_path / "auto")["settings"]
    length = settings["num_speculative_tokens"]
    assert length in LENGTHS
    assert set(settings["auto_length"]["expected_speedup"]) == set(map(str, LENGTHS))
    records = records_of(tmp_path / "auto").values()
    assert {record.settings.num_speculative_tokens for record in records} == {length}
    assert {len(record.acceptance_histogram) for record in records} == {length + 1}

    lines = (tmp_path / "auto" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "auto" / "records.jsonl").write_text("".join(lines[:2]))
    monkeypatch.setattr("lm_eval_specfair.harness.model.fastest_length", None)  # not called
    again = specfair(pair_folder, tmp_path / "auto", num_speculative_tokens="auto", resume=True)
    assert answers(again, asked) == texts
    assert run_of(tmp_path / "auto")["settings"] == settings
    assert len(records_of(tmp_path / "auto")) == 4
    with pytest.raises(ConfigError, match="its settings differ"):  # another length is named
        specfair(pair_folder, tmp_path / "auto", num_speculative_tokens=9 - length, resume=True)


def test_it_goes_with_an_evaluation_and_auto_rows(pair_folder, tmp_path):
    model = specfair(
        pair_folder, tmp_path / "run", num_speculative_tokens="auto", batch_size="auto", baseline=1
    )
    evaluate(model, [toy_task("toy", DOCUMENTS)])
    assert run_of(tmp_path / "run")["settings"]["num_speculative_tokens"] in LENGTHS


def test_engines_that_fix_the_length_refuse():
    with pytest.raises(ConfigError, match="auto is for backend=hf"):
        read_policy_argument({"num_speculative_tokens": "auto", "backend": "vllm"}, "drafter")
