"""From a task's `generation_kwargs` to what is decoded: aliases, sampling, and what is refused."""

import pytest
from lm_eval.api.instance import Instance

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.generation import (
    GenerationSettings,
    generation_record,
    read_settings,
)
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.requests import Job

DEFAULT_MAX_TOKENS = 256


def settings(**gen_kwargs) -> GenerationSettings:
    return read_settings(
        gen_kwargs, default_max_tokens=DEFAULT_MAX_TOKENS, num_speculative_tokens=3, seed=5
    )


def refusal(**gen_kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(**gen_kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_that_asks_for_nothing_is_decoded_greedily_without_stops():
    read = settings()

    assert read.config.greedy
    assert (read.config.top_k, read.config.top_p) == (None, None)
    assert (read.config.num_speculative_tokens, read.config.seed) == (3, 5)
    assert (read.max_new_tokens, read.stop_strings) == (DEFAULT_MAX_TOKENS, ())


@pytest.mark.parametrize(
    "alias", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"]
)
def test_the_length_limit_has_four_names(alias):
    assert settings(**{alias: 7}).max_new_tokens == 7


@pytest.mark.parametrize("value", [0, -3])
def test_a_length_limit_below_one_is_refused(value):
    assert "max_gen_toks must be at least 1" in refusal(max_gen_toks=value)


@pytest.mark.parametrize(
    ("until", "stops"),
    [
        ("\n", ("\n",)),
        (["\n", "Q:"], ("\n", "Q:")),
        ([], ()),
        ("", ()),
        (["", "."], (".",)),
        (None, ()),
    ],
)
def test_stops_are_one_string_or_several_and_empty_ones_do_not_count(until, stops):
    assert settings(until=until).stop_strings == stops


@pytest.mark.parametrize(
    ("gen_kwargs", "temperature"),
    [
        ({"do_sample": True}, 1.0),  # as transformers has it
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"temperature": 0.5}, 0.5),  # lm-eval takes it as a wish to sample
        ({"do_sample": True, "temperature": 2}, 2.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"do_sample": True, "temperature": 0.0}, 0.0),
        ({"temperature": 0.0}, 0.0),
        ({"do_sample": False}, 0.0),
        ({"do_sample": False, "temperature": 0.8}, 0.0),  # lm-eval: greedy, with a warning
    ],
)
def test_sampling_follows_do_sample_and_temperature(gen_kwargs, temperature):
    assert settings(**gen_kwargs).config.temperature == temperature


@pytest.mark.parametrize("do_sample", [{}, {"do_sample": True}, {"do_sample": False}])
@pytest.mark.parametrize("value", [-1, -0.5])
def test_a_negative_temperature_is_refused_also_where_nothing_is_drawn(do_sample, value):
    assert "temperature" in refusal(temperature=value, **do_sample)


@pytest.mark.parametrize("value", ["hot", None, True, float("inf"), float("nan")])
def test_a_temperature_must_be_a_number(value):
    assert "temperature" in refusal(do_sample=True, temperature=value)


@pytest.mark.parametrize(
    ("gen_kwargs", "top_k", "top_p"),
    [
        ({}, None, None),
        ({"top_k": 5}, 5, None),
        ({"top_k": 0}, None, None),
        ({"top_k": -1}, None, None),
        ({"top_k": None}, None, None),
        ({"top_p": 0.9}, None, 0.9),
        ({"top_p": 1}, None, None),
        ({"top_p": 1.0}, None, None),
        ({"top_k": 3, "top_p": 0.5}, 3, 0.5),
    ],
)
def test_the_words_for_all_tokens_cut_nothing(gen_kwargs, top_k, top_p):
    config = settings(do_sample=True, **gen_kwargs).config

    assert (config.top_k, config.top_p) == (top_k, top_p)


def test_cuts_do_not_matter_where_nothing_is_drawn():
    config = settings(top_k=3, top_p=0.5).config

    assert (config.top_k, config.top_p) == (None, None)


@pytest.mark.parametrize(
    "cut", [{"top_k": -2}, {"top_k": 1.5}, {"top_p": 0}, {"top_p": 1.1}, {"top_p": -0.1}]
)
def test_impossible_cuts_are_refused(cut):
    assert next(iter(cut)) in refusal(do_sample=True, **cut)


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 4},
        {"repetition_penalty": 1.2},
        {"length_penalty": 0.8},
        {"no_repeat_ngram_size": 3},
        {"num_return_sequences": 2},
        {"min_p": 0.1},
        {"typical_p": 0.9},
        {"early_stopping": True},
        {"penalty_alpha": 0.6},
        {"bad_words_ids": [[1]]},
        {"max_length": 100},
    ],
)
def test_what_would_change_the_distribution_is_refused_by_name(setting):
    (name,) = setting

    message = refusal(**setting)

    assert f"{name}={setting[name]!r}" in message
    assert "--model hf" in message


def test_what_changes_nothing_passes():
    read = settings(
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        min_p=0.0,
        typical_p=1.0,
        use_cache=True,
        early_stopping=False,
    )

    assert read == settings()


@pytest.mark.parametrize(
    ("temperature", "plain_tokens", "agrees"),
    [(0.0, [5, 6], True), (0.0, [5, 7], False), (0.0, [5], False), (1.0, [5, 7], None)],
)
def test_a_baseline_agrees_if_its_tokens_are_the_same(temperature, plain_tokens, agrees):
    request = Request(request_id="a", prompt=[1], stopping=Stopping(max_new_tokens=2))
    instance = Instance("generate_until", {}, ("a", {}), 0, ("toy", 0, 1))
    config = DecodeConfig(temperature=temperature)
    job = Job(place=0, instance=instance, request=request, config=config, is_padding=False)

    def completion(tokens: list[int]) -> Completion:
        counters = RequestCounters(decode_seconds=0.5)
        return Completion(
            request=request, token_ids=tokens, finish_reason="length", counters=counters
        )

    decoded = Decoded(job, completion([5, 6]), completion(plain_tokens))
    record = generation_record(decoded, "", drafts=True)

    assert record.baseline_agrees is agrees
    assert record.baseline_generated_tokens == len(plain_tokens)
    assert record.baseline_seconds == 0.5
