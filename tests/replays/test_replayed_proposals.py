"""Any drafter without weights is replayed: it is asked at each step, whether it draws or not.

python -m pytest tests/replays/test_replayed_proposals.py
"""

import itertools
import weakref

import numpy as np
import pytest
import torch
from scipy import stats

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import draw, log_distribution, most_likely
from lm_eval_specfair.decoding.drafters import Draft, Drafter
from lm_eval_specfair.decoding.engine import request_generator
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.drafters import replayed_proposals
from lm_eval_specfair.replays.drafters.replayed_proposals import ReplayedProposals
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.replaying import replay_texts

from support.decoding_runs import decode, plain_scores, request

VOCAB = 260
SAMPLING = {"temperature": 0.9, "top_k": 200, "top_p": 0.99}


class Tabled(Drafter):
    """A drafter from a table: what follows the last token, otherwise at each depth of a draft."""

    max_length = 40

    def __init__(self, table):
        self._table = table

    def propose(self, histories, lengths, config, uniforms):
        width = max(lengths)
        tokens, scores = [], []
        last = torch.tensor([history[-1] for history in histories])
        for depth in range(width):
            row = self._table[last] * (1 + depth / 4)
            if uniforms is None:
                last = most_likely(row)
            else:
                row = log_distribution(row, config)
                last = draw(row.exp(), uniforms[:, depth])
            tokens.append(last)
            scores.append(row)
        if not width:
            return Draft(torch.zeros((len(histories), 0), dtype=torch.long), list(lengths), None)
        return Draft(torch.stack(tokens, 1), list(lengths), torch.stack(scores, 1))


@pytest.fixture(scope="module")
def plain_table(target):
    return torch.cat([plain_scores(target, [token])[-1:] for token in range(VOCAB)])


@pytest.fixture(scope="module")
def table(target, plain_table):
    table = plain_table.clone()
    # Fitted to some of the target's texts, as n-grams are.
    for each in decode(target, Tabled(table), [request([5 + n, 6, 7 + n], 36) for n in range(10)]):
        for before, after in itertools.pairwise(each.token_ids):
            table[before, after] += 8
    return table


def replayed(done, drafter, length, target, seed=1, **sampling):
    reader = None if target is None else OnePass(target)
    found = replay_texts(
        known_texts(done, **sampling),
        {"tabled": ReplayedProposals(drafter)},
        [length],
        target=reader,
        seed=seed,
    )
    return {each.text.request_id: each.counters for each in found}


def known_texts(done, **sampling):
    return [
        KnownText(
            request_id=each.request.request_id,
            task="toy",
            doc_id=0,
            prompt=each.request.prompt,
            response=each.token_ids,
            text="",
            max_new_tokens=each.request.stopping.max_new_tokens,
            **sampling,
        )
        for each in done
    ]


@pytest.mark.parametrize("length", [1, 3, 6])
def test_greedy_steps_and_sums_are_those_of_decoding(target, table, length):
    asked = [request([5 + n, 6, 7 + n], 3 + 3 * n, name=f"{n}") for n in range(10)]
    asked += [request([9, 8, 7], 45, name="beyond the drafter's reach")]
    done = decode(target, Tabled(table), asked, batch_size=4, num_speculative_tokens=length)
    again = replayed(done, lambda: Tabled(table), length, target)

    assert sum(sum(each.counters.accepted_per_step) for each in done) > 10
    for each in done:
        one, other = again[each.request.request_id], each.counters
        assert one.drafted_per_step == other.drafted_per_step
        assert one.accepted_per_step == other.accepted_per_step
        assert one.num_examined == other.num_examined == one.num_positions
        assert one.overlap_sum == pytest.approx(other.overlap_sum, rel=1e-4, abs=1e-4)
        assert one.kl_sum == pytest.approx(other.kl_sum, rel=1e-4, abs=1e-4)


def test_without_a_target_a_draft_is_not_kept_longer_than_its_step(target, table):
    asked = [request([5 + n, 6, 7 + n], 36, name=f"{n}") for n in range(5)]
    done = decode(target, Tabled(table), asked)
    alive, at_once = set(), []

    class Watched(Tabled):
        def propose(self, *args):
            draft = super().propose(*args)
            alive.add(id(draft.scores))
            weakref.finalize(draft.scores, alive.discard, id(draft.scores))
            at_once.append(len(alive))
            return draft

    replayed(done, lambda: Watched(table), 3, None)

    assert len(at_once) > 50
    # Of each text its next one; that which is looked at, and that which comes in its place.
    assert max(at_once) <= len(asked) + 2


@pytest.fixture(scope="module")
def sampled(target, plain_table):
    asked = [request([3, 1, 4], 12, name=f"{n}") for n in range(200)]
    config = {"num_speculative_tokens": 3, **SAMPLING}
    return decode(target, Tabled(plain_table), asked, batch_size=64, **config)


def p_value(again, done):
    by_accepted = np.array([steps_by_accepted(again), steps_by_accepted(counters_of(done))])
    return stats.chi2_contingency(by_accepted).pvalue


def steps_by_accepted(counters):
    none, one, two, three = np.sum([each.histogram(3) for each in counters], 0)
    return none, one, two + three


def counters_of(done):
    return [each.counters for each in done]


def test_drafters_that_draw_have_the_law_of_decoding(target, plain_table, sampled):
    again = replayed(sampled, lambda: Tabled(plain_table), 3, target, **SAMPLING)

    assert min(steps_by_accepted(counters_of(sampled))) > 30
    assert p_value(again.values(), sampled) > 0.01
    overlaps = [
        sum(c.overlap_sum for c in some) / sum(c.num_positions for c in some)
        for some in (again.values(), counters_of(sampled))
    ]
    assert overlaps[0] == pytest.approx(overlaps[1], rel=0.1)


def by_hand(completion, target, table, length, seed):
    """Kept drafts by step: q after each of the text's own tokens, at its depth in the draft."""
    text, config = completion.token_ids, DecodeConfig(**SAMPLING)
    prompt = completion.request.prompt
    uniforms = request_generator(seed, completion.request.request_id).random(len(text))
    p = log_distribution(plain_scores(target, prompt + text[:-1])[len(prompt) - 1 :], config).exp()
    kept, place = [], 0
    while place < len(text):
        here = 0
        for depth in range(min(length, len(text) - place - 1)):
            at = place + depth
            row = table[(prompt + text)[len(prompt) + at - 1]] * (1 + depth / 4)
            q = log_distribution(row[None], config).exp()[0]
            if uniforms[at] >= min(1, q[text[at]] / p[at, text[at]]):
                break
            here += 1
        kept.append(here)
        place += here + 1
    return kept


def all_by_hand(sampled, target, table):
    again = replayed(sampled[:100], lambda: Tabled(table), 3, target, **SAMPLING)
    return [
        (again[each.request.request_id].accepted_per_step, by_hand(each, target, table, 3, seed=1))
        for each in sampled[:100]
    ]


def test_the_draft_follows_the_text_where_another_token_was_drawn(target, plain_table, sampled):
    found = all_by_hand(sampled, target, plain_table)

    assert sum(max(steps) > 1 for _, steps in found) > 10
    assert all(ours == steps for ours, steps in found)


def test_a_draft_that_does_not_follow_would_be_seen(target, plain_table, sampled, monkeypatch):
    monkeypatch.setattr(replayed_proposals._Forced, "follow", lambda self, tokens: self.draft)

    assert any(ours != steps for ours, steps in all_by_hand(sampled, target, plain_table))


def test_a_drafter_that_draws_from_numbers_of_its_own_is_refused(target, plain_table, sampled):
    class Wilful(Tabled):
        def propose(self, histories, lengths, config, uniforms):
            wilful = None if uniforms is None else torch.full_like(uniforms, 0.3)
            return super().propose(histories, lengths, config, wilful)

    with pytest.raises(ConfigError, match="Wilful does not draw its tokens from the numbers"):
        replayed(sampled[:50], lambda: Wilful(plain_table), 3, target, **SAMPLING)
