"""Drafters that share a batch: each request is decoded as if its own drafter were alone."""

import random

import pytest
import torch

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import Drafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.models import CausalModel

from support.decoding_runs import (
    CPU,
    accepted,
    decode,
    model_drafter,
    random_prompts,
    request,
    transformers_greedy,
)

VOCAB = 260
NAMES = ["near", "far", "short", "prompt lookup", "none"]
OPTIONS = [{}, {"temperature": 1.0}, {"temperature": 1.3, "top_k": 50, "top_p": 0.9}]
EXACT = ["drafted_per_step", "accepted_per_step", "num_examined", "num_positions", "num_infinite"]
ROUNDED = ["overlap_sum", "kl_sum", "cross_entropy_sum", "target_entropy_sum"]
UNTRUNCATED = ["untruncated_kl_sum", "untruncated_cross_entropy_sum"]


@pytest.fixture(scope="module")
def wrapped(target) -> CausalModel:
    return CausalModel(target)


@pytest.fixture(scope="module")
def models(target, near_drafter):
    return {
        "near": disturbed(target, 0.005),
        "far": near_drafter,
        "short": llama(1, layers=1, max_position_embeddings=24),
    }


@pytest.fixture(scope="module")
def alone(models) -> dict[str, Drafter]:
    drafters: dict[str, Drafter] = {
        name: model_drafter(model, VOCAB) for name, model in models.items()
    }
    return drafters | {"prompt lookup": PromptLookup(CPU), "none": NoDrafter(CPU)}


def routed(models) -> RoutedDrafter:
    drafters: dict[str, Drafter] = {
        name: model_drafter(model, VOCAB) for name, model in models.items()
    }
    drafters["prompt lookup"] = PromptLookup(CPU)
    return RoutedDrafter(drafters, "near", vocab_size=VOCAB, device=CPU)


def requests_of_all(number: int, seed: int = 4):
    chance = random.Random(seed)
    prompts = random_prompts(number, longest=9, vocab_size=VOCAB, seed=seed)
    return [
        request(
            prompt * 2,  # repeated tokens give prompt lookup something to find
            chance.randint(1, 24),
            f"r{place}",
            draft_length=chance.choice([None, None, 1, 3]),
            drafter=chance.choice(NAMES),
            eos_token_ids=frozenset({0}),
        )
        for place, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "sampled", "truncated"])
def test_each_request_is_drafted_as_by_its_own_drafter_alone(
    wrapped, models, alone, options, batch_size
):
    requests = requests_of_all(30)
    together = decode(wrapped, routed(models), requests, batch_size=batch_size, **options)
    assert accepted(together) > 20
    assert {each.request.drafter for each in together} == set(NAMES)
    for completion in together:
        name = completion.request.drafter
        (own,) = decode(wrapped, alone[name], [completion.request], **options)
        assert completion.token_ids == own.token_ids
        assert completion.finish_reason == own.finish_reason
        for field in EXACT:
            found, expected = (getattr(each.counters, field) for each in (completion, own))
            assert found == expected, (name, field)
        for field in ROUNDED:
            expected = pytest.approx(getattr(own.counters, field), rel=1e-4, abs=1e-4)
            assert getattr(completion.counters, field) == expected, (name, field)
        fields = completion.counters.distribution_fields(measured=True)
        of_own = own.counters.distribution_fields(measured=True)
        for field in UNTRUNCATED:
            expected = of_own[field]
            if expected is not None:
                expected = pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert fields[field] == expected, (name, field)


def test_greedy_texts_are_those_of_generate(wrapped, target, models):
    requests = requests_of_all(40, seed=8)
    for completion in decode(wrapped, routed(models), requests, batch_size=6):
        case = completion.request
        limit = case.stopping.max_new_tokens
        assert completion.token_ids == transformers_greedy(target, case.prompt, limit, 0)


class Untouchable(Drafter):
    """A drafter that must not be asked for anything."""

    max_length = 1 << 30

    def admit(self, rows, prompts):
        raise AssertionError("a drafter that no row needs was told of rows")

    def propose(self, histories, lengths, config, uniforms):
        raise AssertionError("a drafter that no row needs was asked to draft")

    rolled_back = move = reset = admit


def test_a_drafter_that_no_row_needs_is_never_touched(wrapped, models, alone):
    drafter = RoutedDrafter(
        {"near": alone["near"], "idle": Untouchable()}, "near", vocab_size=VOCAB, device=CPU
    )
    requests = [
        request(prompt, 9, f"r{place}", drafter=["near", "none"][place % 2])
        for place, prompt in enumerate(random_prompts(6, longest=9, vocab_size=VOCAB, seed=1))
    ]
    assert accepted(decode(wrapped, drafter, requests, batch_size=3)) > 10


def test_where_all_rows_share_a_drafter_its_draft_is_passed_on_untouched(models, alone):
    drafter = RoutedDrafter({"near": alone["near"]}, "near", vocab_size=VOCAB, device=CPU)
    texts = [[1, 2, 3], [4, 5]]
    drafter.reset()
    drafter.assign([0, 1], [None, "near"])
    drafter.admit([0, 1], texts)
    given = []
    propose = alone["near"].propose

    def noted(*arguments):
        given.append(propose(*arguments))
        return given[-1]

    drafter._drafters["near"].propose = noted
    try:
        assert drafter.propose(texts, [2, 2], DecodeConfig(), None) is given[0]
    finally:
        del drafter._drafters["near"].propose


def test_requests_without_a_name_have_the_default_and_unknown_names_none(wrapped, models):
    prompts = random_prompts(4, longest=9, vocab_size=VOCAB, seed=2)
    requests = [request(prompt, 12, f"d{n}") for n, prompt in enumerate(prompts)]
    requests += [request(prompt, 12, f"x{n}", drafter="else") for n, prompt in enumerate(prompts)]
    done = decode(wrapped, routed(models), requests, batch_size=5)
    assert all(sum(each.counters.drafted_per_step) for each in done[:4])
    assert not any(sum(each.counters.drafted_per_step) for each in done[4:])
    for own, other in zip(done[:4], done[4:], strict=True):
        assert own.token_ids == other.token_ids


def test_a_row_that_fails_leaves_the_others_their_drafters(wrapped, models, target):
    near = model_drafter(models["near"], VOCAB)
    broken = torch.full((VOCAB,), float("nan"))
    to_target = near._to_target
    calls = iter(range(10_000))
    near._to_target = lambda scores: (
        broken.expand_as(scores) if next(calls) == 5 else to_target(scores)
    )
    drafters = {"near": near, "far": model_drafter(models["far"], VOCAB)}
    drafter = RoutedDrafter(drafters, "near", vocab_size=VOCAB, device=CPU)
    requests = [
        request(prompt, 12, f"r{n}", drafter=["near", "far", "none"][n % 3])
        for n, prompt in enumerate(random_prompts(9, longest=9, vocab_size=VOCAB, seed=5))
    ]
    done = decode(wrapped, drafter, requests, batch_size=6, temperature=1.0)
    failed = [each for each in done if each.failure]
    assert failed
    assert {each.request.drafter for each in failed} == {"near"}
    for completion in done:
        if completion.failure is None and completion.request.drafter != "near":
            own = model_drafter(models["far"], VOCAB)
            plain = NoDrafter(CPU)
            (again,) = decode(
                wrapped,
                own if completion.request.drafter == "far" else plain,
                [completion.request],
                temperature=1.0,
            )
            assert completion.token_ids == again.token_ids
