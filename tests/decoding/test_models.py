"""Ragged scores equal plain ones for every architecture that is taken; the others are refused."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertLMHeadModel,
)

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.cache import RaggedCache, RaggedLayer
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

from support.architectures import LLAMA_LIKE, TAKEN, VOCAB, WITH_PAD, build, worst_difference
from support.decoding_runs import plain_scores

# Windows shorter than the texts, and positions told by a bias of the key's index.
OWN_MASKS = {
    "mistral": LLAMA_LIKE | {"sliding_window": 4},
    "gemma2": WITH_PAD | {"sliding_window": 4},
    "gemma3_text": WITH_PAD
    | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3},
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", TAKEN)
def test_ragged_scores_equal_plain_scores(kind, attention):
    model = build(kind, TAKEN[kind], attention)
    wrapped = CausalModel(model)
    assert max(worst_difference(wrapped, model, seed) for seed in range(4)) < 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", OWN_MASKS)
def test_ragged_scores_equal_plain_scores_with_masks_of_the_models_own(kind, attention):
    model = build(kind, OWN_MASKS[kind], attention)
    wrapped = CausalModel(model)
    assert max(worst_difference(wrapped, model, seed) for seed in range(4)) < 1e-4


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_ragged_scores_equal_plain_scores_whatever_happens_to_the_rows(seed):
    model = llama(0, vocab_size=VOCAB)
    assert worst_difference(CausalModel(model), model, seed, num_rounds=10) < 1e-4


def test_rows_grow_past_the_entries_first_allocated():
    model = llama(0, vocab_size=VOCAB)
    wrapped = CausalModel(model)
    chance = random.Random(0)
    rows = [[chance.randrange(3, VOCAB) for _ in range(length)] for length in (60, 3)]
    wrapped.read_prompts([0, 1], rows)
    for _ in range(20):
        block = [[chance.randrange(3, VOCAB) for _ in range(4)] for _ in rows]
        scores = wrapped.score(torch.tensor(block))
        rows = [row + tokens for row, tokens in zip(rows, block, strict=True)]
        wrapped.cache.lengths[:] = [len(row) for row in rows]
    for row, got in zip(rows, scores, strict=True):
        expected = plain_scores(model, row)[-4:]
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_a_row_is_scored_up_to_the_last_position_while_another_ones_padding_lies_behind_it(kind):
    model = build(kind, TAKEN[kind])
    wrapped = CausalModel(model)
    assert wrapped.max_length == 128
    long, short = [(5 * i) % 90 + 3 for i in range(128)], [7, 8, 9, 10, 11]
    wrapped.read_prompts([0, 1], [long[:-1], short[:1]])
    scores = wrapped.score(torch.tensor([[long[-1], 0, 0, 0], short[1:]]))
    for got, expected in (
        (scores[0, 0], plain_scores(model, long)[-1]),
        (scores[1], plain_scores(model, short)[1:]),
    ):
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.std()))


def test_scores_come_in_fp32_or_wider():
    for kind, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        wrapped = CausalModel(llama(0).to(kind))
        wrapped.read_prompts([0], [[1, 2]])
        assert wrapped.score(torch.tensor([[3]])).dtype == expected


def assert_one_line_that_says_what_to_use_instead(message: str, role: str) -> None:
    assert "\n" not in message
    assert message.startswith(role)
    assert "specfair replay" in message
    assert "backend=vllm" in message
    assert "--model hf" in message


def test_an_encoder_decoder_is_refused():
    config = AutoConfig.for_model(
        "t5", vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4
    )
    with pytest.raises(ConfigError, match="encoder-decoder") as error:
        CausalModel(AutoModelForSeq2SeqLM.from_config(config).eval())
    assert_one_line_that_says_what_to_use_instead(str(error.value), "target")


def test_a_model_that_reads_both_ways_is_refused():
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=VOCAB, intermediate_size=32, initializer_range=0.3, **shape)
    with pytest.raises(ConfigError) as error:
        CausalModel(BertLMHeadModel(config).eval())
    assert_one_line_that_says_what_to_use_instead(str(error.value), "target")


def test_an_attention_that_takes_no_mask_per_row_is_refused():
    model = llama(0)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"flash_attention_2.*attn_implementation=sdpa") as error:
        CausalModel(model)
    assert "\n" not in str(error.value)


def test_writing_one_entry_too_far_is_caught_when_a_model_is_wrapped(monkeypatch, target):
    write = RaggedLayer.update

    def shifted(self, keys, values, *args, **kwargs):
        cache = self.cache
        if not cache.is_prompt:
            cache.starts = [start + 1 for start in cache.starts]
            cache.positions = cache.positions + 1
        try:
            return write(self, keys, values, *args, **kwargs)
        finally:
            if not cache.is_prompt:
                cache.starts = [start - 1 for start in cache.starts]
                cache.positions = cache.positions - 1

    monkeypatch.setattr(RaggedLayer, "update", shifted)
    with pytest.raises(ConfigError):
        CausalModel(target)


def test_reading_other_rows_entries_is_caught_when_a_model_is_wrapped(monkeypatch, target):
    write = RaggedLayer.update

    def mixed(self, keys, values, *args, **kwargs):
        keys, values = write(self, keys, values, *args, **kwargs)
        return (keys, values) if self.cache.is_prompt else (keys.flip(0), values)

    monkeypatch.setattr(RaggedLayer, "update", mixed)
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(target)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("shift", [-1, 1])
def test_positions_that_are_off_by_one_are_caught_when_a_model_is_wrapped(monkeypatch, kind, shift):
    forward = CausalModel._forward

    def shifted(self, tokens, positions, mask):
        return forward(self, tokens, positions if mask is None else positions + shift, mask)

    monkeypatch.setattr(CausalModel, "_forward", shifted)
    model = build(kind, TAKEN[kind])
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(model)


def test_attending_to_rejected_entries_is_caught_when_a_model_is_wrapped(monkeypatch, target):
    forward = CausalModel._forward

    def careless(self, tokens, positions, mask):
        if mask is not None:
            mask = torch.ones_like(mask).tril(mask.shape[-1] - mask.shape[-2])
        return forward(self, tokens, positions, mask)

    monkeypatch.setattr(CausalModel, "_forward", careless)
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(target)


def test_a_moved_row_brings_its_entries_and_its_length():
    cache = RaggedCache()
    positions = torch.arange(3).expand(2, -1)
    cache.aim([0, 1], positions, is_prompt=True)
    keys = torch.arange(12.0).reshape(2, 1, 3, 2)
    cache.update(keys, -keys, 0)
    cache.lengths[:] = [1, 3]
    cache.move(1, 0)
    assert cache.lengths == [3, 3]
    assert torch.equal(cache.layers[0].keys[0, :, :3], keys[1])
    assert torch.equal(cache.layers[0].values[0, :, :3], -keys[1])


def test_a_model_with_too_few_positions_is_refused_for_that_reason():
    with pytest.raises(ConfigError, match="has 8 positions, of which 9 are needed"):
        CausalModel(llama(seed=0, max_position_embeddings=8))
    CausalModel(llama(seed=0, max_position_embeddings=9))


def test_models_that_misfit_in_their_own_words_are_refused_in_one_line():
    # XLNet names -1 positions, which is no limit; XLM has a cache of its own, the first GPT none.
    small = {"vocab_size": VOCAB, "n_layer": 1, "n_head": 2}
    xlnet = AutoConfig.for_model("xlnet", d_model=32, d_inner=32, **small)
    xlm = AutoConfig.for_model("xlm", emb_dim=32, n_layers=1, n_heads=2, causal=True, n_words=VOCAB)
    gpt = AutoConfig.for_model("openai-gpt", vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2)
    no_cache = "takes no cache of keys and values"
    for config, reason in ((xlnet, "takes no position_ids"), (xlm, no_cache), (gpt, no_cache)):
        with pytest.raises(ConfigError, match=reason) as error:
            CausalModel(AutoModelForCausalLM.from_config(config).eval())
        assert_one_line_that_says_what_to_use_instead(str(error.value), "target")
