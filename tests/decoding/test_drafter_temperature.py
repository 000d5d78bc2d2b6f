"""A drafter's own temperature: what is drawn is what is judged, row by row of a batch."""

import dataclasses

import pytest
import torch

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.acceptance import tempered, truncated
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import Chain

from support.decoding_runs import CPU, decode, model_drafter, random_prompts, request

VOCAB = 40
SHAPE = {"hidden_size": 16, "num_attention_heads": 1, "max_position_embeddings": 48}
TARGET = llama(3, layers=1, vocab_size=VOCAB, **SHAPE)
DRAFTER = llama(4, layers=1, vocab_size=VOCAB, **SHAPE)
OTHER = llama(5, layers=1, vocab_size=VOCAB, **SHAPE)
OWN = [0.0, None, 0.4, 1.6]


def chain_of(scores, config, number=200_000):
    """All numbers that a token may be drawn with, evenly: the drafts, and log q."""
    numbers = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    chain = Chain(config, numbers[:, None])
    chain.add(scores.expand(number, -1))
    return chain.draft([1] * number)


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0, 2.5, None])
@pytest.mark.parametrize("top_k", [None, 4])
def test_the_law_of_what_is_drawn_is_the_q_that_is_judged(own, top_k):
    scores = torch.randn(9, generator=torch.Generator().manual_seed(1)) * 2
    config = DecodeConfig(temperature=0.8, top_k=top_k, drafter_temperature=own)
    draft = chain_of(scores, config)

    kept = scores.double()
    if top_k is not None:
        kept = torch.where(kept >= kept.topk(top_k).values[-1], kept, -torch.inf)
    expected = torch.zeros(9, dtype=torch.float64)
    if own == 0:
        expected[scores.argmax()] = 1
    else:
        expected = torch.softmax(kept / (0.8 if own is None else own), -1)
    drawn = draft.tokens[:, 0].bincount(minlength=9) / len(draft.tokens)
    assert torch.allclose(drawn.double(), expected, atol=1e-5)
    assert torch.allclose(draft.scores[0, 0].double().exp(), expected, atol=1e-6)


@pytest.mark.parametrize("own", [1e-30, 1e-300, 1e30, (1e-30, 0.0, 1e6)])
def test_no_temperature_is_too_extreme(own):
    scores = torch.tensor([[2e4, 1e4, -torch.inf], [3.0, 3.0, -1e30], [0.0, -5.0, 1.0]])
    config = DecodeConfig(temperature=1, drafter_temperature=own)
    log_q = truncated(tempered(scores, config), config)
    assert not log_q.isnan().any()
    assert torch.allclose(log_q.exp().sum(-1), torch.ones(3))


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_scores_without_a_best_one_are_still_found_out(own):
    config = DecodeConfig(temperature=1, drafter_temperature=own)
    scores = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [0.0, 1.0]])
    log_q = truncated(tempered(scores, config), config)
    assert log_q.amax(-1).isfinite().tolist() == [False, False, True]


@pytest.mark.parametrize("options", [{}, {"top_k": 9, "top_p": 0.9}], ids=["plain", "truncated"])
@pytest.mark.parametrize("kind", ["one drafter", "several drafters"])
def test_each_row_is_drafted_as_at_its_own_temperature_alone(kind, options):
    def drafter():
        if kind == "one drafter":
            return model_drafter(DRAFTER, VOCAB)
        parts = {name: model_drafter(each, VOCAB) for name, each in models.items()}
        return RoutedDrafter(parts, "first", vocab_size=VOCAB, device=CPU)

    models = {"first": DRAFTER, "second": OTHER}
    names = ["first", "second", "second"]
    prompts = random_prompts(16, longest=9, vocab_size=VOCAB, seed=2)
    asked = [
        request(
            prompt, 20, f"r{place}",
            drafter=names[place % 3], drafter_temperature=OWN[place % len(OWN)],
        )
        for place, prompt in enumerate(prompts)
    ]  # fmt: skip
    done = decode(TARGET, drafter(), asked, batch_size=5, temperature=1.0, **options)
    for completion in done:
        own = completion.request.drafter_temperature
        plain = dataclasses.replace(completion.request, drafter_temperature=None)
        config = {"temperature": 1.0, "drafter_temperature": own, **options}
        (alone,) = decode(TARGET, drafter(), [plain], **config)
        assert completion.token_ids == alone.token_ids
        ours, theirs = completion.counters, alone.counters
        assert ours.accepted_per_step == theirs.accepted_per_step
        assert ours.discarded_per_step == theirs.discarded_per_step
        assert ours.overlap_sum == pytest.approx(theirs.overlap_sum, abs=1e-4)
        fields, expected = (
            each.distribution_fields(measured=True).get("untruncated_cross_entropy_sum")
            for each in (ours, theirs)
        )
        assert fields == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_greedy_texts_and_counts_are_as_before():
    prompts = random_prompts(6, longest=9, vocab_size=VOCAB, seed=3)
    asked = [request(prompt, 20) for prompt in prompts]
    usual = decode(TARGET, model_drafter(DRAFTER, VOCAB), asked)
    own = decode(TARGET, model_drafter(DRAFTER, VOCAB), asked, drafter_temperature=0.3)
    for one, other in zip(usual, own, strict=True):
        assert one.token_ids == other.token_ids
        assert one.counters.accepted_per_step == other.counters.accepted_per_step
        assert one.counters.overlap_sum == other.counters.overlap_sum


def test_a_row_with_another_rows_temperature_would_be_seen(monkeypatch):
    def first_ones(self, rows):
        if not isinstance(self.drafter_temperature, tuple):
            return self
        own = self.drafter_temperature[: len(rows)]
        return dataclasses.replace(self, drafter_temperature=own)

    monkeypatch.setattr(DecodeConfig, "of_rows", first_ones)
    with pytest.raises(AssertionError):
        test_each_row_is_drafted_as_at_its_own_temperature_alone("several drafters", {})
