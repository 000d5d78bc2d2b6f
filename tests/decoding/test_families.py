"""Each family decodes as `generate` does, one text at a time, and drafts its own continuations.

Five prompts in four rows, so that rows are ragged and one is filled anew.
"""

import pytest
import torch
from transformers import DynamicCache

from lm_eval_specfair.conformance.tiny_families import FAMILIES, PROMPTS, VOCAB_SIZE, family
from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.drafters import ModelDrafter, PromptLookup
from lm_eval_specfair.decoding.models import CausalModel

from support.decoding_runs import CPU, accepted, decode, plain_scores, request, transformers_greedy

NEW_TOKENS, BATCH = 20, 4
# One of each kind of mask, cache and position.
QUICK = (
    "llama4", "gemma3", "gemma4", "gpt_oss", "mistral_window", "phi4_longrope", "llama_longrope",
    "glm_moe_dsa", "gpt_neo", "bloom", "mpt", "falcon_alibi", "deepseek_v3",
)  # fmt: skip
NAMES = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAMILIES]
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
    near = disturbed(model, 0.01)
    requests = [request(prompt, NEW_TOKENS) for prompt in PROMPTS]

    for width in (1, 4, 8):
        drafter = ModelDrafter(CausalModel(near, role="drafter"), vocab_size=VOCAB_SIZE)
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
