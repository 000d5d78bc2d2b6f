"""Models with recurrent states decode as `generate` does, one text at a time, whatever the batch.

Rows are ragged, one is replaced, and every drafter's proposals are its own greedy continuation.
"""

import copy
import functools
import re

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.drafters import ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.states import recurrent_passes, state_trial
from lm_eval_specfair.decoding.states.row_states import RowStates
from lm_eval_specfair.decoding.states.state_cache import StateCache
from lm_eval_specfair.decoding.states.state_forward import NativePasses, native_scores
from lm_eval_specfair.decoding.states.stateful_model import StatefulModel
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import (
    CPU,
    decode,
    request,
    transformers_greedy,
)
from support.environments import CHECKOUT
from support.family_marks import marked
from support.recurrent_families import OF_EACH_KIND, RECURRENT, VOCAB, prompts, recurrent

NEW = 24
LENGTHS = (8, 40, 17, 30, 23)
QUICK = ("qwen3_5_text", "mamba", "lfm2", "zamba2", "rwkv")
FAMILIES = marked(RECURRENT, QUICK)
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
    "xlstm": "row",
    "qwen4_exp_text": "row",
    "inkling_text": "row",
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


def texts_of(target, drafter, asked, gamma: int, batch_size: int = 4) -> list[list[int]]:
    done = decode(
        target,
        drafter,
        [request(prompt, NEW, str(number)) for number, prompt in enumerate(asked)],
        batch_size=batch_size,
        num_speculative_tokens=gamma,
    )
    return [each.token_ids for each in done]


@functools.cache
def expected_texts(kind: str, lengths: tuple[int, ...]) -> list[list[int]]:
    # RecurrentGemma's modules keep what `generate` leaves in them: a fresh model for each text.
    return [transformers_greedy(recurrent(kind), prompt, NEW) for prompt in prompts(lengths)]


@functools.cache
def wrapped(kind: str, noise: float = 0.0) -> CausalModel:
    model = recurrent(kind)
    return CausalModel(disturbed(model, noise) if noise else model)


def near_drafter(kind: str) -> Recorded:
    return Recorded(ModelDrafter(wrapped(kind, 0.02), vocab_size=VOCAB))


@pytest.mark.parametrize("kind", FAMILIES)
def test_greedy_texts_are_those_of_generate(kind):
    asked, target, near = prompts(), wrapped(kind), near_drafter(kind)
    assert target.states == WAYS.get(kind, "block")
    for drafter in (near, PromptLookup(CPU), NoDrafter(CPU)):
        for prompt, right, got in zip(
            asked,
            expected_texts(kind, LENGTHS),
            texts_of(target, drafter, asked, 4),
            strict=True,
        ):
            assert_same_up_to_near_ties(recurrent(kind), prompt, right, got)
    assert_own_continuations(disturbed(recurrent(kind), 0.02), asked, near.proposals)


@pytest.mark.parametrize("gamma", [1, 8])
@pytest.mark.parametrize("kind", OF_EACH_KIND)
def test_prompts_of_one_token_and_other_draft_lengths(kind, gamma):
    lengths = (1, 2, 9, 1, 5, 1)
    asked, near = prompts(lengths), near_drafter(kind)
    got = texts_of(wrapped(kind), near, asked, gamma, batch_size=3)
    for prompt, right, text in zip(asked, expected_texts(kind, lengths), got, strict=True):
        assert_same_up_to_near_ties(recurrent(kind), prompt, right, text)
    assert_own_continuations(disturbed(recurrent(kind), 0.02), asked, near.proposals)


def test_a_llama_takes_a_drafter_with_states():
    target = llama(0, vocab_size=VOCAB)
    drafter = near_drafter("qwen3_5_text")
    for prompt, text in zip(prompts(), texts_of(target, drafter, prompts(), 4), strict=True):
        assert text == transformers_greedy(target, prompt, NEW)
    assert_own_continuations(
        disturbed(recurrent("qwen3_5_text"), 0.02), prompts(), drafter.proposals
    )


def test_caches_are_rebuilt_after_a_failed_row_and_states_with_them(monkeypatch):
    kind, asked = "qwen3_5_text", prompts()
    faults, calls = Engine._faults, []

    def one_fails(self, *given):
        found = faults(self, *given)
        calls.append(1)
        if len(calls) == 3:
            found[0] = 1
        return found

    monkeypatch.setattr(Engine, "_faults", one_fails)
    near = near_drafter(kind)
    done = decode(
        wrapped(kind),
        near,
        [request(prompt, NEW, str(number)) for number, prompt in enumerate(asked)],
        batch_size=4,
        num_speculative_tokens=4,
    )
    assert [bool(each.failure) for each in done].count(True) == 1
    for prompt, right, each in zip(asked, expected_texts(kind, LENGTHS), done, strict=True):
        if not each.failure:
            assert_same_up_to_near_ties(recurrent(kind), prompt, right, each.token_ids)


# ------------------------------------------------------------------ bugs that must be seen


def not_rolled_back(monkeypatch):
    monkeypatch.setattr(RowStates, "roll_back", lambda self, row, length: None)


def states_after_padding_kept(monkeypatch):
    monkeypatch.setattr(recurrent_passes, "_without_padding", lambda feeds: range(len(feeds)))


def moved_row_leaves_its_states(monkeypatch):
    monkeypatch.setattr(RowStates, "move", lambda self, source, destination: None)


def convolution_forgotten(monkeypatch):
    begin = StateCache.begin

    def forgetful(self, states):
        for values in states or ():
            for number, value in (values.get("conv_states") or {}).items():
                values["conv_states"][number] = torch.zeros_like(value)
        begin(self, states)

    monkeypatch.setattr(StateCache, "begin", forgetful)


@pytest.mark.parametrize(
    "bug",
    [
        not_rolled_back,
        states_after_padding_kept,
        moved_row_leaves_its_states,
        convolution_forgotten,
    ],
)
def test_bugs_of_states_are_seen(monkeypatch, bug):
    kind, asked = "qwen3_5_text", prompts()
    target = wrapped(kind)
    drafters = [near_drafter(kind), Recorded(ModelDrafter(wrapped(kind), vocab_size=VOCAB))]
    bug(monkeypatch)
    with pytest.raises((AssertionError, KeyError, IndexError)):  # noqa: PT012
        for drafter, gamma in zip(drafters, (4, 2), strict=True):
            got = texts_of(target, drafter, asked, gamma)
            for prompt, right, text in zip(asked, expected_texts(kind, LENGTHS), got, strict=True):
                assert_same_up_to_near_ties(recurrent(kind), prompt, right, text)


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


def test_the_support_page_names_these_families_and_how_they_are_read():
    page = (CHECKOUT / "docs" / "support.md").read_text(encoding="utf-8")
    rows = page.split("### With recurrent states")[1].split("\n### ")[0]
    told = {
        way: set(re.findall(r"`(\w+)`", next(r for r in rows.splitlines() if r.startswith(start))))
        for way, start in (
            ("block", "| a block of drafts"),
            ("token", "| one token at a time"),
            ("row", "| one token of one row"),
        )
    }
    told["row"].discard("generate")
    known: dict[str, set[str]] = {"block": set(), "token": set(), "row": set()}
    for kind in RECURRENT:
        known[WAYS.get(kind, "block")].add(kind.removesuffix("_text"))
    assert told == known
