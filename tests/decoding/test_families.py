"""Each family decodes as `generate` does, one text at a time, and drafts its own continuations.

Five prompts in four rows, so that rows are ragged and one is filled anew.
"""

import pytest
import torch
from transformers import DynamicCache

from lm_eval_specfair.conformance.reference import goodness_of_fit, text_law
from lm_eval_specfair.conformance.tiny_families import (
    FAMILIES,
    PROMPTS,
    VOCAB_SIZE,
    built,
    configuration,
    family,
)
from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.drafters import ModelDrafter, PromptLookup
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import CPU, accepted, decode, plain_scores, request, transformers_greedy
from support.family_marks import marked

NEW_TOKENS, BATCH = 20, 4
# One of each kind of mask, cache and position.
QUICK = (
    "llama4", "gemma4", "gpt_oss", "mistral_window", "phi4_longrope", "llama_longrope",
    "glm_moe_dsa", "gpt_neo", "bloom", "mpt", "falcon_alibi",
)  # fmt: skip
NAMES = marked(FAMILIES, QUICK)
# Scores depend on how long the text was: each draft is judged by a pass over just what it follows.
BY_LENGTH = ("phi4_longrope", "phimoe_longrope")
NOISE = 1e-3  # of scores of about unit spread


def ties_in_selection(model, tokens: list[int]) -> bool:
    """Whether a sparse indexer's choice of keys hangs on two equal scores; then it is arbitrary."""
    size = getattr(model.config, "index_topk", None)
    if size is None or len(tokens) <= size:
        return False
    gaps, original = [], torch.Tensor.topk

    def watched(scores, k, dim=-1, **more):
        if k == size and scores.ndim == 3:
            ordered = scores.sort(dim=-1, descending=True).values
            gap = ordered[..., k - 1] - ordered[..., k]
            gaps.append(float(gap[torch.isfinite(gap)].min()))
        return original(scores, k, dim=dim, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "topk", watched)
        plain_scores(model, tokens)
    return min(gaps) < 1e-5


def own_steps(model, prompt: list[int], text: list[int]) -> torch.Tensor:
    """Scores after a text's tokens as `generate` reads it: the prompt at once, the rest one by one.

    From the prompt's last token on, shape (tokens, vocab).
    """
    cache = DynamicCache(config=model.config)
    parts = [prompt, *([token] for token in text[len(prompt) :])]
    with torch.inference_mode():
        outputs = [model(torch.tensor([part]), past_key_values=cache) for part in parts]
    return torch.stack([output.logits[0, -1] for output in outputs])


def assert_same(model, expected: list[list[int]], completions) -> None:
    """Equal texts, but for ties: the first other token is as good within a plain pass's noise."""
    for prompt, want, completion in zip(PROMPTS, expected, completions, strict=True):
        got = completion.token_ids
        assert len(got) == len(want)
        place = next((i for i, (a, b) in enumerate(zip(want, got, strict=True)) if a != b), None)
        if place is not None:
            scores = plain_scores(model, prompt + want[:place])[-1]
            gap = float((scores[want[place]] - scores[got[place]]).abs())
            if not ties_in_selection(model, prompt + want[:place]):
                assert gap < NOISE / 10, f"token {place} after {len(prompt)}: {gap:.3g} apart"


@pytest.mark.parametrize("name", NAMES)
def test_greedy_texts_are_those_of_generate(name):
    model = family(name)
    expected = [transformers_greedy(model, prompt, NEW_TOKENS) for prompt in PROMPTS]
    wrapped = CausalModel(model)
    near = CausalModel(disturbed(model, 0.01), role="drafter")
    requests = [request(prompt, NEW_TOKENS) for prompt in PROMPTS]

    for width in (1, 4, 8):
        drafter = ModelDrafter(near, vocab_size=VOCAB_SIZE)
        found = decode(wrapped, drafter, requests, batch_size=BATCH, num_speculative_tokens=width)
        assert_same(model, expected, found)
        assert accepted(found) > 0
    found = decode(wrapped, PromptLookup(CPU), requests, batch_size=BATCH, num_speculative_tokens=4)
    assert_same(model, expected, found)


class Noted:
    """A drafter whose proposals are noted, each with the text before it."""

    def __init__(self, drafter: ModelDrafter) -> None:
        self._drafter, self.proposals = drafter, []

    def __getattr__(self, name):
        return getattr(self._drafter, name)

    def propose(self, histories, lengths, config, uniforms):
        draft = self._drafter.propose(histories, lengths, config, uniforms)
        for history, tokens, number in zip(
            histories, draft.tokens.tolist(), draft.num_drafted, strict=True
        ):
            if number:
                self.proposals.append((list(history), tokens[:number]))
        return draft


@pytest.mark.parametrize("name", NAMES)
def test_a_drafter_proposes_its_own_greedy_continuation(name):
    model, target = family(name), llama(3, vocab_size=VOCAB_SIZE)
    noted = Noted(ModelDrafter(CausalModel(model, role="drafter"), vocab_size=VOCAB_SIZE))
    requests = [request(prompt, 12) for prompt in PROMPTS]

    found = decode(target, noted, requests, batch_size=BATCH, num_speculative_tokens=4)

    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert completion.token_ids == transformers_greedy(target, prompt, 12)
    assert len(noted.proposals) > 40
    for history, drafted in noted.proposals:
        text = history + drafted
        if name == "llama_longrope":
            prompt = next(p for p in PROMPTS if history[: len(p)] == p)
            scores = own_steps(model, prompt, text)[len(history) - len(prompt) : -1]
        elif name in BY_LENGTH:
            ends = range(len(history), len(text))
            scores = torch.stack([plain_scores(model, text[:end])[-1] for end in ends])
        else:
            scores = plain_scores(model, text)[len(history) - 1 : -1]
        own = scores.gather(1, torch.tensor(drafted)[:, None])[:, 0]
        is_own = float((scores.amax(-1) - own).max()) < NOISE
        assert is_own or ties_in_selection(model, text)


TOY_VOCAB, TOY_LENGTH, TOY_PROMPT = 5, 3, [1 + i * i % 4 for i in range(18)]
BORDER = {
    "original_max_position_embeddings": 19,  # crossed by the second token
    "rope_parameters": FAMILIES["phi4_longrope"]["rope_parameters"]
    | {"original_max_position_embeddings": 19},
}
# One of each kind of cache, mask and position: the prompt is longer than the windows.
SAMPLED = {
    "gemma2": {},
    "llama4": {},
    "gpt_oss": {},
    "gemma4": {"vocab_size_per_layer_input": TOY_VOCAB},
    "glm_moe_dsa": {},
    "gpt_neo": {},
    "bloom": {},
    "phi4_longrope": BORDER,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "gemma2" else pytest.mark.slow) for n in SAMPLED]
)
def test_sampled_texts_follow_the_targets_law(name):
    config = configuration(name, vocab_size=TOY_VOCAB, initializer_range=0.1, **SAMPLED[name])
    model = built(config)
    near = disturbed(model, 0.02)
    drafter = ModelDrafter(CausalModel(near, role="drafter"), vocab_size=TOY_VOCAB)
    requests = [request(TOY_PROMPT, TOY_LENGTH, name=str(number)) for number in range(1500)]

    found = decode(
        model, drafter, requests, batch_size=16, num_speculative_tokens=2, temperature=1.0, seed=5
    )

    law = text_law(model, tuple(TOY_PROMPT), TOY_LENGTH, 1.0, None, None)
    observed = torch.zeros_like(law)
    for completion in found:
        observed[tuple(completion.token_ids)] += 1
    assert goodness_of_fit(observed, law) > 1e-4
    assert float(law.max()) < 0.6


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("rope", [None, YARN])
def test_rotary_positions_go_on_beyond_the_number_that_is_named(rope):
    more = {} if rope is None else {"rope_parameters": rope}
    model = built(configuration("llama", max_position_embeddings=32, **more))
    expected = [transformers_greedy(model, prompt, NEW_TOKENS) for prompt in PROMPTS]
    requests = [request(prompt, NEW_TOKENS) for prompt in PROMPTS]

    found = decode(model, PromptLookup(CPU), requests, batch_size=BATCH, num_speculative_tokens=4)

    assert_same(model, expected, found)


ENDS = {
    "gpt2": {"n_positions": 32},
    "opt": {"max_position_embeddings": 32},
    "gptj": {"n_positions": 32},
    "gpt_neo": {"max_position_embeddings": 32},
    "mpt": {"max_seq_len": 32},
    "doge": {"keep_window_size": 32},
    "llama": {
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    },
}


@pytest.mark.parametrize("name", ENDS)
def test_a_text_ends_where_positions_do(name):
    model = built(configuration(name, **ENDS[name]))
    prompt, full = PROMPTS[2], 32 - len(PROMPTS[2]) + 1
    short = PROMPTS[0]
    requests = [request(prompt, full), request(short, full)]

    found = decode(model, PromptLookup(CPU), requests, batch_size=2, num_speculative_tokens=4)

    for asked, completion in zip((prompt, short), found, strict=True):
        assert completion.token_ids == transformers_greedy(model, asked, full)
    with pytest.raises(ConfigError, match="has 32 positions; a text of 33 tokens is longer"):
        decode(model, PromptLookup(CPU), [request(prompt, full + 1)], num_speculative_tokens=4)
