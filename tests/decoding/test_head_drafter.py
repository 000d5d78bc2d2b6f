"""Drafting with a head: each proposal beside one that is computed anew, and the bugs it sees."""

import copy

import numpy as np
import pytest
import torch

from lm_eval_specfair.decoding.acceptance import log_distribution
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import Drafter, PromptLookup
from lm_eval_specfair.decoding.families.layer_outputs import LayerOutputs
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_drafter import HeadDrafter
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap
from lm_eval_specfair.divergence import divergences

from support.decoding_runs import (
    CPU,
    TieJudge,
    accepted,
    decode,
    random_prompts,
    rejections,
    request,
    transformers_greedy,
)
from support.fitted_drafters import trusted_first
from support.naive_head import naive_scores
from support.tiny_heads import features_of, head_drafter, trained_pair

VOCAB = 16
DRAFTED = (0, 1, 3, 4, 7, 8, 9, 11, 12, 15)
SAMPLED = {"temperature": 0.8, "top_k": 9, "top_p": 0.9}


class Watched(Drafter):
    """A head's drafter, each of whose proposals is computed a second time, from the beginning."""

    def __init__(self, drafter, head, target):
        self._drafter, self._head, self._target = drafter, head, copy.deepcopy(target)
        self.feature_layers, self.max_length = drafter.feature_layers, drafter.max_length
        self.num_compared = 0
        self.worst = 0.0
        for name in ("assign", "admit", "read_features", "rolled_back", "move", "reset"):
            setattr(self, name, getattr(drafter, name))

    def propose(self, histories, lengths, config, uniforms):
        draft = self._drafter.propose(histories, lengths, config, uniforms)
        for row, history in enumerate(histories):
            tokens = torch.tensor([history])
            features = features_of(self._target, tokens, self.feature_layers)[0, :-1]
            for place in range(draft.num_drafted[row]):
                before = draft.tokens[row, :place].tolist()
                scores = torch.full((VOCAB,), -torch.inf, dtype=torch.float64)
                scores[self._head.target_ids] = torch.from_numpy(
                    naive_scores(self._head, history, features.numpy(), before)
                )
                if uniforms is not None:
                    scores = log_distribution(scores[None], config)[0]
                got = draft.scores[row, place].double()
                assert torch.equal(got.isinf(), scores.isinf())
                known = ~scores.isinf()
                self.worst = max(self.worst, float((got - scores)[known].abs().max()))
                self.num_compared += 1
        return draft


def cases(number=24, longest=20, **more):
    prompts = [[3], *random_prompts(number - 1, longest=longest, vocab_size=VOCAB)]
    return [
        request(prompt, 1 + place % 13, f"r{place}", **more) for place, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module", params=[None, DRAFTED], ids=["all tokens", "pruned"])
def pair(request):
    return trained_pair(VOCAB, request.param)


@pytest.mark.parametrize("config", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "own pass"])
def test_each_proposal_is_what_is_computed_from_the_beginning(pair, config, fused):
    target, head = pair
    if not fused:  # a model with hooks keeps its own pass
        target = copy.deepcopy(target)
        target.model.norm.register_forward_hook(lambda *_: None)
    wrapped = CausalModel(target)
    assert (wrapped._fused is not None) == fused
    drafter = Watched(head_drafter(head, target), head, target)
    done = decode(wrapped, drafter, cases(), batch_size=5, num_speculative_tokens=3, **config)
    assert drafter.num_compared > 150
    assert drafter.worst < 2e-4
    assert accepted(done) > 20
    assert rejections(done) > 20


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("config", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_behind_a_lookup_it_proposes_the_same(pair, config, least):
    target, head = pair
    watched = Watched(head_drafter(head, target), head, target)
    drafter = trusted_first(watched, VOCAB, least=least)
    requests = cases(12)
    done = decode(target, drafter, requests, batch_size=5, num_speculative_tokens=3, **config)
    assert watched.num_compared > 25
    assert watched.worst < 2e-4
    assert accepted(done) > 10
    if not config:
        judge = TieJudge(target)
        for each, completion in zip(requests, done, strict=True):
            expected = transformers_greedy(target, each.prompt, each.stopping.max_new_tokens)
            judge.check(each.prompt, expected, completion.token_ids)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_greedy_text_is_the_targets_own(pair, batch_size):
    target, head = pair
    judge, requests = TieJudge(target), cases()
    done = decode(
        target, head_drafter(head, target), requests, batch_size=batch_size,
        num_speculative_tokens=4,
    )  # fmt: skip
    for each, completion in zip(requests, done, strict=True):
        expected = transformers_greedy(target, each.prompt, each.stopping.max_new_tokens)
        judge.check(each.prompt, expected, completion.token_ids)
    assert judge.num_ties == 0


def test_the_batch_changes_nothing(pair):
    target, head = pair
    drafter = head_drafter(head, target)
    alone, together = (
        decode(target, drafter, cases(), batch_size=size, num_speculative_tokens=3, **SAMPLED)
        for size in (1, 6)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert one.counters.accepted_per_step == other.counters.accepted_per_step
        assert one.counters.drafted_per_step == other.counters.drafted_per_step
        assert one.counters.overlap_sum == pytest.approx(other.counters.overlap_sum, abs=1e-3)


def test_a_prompt_of_one_token_drafts_from_the_second_step_on():
    target, head = trained_pair(VOCAB)
    [done] = decode(target, head_drafter(head, target), [request([3], 9)], num_speculative_tokens=2)
    first, *others = done.counters.drafted_per_step
    assert first == 0
    assert others[0] == 2


def test_overlap_and_divergence_are_those_of_the_distributions():
    target, head = trained_pair(VOCAB, DRAFTED)
    prompt = [3, 5, 1, 2]
    [done] = decode(
        target, head_drafter(head, target), [request(prompt, 2)], num_speculative_tokens=1,
        temperature=0.7,
    )  # fmt: skip
    tokens = torch.tensor([prompt])
    features = features_of(target, tokens, head.config.feature_layers)[0, :-1]
    q = torch.full((1, VOCAB), -torch.inf, dtype=torch.float64)
    q[0, head.target_ids] = torch.from_numpy(naive_scores(head, prompt, features.numpy()))
    with torch.no_grad():
        p = target(input_ids=tokens).logits[:, -1].double()
    overlap, cross_entropy, _ = divergences(p / 0.7, q / 0.7)
    assert done.counters.overlap_sum == pytest.approx(float(overlap), abs=1e-4)
    assert cross_entropy.isinf()  # q lacks tokens of p's
    assert done.counters.num_infinite == 1


def test_heads_share_a_batch_with_other_drafters():
    target, head = trained_pair(VOCAB)
    other = trained_pair(VOCAB, DRAFTED, layers=(1, 3))[1]

    def routed():
        drafters = {
            "a": head_drafter(head, target), "b": head_drafter(other, target),
            "lookup": PromptLookup(CPU),
        }  # fmt: skip
        return RoutedDrafter(drafters, "a", vocab_size=VOCAB, device=CPU)

    assert routed().feature_layers == (0, 1, 2, 3)
    names = ["a", "b", "lookup", "none"]
    requests = [
        request(each.prompt, 9, each.request_id, drafter=names[place % 4])
        for place, each in enumerate(cases())
    ]
    together = decode(target, routed(), requests, batch_size=5, num_speculative_tokens=3)
    alone = {"a": head_drafter(head, target), "b": head_drafter(other, target)}
    for name, drafter in alone.items():
        some = [each for each in requests if each.drafter == name]
        for one in decode(target, drafter, some, batch_size=3, num_speculative_tokens=3):
            two = together[requests.index(one.request)]
            assert one.token_ids == two.token_ids
            assert one.counters.accepted_per_step == two.counters.accepted_per_step


def test_passes_without_a_head_keep_nothing(monkeypatch):
    target, head = trained_pair(VOCAB)
    wrapped = CausalModel(target)
    monkeypatch.setattr(LayerOutputs, "note", lambda *given: pytest.fail("kept in vain"))
    decode(wrapped, PromptLookup(CPU), cases(), num_speculative_tokens=3)
    monkeypatch.undo()
    decode(wrapped, head_drafter(head, target), cases(), num_speculative_tokens=3)
    monkeypatch.setattr(LayerOutputs, "note", lambda *given: pytest.fail("kept in vain"))
    decode(wrapped, PromptLookup(CPU), cases(), num_speculative_tokens=3)


# Bugs


def wrong_layer(monkeypatch):
    taken = LayerOutputs.taken
    monkeypatch.setattr(
        LayerOutputs, "taken", lambda self, device: taken(self, device).roll(16, -1)
    )


def layer_counted_from_its_output(monkeypatch):
    made = LayerOutputs.__init__

    def later(self, model, layers, *, name):
        made(self, model, [layer + 1 for layer in layers], name=name)

    monkeypatch.setattr(LayerOutputs, "__init__", later)
    monkeypatch.setattr(LayerOutputs, "layers", property(lambda self: None))


def features_a_place_late(monkeypatch):
    taken = LayerOutputs.taken
    monkeypatch.setattr(LayerOutputs, "taken", lambda self, device: taken(self, device).roll(1, 1))


def token_of_the_features_own_place(monkeypatch):
    step = Eagle3Head.step

    def unshifted(self, tokens, hidden, positions, memory):
        return step(self, tokens.roll(1, 1) if tokens.shape[1] > 1 else tokens, hidden, positions,
                    memory)  # fmt: skip

    monkeypatch.setattr(Eagle3Head, "step", unshifted)


def map_off_by_one(monkeypatch):
    to_target = VocabularyMap.to_target
    monkeypatch.setattr(
        VocabularyMap, "to_target", lambda self, scores: to_target(self, scores).roll(1, -1)
    )


def stale_cache_after_a_rejection(monkeypatch):
    propose = HeadDrafter.propose

    def keeps_drafted_entries(self, histories, lengths, config, uniforms):
        drafted = getattr(self, "_drafted", None)
        if drafted is not None:
            for row, number in enumerate(drafted[: len(lengths)]):
                used = min(number, max(0, len(self._unread[row]) - 1))
                self._unread[row] = self._unread[row][used:]
                self._cache.lengths[row] += used
        draft = propose(self, histories, lengths, config, uniforms)
        self._drafted = [max(0, number - 1) for number in draft.num_drafted]
        return draft

    monkeypatch.setattr(HeadDrafter, "propose", keeps_drafted_entries)


def next_step_reads_the_normed_state(monkeypatch):
    step = Eagle3Head.step

    def normed(self, *given):
        first, _ = step(self, *given)
        return first, first

    monkeypatch.setattr(Eagle3Head, "step", normed)


def drafted_entries_stay_at_one_position(monkeypatch):
    step = Eagle3Head.step

    def still(self, tokens, hidden, positions, memory):
        if tokens.shape[1] == 1:
            positions = positions - 1
        return step(self, tokens, hidden, positions, memory)

    monkeypatch.setattr(Eagle3Head, "step", still)


BUGS = [
    wrong_layer, layer_counted_from_its_output, features_a_place_late,
    token_of_the_features_own_place, map_off_by_one, stale_cache_after_a_rejection,
    next_step_reads_the_normed_state, drafted_entries_stay_at_one_position,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_is_seen(monkeypatch, bug):
    target, head = trained_pair(VOCAB, DRAFTED)
    bug(monkeypatch)
    drafter = Watched(head_drafter(head, target), head, target)
    if bug is map_off_by_one:
        with pytest.raises(AssertionError, match="isinf"):
            decode(target, drafter, cases(10), batch_size=4, num_speculative_tokens=3)
        return
    decode(target, drafter, cases(10), batch_size=4, num_speculative_tokens=3)
    assert drafter.worst > 1e-2


def test_texts_stay_the_targets_under_bugs_of_the_draft(monkeypatch):
    """Drafts may be wrong, texts may not: a rejection mends everything."""
    target, head = trained_pair(VOCAB)
    features_a_place_late(monkeypatch)
    requests = cases(10)
    done = decode(target, head_drafter(head, target), requests, num_speculative_tokens=3)
    for each, completion in zip(requests, done, strict=True):
        expected = transformers_greedy(target, each.prompt, each.stopping.max_new_tokens)
        assert completion.token_ids == expected


def test_no_number_of_a_failed_row_reaches_others():
    target, head = trained_pair(VOCAB)
    drafter = head_drafter(head, target)
    wrapped = CausalModel(target)
    requests = cases(8)
    expected = decode(wrapped, drafter, requests, batch_size=4, num_speculative_tokens=2)
    score, calls = wrapped.score, []

    def damaged(tokens, at=None):
        scores = score(tokens, at)
        calls.append(tokens)
        if len(calls) == 2:
            scores[1] = torch.nan
            wrapped.features[1].fill_(torch.nan)
        return scores

    wrapped.score = damaged
    got = decode(wrapped, drafter, requests, batch_size=4, num_speculative_tokens=2)
    failed = [each for each in got if each.failure]
    assert len(failed) == 1
    for one, other in zip(expected, got, strict=True):
        assert other.failure or one.token_ids == other.token_ids
    assert np.isfinite(sum(each.counters.overlap_sum for each in got))
