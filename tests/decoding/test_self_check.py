"""The trial at loading reaches the lengths that a configuration names, and says what it found."""

import pytest
import torch

from lm_eval_specfair.conformance.tiny_families import built, configuration
from lm_eval_specfair.decoding.families import masks, own_positions
from lm_eval_specfair.decoding.families.longrope import LongRope
from lm_eval_specfair.decoding.families.short_lengths import named_lengths, shortened
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.states import state_trial
from lm_eval_specfair.errors import ConfigError

from support.recurrent_families import recurrent

# As released: far beyond the texts of any trial.
RELEASED = {
    "gemma3": {"sliding_window": 512},
    "gpt_oss": {"sliding_window": 128},
    "mistral_window": {"sliding_window": 4096},
    "llama4": {"attention_chunk_size": 8192, "floor_scale": 8192},
    "gpt_neo": {"window_size": 256},
    "phi4_longrope": {"original_max_position_embeddings": 4096},
}


def released(name: str):
    more = dict(RELEASED[name])
    border = more.get("original_max_position_embeddings")
    config = configuration(name, **more)
    if border is not None:
        config.rope_parameters["original_max_position_embeddings"] = border
    return built(config)


@pytest.mark.parametrize("name", RELEASED)
def test_released_lengths_are_found_and_pass_the_trial(name):
    model = released(name)

    assert named_lengths(model.config) == RELEASED[name]
    CausalModel(model)


def causal_only(rule):
    return lambda row, head, query, key: key <= query


def one_key_more(rule):
    return lambda row, head, query, key: (
        rule(row, head, query, key) | (rule(row, head, query, key + 1) & (key <= query))
    )


@pytest.mark.parametrize("wrong", [causal_only, one_key_more])
@pytest.mark.parametrize("name", ["gemma3", "gpt_oss", "mistral_window", "llama4"])
def test_a_wrong_window_is_caught_however_long_it_is(monkeypatch, name, wrong):
    at_positions = masks.at_positions
    monkeypatch.setattr(
        masks, "at_positions", lambda rule, *given: at_positions(wrong(rule), *given)
    )
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(released(name))


# With states beside windows; RecurrentGemma keeps its windows as states.
HYBRIDS = {
    "lfm3": ({"sliding_window": 4096}, "block"),
    "zaya": ({"sliding_window": 512}, "block"),
    "recurrent_gemma": ({"attention_window_size": 2048}, "token"),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_released_windows_of_hybrids_are_found_and_pass_the_trial(name):
    window, mode = HYBRIDS[name]
    model = recurrent(name, **window)

    assert named_lengths(model.config) == window
    assert CausalModel(model).states == mode


@pytest.mark.parametrize("wrong", [causal_only, one_key_more])
@pytest.mark.parametrize("name", ["lfm3", "zaya"])
def test_a_wrong_window_beside_states_is_not_taken_however_long_it_is(monkeypatch, name, wrong):
    at_positions = masks.at_positions
    monkeypatch.setattr(
        masks, "at_positions", lambda rule, *given: at_positions(wrong(rule), *given)
    )
    # Rows by themselves need no mask of ours, so that is the way that is found.
    assert CausalModel(recurrent(name, **HYBRIDS[name][0])).states == "row"


def test_a_window_beside_states_that_the_trial_cannot_reach_is_refused(monkeypatch):
    model = recurrent("lfm3", sliding_window=4096)
    monkeypatch.setattr(state_trial, "shortened", lambda model, names: torch.no_grad())
    with pytest.raises(ConfigError, match="names sliding_window 4096, which the trial"):
        CausalModel(model)


@pytest.mark.parametrize(
    ("name", "part"), [("llama4", "_scaled_queries"), ("gpt_neo", "_windows_in_buffers")]
)
def test_lengths_taken_from_the_cache_are_caught(monkeypatch, name, part):
    model = released(name)
    told = [telling for telling in own_positions.tellings(model) if telling.func.__name__ == part]
    assert told
    monkeypatch.setattr("lm_eval_specfair.decoding.models.tellings", lambda model: [])
    with pytest.raises(ConfigError):
        CausalModel(model)


def test_phases_of_the_longest_row_are_caught(monkeypatch):
    monkeypatch.setattr(LongRope, "to_read_anew", lambda *given: [])
    monkeypatch.setattr(LongRope, "past_the_border", lambda self, cache, starts, scores: scores)
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(released("phi4_longrope"))


def test_a_window_that_the_trial_cannot_reach_is_refused_by_name(monkeypatch):
    # A window that was built into the model: as GPT-Neo would be if nobody knew it.
    monkeypatch.setattr(
        "lm_eval_specfair.decoding.families.short_lengths.narrowed_buffers",
        lambda model, window: torch.no_grad(),
    )
    monkeypatch.setattr("lm_eval_specfair.decoding.models.tellings", lambda model: [])
    with pytest.raises(ConfigError, match="names window_size 256, which the trial") as error:
        CausalModel(released("gpt_neo"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", RELEASED)
def test_lengths_are_put_back(name):
    model = released(name)
    before = model.config.to_dict()
    tokens = torch.tensor([[5 * i % 100 for i in range(20)]])
    with torch.no_grad():
        expected = model(tokens).logits
        with shortened(model, named_lengths(model.config)):
            short = model(tokens).logits
        CausalModel(model)

        assert not torch.allclose(short, expected)
        assert torch.equal(model(tokens).logits, expected)
    assert model.config.to_dict() == before


def test_models_without_such_lengths_are_tried_once():
    for name in ("llama", "qwen2", "gpt2", "deepseek_v3", "gpt_neo_global", "llama3_rope"):
        assert not named_lengths(configuration(name)), name
