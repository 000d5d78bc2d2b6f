"""Half precision and vocabularies that are padded differently."""

import copy
import math

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.drafters import NoDrafter, PromptLookup

from support.decoding_runs import (
    CPU,
    accepted,
    decode,
    model_drafter,
    random_prompts,
    rejections,
    request,
    transformers_greedy,
)

VOCAB = 260
PROMPTS = random_prompts(10, longest=20, vocab_size=VOCAB, seed=10)
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}


def with_vocabulary(model, vocab_size: int):
    """The same model with its vocabulary padded (or cut) to another size.

    Padded ids get the largest scores of all: only the engine keeps them out.
    """
    other = llama(0, vocab_size=vocab_size)
    weights = model.state_dict()
    for name, weight in weights.items():
        if weight.shape[0] == VOCAB:
            filled = torch.zeros(vocab_size, *weight.shape[1:])
            filled[:VOCAB] = weight[:vocab_size]
            filled[VOCAB:] = 3 * weight[:4].abs().amax(0)
            weights[name] = filled
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["model", "prompt lookup", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_pairs_emit_whole_texts_with_finite_sums(target, dtype, kind, options):
    half = copy.deepcopy(target).to(dtype)
    drafter = {
        "model": lambda: model_drafter(disturbed(target, 0.005).to(dtype), VOCAB),
        "prompt lookup": lambda: PromptLookup(CPU),
        "none": lambda: NoDrafter(CPU),
    }[kind]()
    requests = [request(prompt * 2, 30) for prompt in PROMPTS]
    completions = decode(half, drafter, requests, batch_size=4, **options)
    for completion in completions:
        counted = completion.counters
        assert len(completion.token_ids) == 30
        assert completion.finish_reason == "length"
        assert all(0 <= token < VOCAB for token in completion.token_ids)
        for value in (counted.kl_sum, counted.cross_entropy_sum, counted.target_entropy_sum):
            assert math.isfinite(value)
            assert value >= -1e-3
        assert 0 <= counted.overlap_sum <= counted.num_positions * (1 + 1e-6)
    if kind == "model":
        assert accepted(completions) > 50
        assert rejections(completions) > 0


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_half_precision_text_ends_like_plain_decoding_or_by_a_close_call(target, dtype, options):
    # Blocks of other widths round otherwise, so texts may part, but not at once.
    half = copy.deepcopy(target).to(dtype)
    requests = [request(prompt, 10) for prompt in PROMPTS]
    plain = decode(half, NoDrafter(CPU), requests, batch_size=1, **options)
    itself = decode(half, model_drafter(half, VOCAB), requests, batch_size=4, **options)
    if not options:
        same = [a.token_ids[0] == b.token_ids[0] for a, b in zip(plain, itself, strict=True)]
        assert sum(same) >= 9
    # Its own drafts are accepted nearly always.
    assert accepted(itself) > 10 * rejections(itself)


@pytest.mark.parametrize("own", [264, 259, 256])
def test_a_drafter_of_another_padded_vocabulary_gives_the_targets_text(target, own):
    drafter = model_drafter(with_vocabulary(target, own), VOCAB)
    requests = [request(prompt, 20) for prompt in PROMPTS if max(prompt) < min(own, VOCAB)]
    completions = decode(target, drafter, requests, batch_size=4)
    for completion in completions:
        assert completion.token_ids == transformers_greedy(target, completion.request.prompt, 20)
    assert accepted(completions) > 50


@pytest.mark.parametrize("own", [264, 256])
def test_sampling_with_a_drafter_of_another_padded_vocabulary_stays_in_the_targets(target, own):
    drafter = model_drafter(with_vocabulary(target, own), VOCAB)
    requests = [request(prompt, 20) for prompt in PROMPTS if max(prompt) < min(own, VOCAB)]
    completions = decode(target, drafter, requests, batch_size=4, temperature=1.0)
    for completion in completions:
        counted = completion.counters
        assert all(0 <= token < VOCAB for token in completion.token_ids)
        assert math.isfinite(counted.kl_sum)
        assert math.isfinite(counted.cross_entropy_sum)
        if own < VOCAB:  # p gives the ids that q lacks some mass
            assert counted.num_infinite == counted.num_positions
        else:
            assert counted.num_infinite == 0
            assert counted.kl_sum == pytest.approx(0, abs=1e-3)  # the padding took no mass
            assert counted.accepted_per_step == counted.drafted_per_step
    assert accepted(completions) > 50
