"""Sampled texts of models with recurrent states: their law is the target's own, by enumeration."""

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import disturbed
from lm_eval_specfair.decoding.states.state_forward import NativePasses

from support.decoding_runs import accepted, decode, model_drafter, rejections, request
from support.laws import goodness_of_fit
from support.recurrent_families import OF_EACH_KIND, recurrent

LAW_VOCAB, LAW_LENGTH = 6, 3
LAW_PROMPTS = [[1, 2, 3, 1, 2], [4], [5, 3, 5, 3, 4, 5, 3, 5]]


def law(model, prompt: list[int]) -> torch.Tensor:
    """Probability of each text of three tokens, by the model's own steps."""
    passes = NativePasses(model)
    found = torch.zeros((LAW_VOCAB,) * LAW_LENGTH, dtype=torch.float64)
    first, kept = passes.read(prompt, 0, None)
    chances = first.double().softmax(-1)
    for one in range(LAW_VOCAB):
        scores, kept_one = passes.read([one], len(prompt), kept)
        after_one = chances[one] * scores.double().softmax(-1)
        for two in range(LAW_VOCAB):
            scores, _ = passes.read([two], len(prompt) + 1, kept_one)
            found[one, two] = after_one[two] * scores.double().softmax(-1)
    return found


@pytest.mark.parametrize("kind", OF_EACH_KIND)
def test_sampled_texts_follow_the_law_of_the_target(kind):
    model = recurrent(kind, vocab_size=LAW_VOCAB)
    number = 1_200
    completions = decode(
        model,
        model_drafter(disturbed(model, 0.1), LAW_VOCAB),
        [request(LAW_PROMPTS[n % 3], LAW_LENGTH, f"r{n}") for n in range(number)],
        batch_size=32,
        num_speculative_tokens=2,
        temperature=1.0,
    )
    assert accepted(completions) > number / 20
    assert rejections(completions) > number / 20
    for prompt in LAW_PROMPTS:
        observed = torch.zeros((LAW_VOCAB,) * LAW_LENGTH, dtype=torch.float64)
        for each in completions:
            if each.request.prompt == prompt:
                observed[tuple(each.token_ids)] += 1
        assert goodness_of_fit(observed, law(model, prompt)) > 1e-4
