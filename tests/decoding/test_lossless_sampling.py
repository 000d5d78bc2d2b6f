"""Sampled texts of 3 tokens over a vocabulary of 8: their law is the target's own, exactly.

All 512 texts are enumerated with the target alone; a chi-square test compares what the engine
emits. A rule that accepts everything must fail the same test: it shows that the test can see.
"""

import itertools
from collections.abc import Sequence

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding import acceptance, drafters, engine
from lm_eval_specfair.decoding.acceptance import Verification, draw
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import PromptLookup
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap

from support.decoding_runs import (
    CPU,
    accepted,
    decode,
    model_drafter,
    plain_scores,
    processed,
    rejections,
    request,
)
from support.fitted_drafters import ngram_drafter, trusted_first
from support.laws import goodness_of_fit
from support.tiny_heads import head_drafter, tiny_head
from support.vocabularies import LETTERS, OTHER_LETTERS, toy_drafter

VOCAB, LENGTH, NUM_REQUESTS = 8, 3, 20_000
SHAPE = {"hidden_size": 16, "num_attention_heads": 1, "max_position_embeddings": 32}
TARGET = llama(3, layers=1, vocab_size=VOCAB, **SHAPE)
DRAFTER = llama(4, layers=1, vocab_size=VOCAB, **SHAPE)
# Of different lengths; the tokens repeat, so that prompt lookup has something to copy.
PROMPTS = [[1, 2, 3, 1, 2], [4, 4], [5, 6, 5, 6, 7, 5, 6, 5]]
FOREIGN = llama(4, layers=1, vocab_size=len(OTHER_LETTERS), **SHAPE)
MAKE = {
    "model": lambda: model_drafter(DRAFTER, VOCAB),
    "prompt lookup": lambda: PromptLookup(CPU),
    # Of another vocabulary: through the tokens that both have, and through text.
    "intersection": lambda: toy_drafter(FOREIGN, LETTERS, OTHER_LETTERS),
    "text": lambda: toy_drafter(FOREIGN, LETTERS, OTHER_LETTERS, "text"),
    "n-gram": lambda: ngram_drafter([[1, 2, 3, 1, 4, 5, 6, 7, 0, 2], [4, 4, 1, 7]], VOCAB),
    "store": lambda: SuffixLookup(CPU, TextStore([[1, 2, 3, 1, 2], [4, 1, 0, 6], [7, 5]])),
    "lookup first": lambda: trusted_first(MAKE["model"](), VOCAB),
    "lookup before n-grams": lambda: trusted_first(MAKE["n-gram"](), VOCAB, least=1),
    # On the target's own hidden states, among some of its tokens.
    "head": lambda: head_drafter(
        tiny_head(TARGET.config, feature_layers=(0, 1), drafted=(0, 1, 2, 4, 5, 7)), TARGET
    ),
    # Three drafters and none, request by request, in one batch.
    "routed": lambda: RoutedDrafter(
        {name: MAKE[name]() for name in ROUTES[:-1]}, ROUTES[0], vocab_size=VOCAB, device=CPU
    ),
}
ROUTES = ["model", "prompt lookup", "intersection", "none"]
PLAIN = {"temperature": 1.0, "top_k": None, "top_p": None}
TOP_K = {"temperature": 0.7, "top_k": 4, "top_p": None}
TOP_P = {"temperature": 1.0, "top_k": None, "top_p": 0.8}
BLOCK = {"verification": "block"}


def exact_law(prompt: list[int], options: dict) -> torch.Tensor:
    """Probability of each text, shape (VOCAB,) * LENGTH."""
    law = torch.zeros((VOCAB,) * LENGTH, dtype=torch.float64)
    for text in itertools.product(range(VOCAB), repeat=LENGTH):
        chance = law.new_ones(())
        for place, token in enumerate(text):
            chance = chance * conditional(tuple(prompt), text[:place], options)[token]
        law[text] = chance
    return law


_CONDITIONALS: dict[tuple, torch.Tensor] = {}


def conditional(prompt: tuple[int, ...], text: tuple[int, ...], options: dict) -> torch.Tensor:
    key = (prompt, text, *options.values())
    if key not in _CONDITIONALS:
        scores = plain_scores(TARGET, [*prompt, *text])[-1]
        _CONDITIONALS[key] = processed(scores, **options)
    return _CONDITIONALS[key]


def p_values(
    name: str,
    options: dict,
    draft_length: int,
    batch_size: int,
    number: int,
    own: Sequence[float | None] = (None,),
    **config,
):
    """A p-value a prompt, and the completions; `own` are drafters' temperatures, in rotation."""
    drafter = MAKE[name]()
    prompts = [PROMPTS[place % len(PROMPTS)] for place in range(number)]
    completions = decode(
        TARGET,
        drafter,
        [
            request(
                prompt,
                LENGTH,
                f"r{place}",
                drafter=ROUTES[place % len(ROUTES)],
                drafter_temperature=own[place % len(own)],
            )
            for place, prompt in enumerate(prompts)
        ],
        batch_size=batch_size,
        num_speculative_tokens=draft_length,
        **options,
        **config,
    )
    values = []
    for prompt in PROMPTS:
        observed = torch.zeros((VOCAB,) * LENGTH, dtype=torch.float64)
        for completion in completions:
            if completion.request.prompt == prompt:
                observed[tuple(completion.token_ids)] += 1
        values.append(goodness_of_fit(observed, exact_law(prompt, options)))
    return values, completions


def assert_lossless(name: str, options: dict, draft_length: int, batch_size: int, **config) -> None:
    values, completions = p_values(name, options, draft_length, batch_size, NUM_REQUESTS, **config)
    # The seeds are fixed, so this passes or fails for good; by chance it fails 3 times in 10,000.
    assert min(values) > 1e-4, values
    assert accepted(completions) > NUM_REQUESTS / 20
    assert rejections(completions) > NUM_REQUESTS / 20


def test_the_laws_are_laws_and_the_models_disagree():
    for prompt, options in itertools.product(PROMPTS, (PLAIN, TOP_K, TOP_P)):
        assert exact_law(prompt, options).sum().item() == pytest.approx(1)
        p, q = (
            processed(plain_scores(model, prompt)[-1], **options) for model in (TARGET, DRAFTER)
        )
        assert 0.02 < torch.minimum(p, q).sum() < 0.9


@pytest.mark.parametrize(
    ("name", "options", "draft_length"),
    [
        ("model", TOP_K, 2),
        pytest.param("intersection", PLAIN, 2, marks=pytest.mark.slow),
        ("text", TOP_P, 2),
        ("routed", PLAIN, 2),
        pytest.param("n-gram", PLAIN, 2, marks=pytest.mark.slow),
        pytest.param("lookup first", TOP_K, 2, marks=pytest.mark.slow),
        ("head", PLAIN, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sampled_texts_follow_the_law_of_the_target(name, options, draft_length):
    assert_lossless(name, options, draft_length, batch_size=256)


@pytest.mark.thorough
@pytest.mark.parametrize("options", [PLAIN, TOP_K, TOP_P], ids=["plain", "top-k", "top-p"])
@pytest.mark.parametrize(
    ("name", "draft_length", "batch_size"),
    [
        ("model", 2, 8),
        ("model", 4, 128),
        ("prompt lookup", 4, 128),
        ("intersection", 4, 128),
        ("text", 4, 128),
        ("routed", 4, 128),
        ("n-gram", 4, 128),
        ("store", 4, 128),
        ("lookup first", 4, 128),
        ("lookup before n-grams", 4, 8),
        ("head", 4, 8),
    ],
)
def test_sampled_texts_follow_the_law_of_the_target_in_all_settings(
    name, options, draft_length, batch_size
):
    assert_lossless(name, options, draft_length, batch_size)


def test_blocks_judged_as_a_whole_follow_the_law_of_the_target():
    assert_lossless("model", TOP_K, 4, batch_size=256, **BLOCK)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model", PLAIN),
        ("prompt lookup", PLAIN),
        ("intersection", TOP_P),
        ("text", TOP_K),
        ("n-gram", TOP_P),
        ("lookup first", PLAIN),
    ],
)
def test_blocks_of_all_drafters_follow_the_law_of_the_target(name, options):
    assert_lossless(name, options, 4, batch_size=128, **BLOCK)


def test_tempered_drafters_follow_the_law_of_the_target():
    assert_lossless("model", TOP_K, 3, batch_size=256, own=[0.3, None, 0.0, 2.0])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("model", PLAIN, {"drafter_temperature": 0.4}),
        ("model", TOP_P, {"drafter_temperature": 0.0}),
        ("intersection", PLAIN, {"drafter_temperature": 0.5}),
        ("n-gram", TOP_P, {"drafter_temperature": 2.0}),
        ("head", TOP_K, {"drafter_temperature": 0.5}),
        ("lookup first", TOP_K, {"drafter_temperature": 0.3}),
        ("routed", PLAIN, {"own": [0.3, 0.0, None, 1.7, 0.6]}),
        ("model", PLAIN, {"own": [0.0, 0.6, 1.7]} | BLOCK),
    ],
)
def test_all_tempered_drafters_follow_the_law_of_the_target(name, options, config):
    assert_lossless(name, options, 4, batch_size=8, **config)


def test_a_q_that_is_not_tempered_where_it_is_judged_fails_this_test(monkeypatch):
    add = drafters.Chain.add

    def careless(self, scores):
        token = add(self, scores)
        self._scores[-1] = acceptance.log_distribution(scores, self._config)
        return token

    monkeypatch.setattr(drafters.Chain, "add", careless)
    values, _ = p_values("model", PLAIN, 2, batch_size=256, number=3_000, drafter_temperature=0.4)
    assert max(values) < 1e-6


def test_a_block_rule_with_the_chances_of_its_tokens_fails_this_test(monkeypatch):
    chances = acceptance.block_chances

    def careless(*given):
        weights, _ = chances(*given)
        return weights, weights[:, 1:]

    monkeypatch.setattr(acceptance, "block_chances", careless)
    values, _ = p_values("model", PLAIN, 2, batch_size=256, number=6_000, **BLOCK)
    assert max(values) < 1e-6


@pytest.mark.parametrize("name", MAKE)
def test_a_rule_that_accepts_everything_fails_this_test(monkeypatch, name):
    def accept_all(
        draft_tokens, num_drafted, draft_logprobs, target_logprobs, accept_uniforms, next_uniforms
    ) -> Verification:
        rows = torch.arange(len(draft_tokens))
        following = draw(target_logprobs[rows, num_drafted].exp(), next_uniforms)
        return Verification(num_drafted, following)

    monkeypatch.setattr(engine, "accept_sampled", accept_all)
    values, _ = p_values(name, PLAIN, draft_length=2, batch_size=256, number=3_000)
    assert max(values) < 1e-12


def test_a_rule_that_recovers_from_p_instead_of_the_residual_fails_this_test(monkeypatch):
    rule = engine.accept_sampled

    def careless(
        draft_tokens, num_drafted, draft_logprobs, target_logprobs, accept_uniforms, next_uniforms
    ) -> Verification:
        rows = torch.arange(len(draft_tokens))
        number = rule(
            draft_tokens,
            num_drafted,
            draft_logprobs,
            target_logprobs,
            accept_uniforms,
            next_uniforms,
        ).num_accepted
        return Verification(number, draw(target_logprobs[rows, number].exp(), next_uniforms))

    monkeypatch.setattr(engine, "accept_sampled", careless)
    values, _ = p_values("model", PLAIN, draft_length=2, batch_size=256, number=3_000)
    assert max(values) < 1e-6


def test_a_q_that_is_not_renormalised_on_the_shared_tokens_fails_this_test(monkeypatch):
    to_target = VocabularyMap.to_target
    # Tokens are drawn from the right distribution, but q is what the drafter gives them among all
    # of its own tokens.
    monkeypatch.setattr(
        VocabularyMap, "to_target", lambda self, scores: to_target(self, scores.log_softmax(-1))
    )
    monkeypatch.setattr(drafters, "truncated", lambda scores, config: scores)
    values, _ = p_values("intersection", PLAIN, draft_length=2, batch_size=256, number=3_000)
    assert min(values) < 1e-12  # of one prompt it is enough


def test_a_map_that_names_the_token_beside_the_drawn_one_fails_this_test(monkeypatch):
    monkeypatch.setattr(
        drafters, "draw", lambda weights, uniforms: (draw(weights, uniforms) + 1) % VOCAB
    )
    values, _ = p_values("intersection", PLAIN, draft_length=2, batch_size=256, number=3_000)
    assert max(values) < 1e-12
