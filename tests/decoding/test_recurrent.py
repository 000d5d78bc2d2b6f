"""Models with recurrent states decode as `generate` does, one text at a time, whatever the batch.

Rows are ragged, one is replaced, and every drafter's proposals are its own greedy continuation.
"""

import copy

import pytest

from lm_eval_specfair.conformance.tiny_models import disturbed
from lm_eval_specfair.decoding.drafters import ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.states import state_trial
from lm_eval_specfair.decoding.states.state_forward import NativePasses, native_scores
from lm_eval_specfair.decoding.states.stateful_model import StatefulModel
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import CPU, decode, request, transformers_greedy
from support.recurrent_families import RECURRENT, VOCAB, prompts, recurrent

NEW = 24
QUICK = ("qwen3_5_text", "mamba", "lfm2", "zamba2", "rwkv")
FAMILIES = [
    pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in RECURRENT
]
# What the trial finds: a pass over a block, or one token at a time where a block's pass forgets the
# state (or cuts the text otherwise), or one row at a time.
WAYS = {
    "mamba": "token",
    "falcon_mamba": "token",
    "jamba": "token",
    "zamba": "token",
    "recurrent_gemma": "token",
    "nemotron_h": "token",
    "zamba2": "token",
    "rwkv": "row",
    "deepseek_v4": "row",
}


def exact_gap(model, prompt: list[int], text: list[int], tokens: tuple[int, int]) -> float:
    """How far apart two tokens are behind a text, in fp64 and by the model's own steps."""
    exact = copy.deepcopy(model).double()
    if hasattr(exact, "set_experts_implementation"):
        exact.set_experts_implementation("eager")
    scores = native_scores(exact, [*prompt, *text], len(prompt))[-1]
    return float((scores[tokens[0]] - scores[tokens[1]]).abs())


def assert_same_up_to_near_ties(model, prompt, expected, got) -> None:
    differing = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    if differing:
        place = differing[0]
        gap = exact_gap(model, prompt, expected[:place], (expected[place], got[place]))
        assert gap < 1e-4, f"token {place} after {len(prompt)}: {gap:.3g} apart in fp64"


class Recorded:
    """A drafter whose proposals are noted, each with the text before it."""

    def __init__(self, drafter) -> None:
        self._drafter, self.proposals = drafter, []

    def __getattr__(self, name):
        return getattr(self._drafter, name)

    def propose(self, histories, lengths, config, uniforms):
        before = [list(history) for history in histories]
        draft = self._drafter.propose(histories, lengths, config, uniforms)
        for history, tokens, number in zip(
            before, draft.tokens.tolist(), draft.num_drafted, strict=True
        ):
            if number:
                self.proposals.append((history, tokens[:number]))
        return draft


def assert_own_continuations(model, asked: list[list[int]], proposals) -> None:
    passes, kept = NativePasses(model), {}
    for history, drafted in proposals:
        prompt = next(p for p in asked if history[: len(p)] == p)
        for number, token in enumerate(drafted):
            text = history + drafted[:number]
            scores = _after(passes, kept, prompt, text)
            assert float(scores.max() - scores[token]) < 1e-3, (len(prompt), len(text), number)


def _after(passes, kept, prompt, text):
    """Scores after a text; what was read before is not read again."""
    if tuple(text) not in kept:
        if text == prompt:
            kept[tuple(text)] = passes.read(text, 0, None)
        else:
            _after(passes, kept, prompt, text[:-1])
            kept[tuple(text)] = passes.read(text[-1:], len(text) - 1, kept[tuple(text[:-1])][1])
    return kept[tuple(text)][0]


@pytest.mark.parametrize("kind", FAMILIES)
def test_greedy_texts_are_those_of_generate(kind):
    model, asked = recurrent(kind), prompts()
    target = CausalModel(model)
    assert target.states == WAYS.get(kind, "block")
    near = Recorded(ModelDrafter(CausalModel(disturbed(model, 0.02)), vocab_size=VOCAB))
    expected = [transformers_greedy(recurrent(kind), prompt, NEW) for prompt in asked]
    for drafter, gamma in ((near, 4), (PromptLookup(CPU), 4), (NoDrafter(CPU), 4)):
        done = decode(
            target,
            drafter,
            [request(prompt, NEW) for prompt in asked],
            batch_size=4,
            num_speculative_tokens=gamma,
        )
        for prompt, right, got in zip(asked, expected, done, strict=True):
            assert_same_up_to_near_ties(model, prompt, right, got.token_ids)
    assert_own_continuations(disturbed(model, 0.02), asked, near.proposals)


def test_a_model_that_no_way_of_decoding_agrees_with_is_refused(monkeypatch):
    model = recurrent("mamba")  # whose pass over a block forgets the state
    monkeypatch.setattr(
        state_trial, "_ways", lambda model: iter([lambda: StatefulModel(model, mode="block")])
    )
    with pytest.raises(ConfigError, match="recurrent state") as error:
        CausalModel(model, role="drafter")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("drafter")
    assert "specfair replay" in message
    assert "backend=vllm" in message
