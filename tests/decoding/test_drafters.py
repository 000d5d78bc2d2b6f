"""The contract that all drafters share, and what each one drafts."""

import functools
import itertools
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.acceptance import log_distribution
from lm_eval_specfair.decoding.composed.trusted_first import TrustedFirst
from lm_eval_specfair.decoding.drafters import (
    Draft,
    Drafter,
    NoDrafter,
    PromptLookup,
    fit_vocabulary,
)
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore

from support.decoding_runs import CPU, model_drafter, plain_scores
from support.fitted_drafters import ngram_drafter, trusted_first
from support.vocabularies import toy_drafter

VOCAB = 12  # small, so that prompt lookup finds matches
MODEL = llama(5, layers=1, vocab_size=VOCAB)
GREEDY, SAMPLED = DecodeConfig(), DecodeConfig(temperature=0.8, top_k=8)

PIECES = [bytes([97 + n]) for n in range(8)] + [b"ab", b"bcd", b"ha", b"z"]
OTHER_PIECES = [b"d", b"cd", b"abc", b"h", *PIECES[:3], *PIECES[4:7], b"efg", b"a b"]
TEXTS = [[1, 2, 3, 4, 1, 2, 3, 5], [6, 5, 6, 7, 5, 6, 5, 8, 9, 10, 11], [4, 4, 1, 2, 0]]
FOREIGN = llama(6, layers=1, vocab_size=len(OTHER_PIECES))

MAKE = {
    "intersection": lambda: toy_drafter(FOREIGN, PIECES, OTHER_PIECES),
    "text": lambda: toy_drafter(FOREIGN, PIECES, OTHER_PIECES, "text"),
    "model": lambda: model_drafter(MODEL, VOCAB),
    "prompt lookup": lambda: PromptLookup(CPU),
    "none": lambda: NoDrafter(CPU),
    "n-gram": lambda: ngram_drafter(TEXTS, VOCAB),
    "suffix lookup": lambda: SuffixLookup(CPU),
    "store": lambda: SuffixLookup(CPU, TextStore(TEXTS), least=2),
    "lookup first": lambda: trusted_first(model_drafter(MODEL, VOCAB), VOCAB),
    "lookup before n-grams": lambda: trusted_first(ngram_drafter(TEXTS, VOCAB), VOCAB),
    "lookup before another vocabulary": lambda: trusted_first(MAKE["intersection"](), VOCAB),
}


@functools.cache
def one_of(name: str, use: str) -> Drafter:
    """Made once a use: `reset` is part of what is tested, and wrapping a model costs a trial."""
    return MAKE[name]()


each_drafter = pytest.mark.parametrize("name", MAKE)


def text(chance: random.Random, shortest: int, longest: int) -> list[int]:
    return [chance.randrange(VOCAB) for _ in range(chance.randint(shortest, longest))]


def propose(
    drafter: Drafter, histories: list[list[int]], wanted: list[int], config: DecodeConfig, seed: int
) -> Draft:
    uniforms = None
    if not config.greedy:
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(histories), 9, generator=generator, dtype=torch.float64)
    return drafter.propose([list(history) for history in histories], wanted, config, uniforms)


def assert_within_contract(draft: Draft, wanted: list[int]) -> None:
    rows, width = draft.tokens.shape
    assert rows == len(wanted) == len(draft.num_drafted)
    assert width >= max(draft.num_drafted)
    assert all(0 <= number <= most for number, most in zip(draft.num_drafted, wanted, strict=True))
    if draft.scores is not None:
        assert draft.scores.shape == (rows, width, VOCAB)
    for row, number in enumerate(draft.num_drafted):
        assert all(0 <= token < VOCAB for token in draft.tokens[row, :number].tolist())


def assert_same_proposals(got: Draft, expected: Draft) -> None:
    assert got.num_drafted == expected.num_drafted
    assert (got.scores is None) == (expected.scores is None)
    for row, number in enumerate(got.num_drafted):
        assert got.tokens[row, :number].tolist() == expected.tokens[row, :number].tolist()
        if got.scores is not None:
            one, other = got.scores[row, :number].exp(), expected.scores[row, :number].exp()
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def assert_as_fresh(
    name: str,
    drafter: Drafter,
    histories: list[list[int]],
    wanted: list[int],
    config: DecodeConfig,
    seed: int = 0,
) -> Draft:
    """The drafter proposes what one proposes that has just been told these histories."""
    got = propose(drafter, histories, wanted, config, seed)
    fresh = one_of(name, "fresh")
    fresh.reset()
    fresh.admit(list(range(len(histories))), [list(history) for history in histories])
    assert_within_contract(got, wanted)
    assert_same_proposals(got, propose(fresh, histories, wanted, config, seed))
    return got


@each_drafter
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_after_any_numbers_accepted_it_drafts_like_a_fresh_one(name, config):
    drafter, gamma = one_of(name, "tested"), 3
    prompts = [[1, 2, 3, 1, 2], [4], [5, 6, 5, 6, 5, 6, 7, 5, 6]]
    for numbers in itertools.product(range(gamma + 1), repeat=len(prompts)):
        drafter.reset()
        drafter.admit([0, 1, 2], prompts)
        draft = propose(drafter, prompts, [gamma] * 3, config, seed=1)
        kept = [min(n, have) for n, have in zip(numbers, draft.num_drafted, strict=True)]
        histories = [
            # What follows is not the rejected token, nor what the drafter would have said.
            prompt + draft.tokens[row, : kept[row]].tolist() + [(row + sum(numbers)) % VOCAB]
            for row, prompt in enumerate(prompts)
        ]
        drafter.rolled_back(kept)
        assert_as_fresh(name, drafter, histories, [gamma] * 3, config)


@each_drafter
@settings(deadline=None, max_examples=30)
# A row that never drafts has no place in the cache when it takes another's.
@example(seed=11997, sampled=False)
@given(seed=st.integers(0, 2**32), sampled=st.booleans())
def test_through_a_whole_run_it_drafts_like_a_fresh_one(name, seed, sampled):
    # Rows are admitted, grow by any numbers, draft less towards their end (and once they draft
    # nothing, nothing more), end, and take each other's places.
    chance, drafter = random.Random(seed), one_of(name, "tested")
    config = SAMPLED if sampled else GREEDY
    drafter.reset()
    histories: list[list[int]] = []
    lasts: list[int] = []  # steps that a row drafts something in
    for step in range(8):
        if not histories or chance.random() < 0.5:
            new = [text(chance, 1, 9) for _ in range(chance.randint(1, 2))]
            drafter.admit(list(range(len(histories), len(histories) + len(new))), new)
            histories += new
            lasts += [chance.randint(0, 8) for _ in new]
        wanted = [chance.randint(1, 4) if last > 0 else 0 for last in lasts]
        lasts = [last - 1 for last in lasts]
        draft = assert_as_fresh(name, drafter, histories, wanted, config, seed=step)
        kept = [chance.randint(0, number) for number in draft.num_drafted]
        for row, number in enumerate(kept):
            histories[row] = histories[row] + draft.tokens[row, :number].tolist() + [step % VOCAB]
        drafter.rolled_back(kept)
        for place in reversed(range(len(histories))):
            if chance.random() < 0.2:
                last = len(histories) - 1
                if place < last:
                    drafter.move(last, place)
                    histories[place], lasts[place] = histories[last], lasts[last]
                histories.pop()
                lasts.pop()


@each_drafter
def test_it_drafts_no_more_than_wanted_a_row_and_does_not_change_the_length_by_itself(name):
    drafter = one_of(name, "tested")
    drafter.reset()
    histories = [[1, 2, 1, 2, 1], [3, 3, 3], [4, 5, 6, 4, 5, 6]]
    drafter.admit([0, 1, 2], histories)
    for wanted in ([4, 1, 2], [1, 4, 4], [4, 4, 4], [4, 4, 4], [2, 3, 0], [1, 1, 0], [1, 0, 0]):
        draft = propose(drafter, histories, wanted, GREEDY, seed=0)
        assert_within_contract(draft, wanted)
        if name in ("model", "intersection"):
            assert draft.num_drafted == wanted  # whatever was accepted before
        drafter.rolled_back([0, 0, 0])
        histories = [[*history, 1 + row] for row, history in enumerate(histories)]


@each_drafter
def test_it_leaves_the_histories_as_they_are(name):
    drafter, histories = one_of(name, "tested"), [[1, 2, 1, 2]]
    drafter.reset()
    drafter.admit([0], histories)
    drafter.propose(histories, [4], GREEDY, None)
    assert histories == [[1, 2, 1, 2]]


# ModelDrafter


def test_a_greedy_model_drafts_its_own_greedy_continuation():
    drafter, history = one_of("model", "tested"), [1, 2, 3]
    drafter.reset()
    drafter.admit([0], [history])
    draft = propose(drafter, [history], [5], GREEDY, seed=0)
    for place, token in enumerate(draft.tokens[0].tolist()):
        scores = plain_scores(MODEL, history)[-1]
        assert token == int(scores.argmax())
        assert torch.allclose(draft.scores[0, place], scores, atol=1e-4)
        history = [*history, token]


def test_a_sampling_model_reports_the_distribution_that_it_drew_from():
    drafter, history = one_of("model", "tested"), [1, 2, 3]
    drafter.reset()
    drafter.admit([0], [history])
    draft = propose(drafter, [history], [5], SAMPLED, seed=0)
    for place, token in enumerate(draft.tokens[0].tolist()):
        expected = log_distribution(plain_scores(MODEL, history)[-1], SAMPLED)
        assert torch.allclose(draft.scores[0, place].exp(), expected.exp(), atol=1e-5)
        assert expected[token] > -torch.inf
        history = [*history, token]


def test_a_sampling_model_draws_its_tokens_as_often_as_it_says():
    drafter, rows = model_drafter(MODEL, VOCAB), 2_000
    drafter.admit(list(range(rows)), [[1, 2]] * rows)
    draft = propose(drafter, [[1, 2]] * rows, [2] * rows, SAMPLED, seed=3)
    for place in range(2):
        # The mean of the rows' reported laws is what is expected of their tokens.
        law = draft.scores[:, place].exp().double().mean(0)
        share = torch.bincount(draft.tokens[:, place], minlength=VOCAB) / rows
        assert ((share - law).abs() <= 4 * (law * (1 - law) / rows).sqrt() + 1e-9).all()
    assert draft.tokens[:, 0].unique().numel() > 3


def test_a_row_at_the_end_of_the_drafters_context_drafts_nothing_and_the_others_go_on():
    model = llama(5, layers=1, vocab_size=VOCAB, max_position_embeddings=12)
    drafter = model_drafter(model, VOCAB)
    assert drafter.max_length == 12
    short, long = [1, 2, 3], [4] * 16
    drafter.admit([0, 1], [short, long])
    for _ in range(4):
        draft = propose(drafter, [short, long], [2, 0], GREEDY, seed=0)
        assert draft.num_drafted == [2, 0]
        assert draft.tokens[0, 0] == plain_scores(model, short)[-1].argmax()
        drafter.rolled_back([0, 0])
        short, long = [*short, 5], [*long, 6]


# TrustedFirst


class Counting(Drafter):
    """A model's drafter that counts what it is asked for."""

    max_length = 1 << 30

    def __init__(self, inner):
        self._inner, self.num_asked = inner, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def propose(self, *given):
        self.num_asked += 1
        return self._inner.propose(*given)

    def admit(self, *given):
        self._inner.admit(*given)

    def rolled_back(self, *given):
        self._inner.rolled_back(*given)

    def reset(self):
        self._inner.reset()


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_model_that_no_row_needs_is_not_asked_and_reads_what_it_missed_later(config):
    other = Counting(model_drafter(MODEL, VOCAB))
    drafter = trusted_first(other, VOCAB)
    histories = [[1, 2] * 3, [5, 6, 7] * 2]
    drafter.admit([0, 1], histories)
    for _ in range(4):  # both repeat themselves, and go on to
        draft = propose(drafter, histories, [3, 3], config, seed=1)
        assert (draft.scores is None) == (not config.truncates)  # a point, where others are cut
        drafter.rolled_back([3, 3])
        whole = [[1, 2] * 20, [5, 6, 7] * 20]
        histories = [
            tokens[: len(history) + 4] for tokens, history in zip(whole, histories, strict=True)
        ]
        assert draft.tokens.tolist() == [history[-4:-1] for history in histories]
    assert other.num_asked == 0
    histories = [[*history, 11] for history in histories]
    assert_as_fresh("lookup first", drafter, histories, [3, 3], config)
    assert other.num_asked == 1


def stale(self, num_accepted):
    """As if the model had drafted what was looked up, and read it."""
    self._other.rolled_back(num_accepted)


def test_a_model_whose_cache_is_taken_for_what_was_looked_up_fails_the_contract(monkeypatch):
    monkeypatch.setattr(TrustedFirst, "rolled_back", stale)
    with pytest.raises(AssertionError):
        test_after_any_numbers_accepted_it_drafts_like_a_fresh_one("lookup first", GREEDY)


# Vocabularies


def test_scores_of_a_smaller_vocabulary_are_filled_with_minus_infinity():
    scores = torch.tensor([[1.0, 2.0]])
    assert fit_vocabulary(scores, 4).tolist() == [[1.0, 2.0, -torch.inf, -torch.inf]]


def test_scores_of_a_larger_vocabulary_are_cut():
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert fit_vocabulary(scores, 2).tolist() == [[1.0, 2.0]]
    assert torch.equal(fit_vocabulary(scores, 3), scores)


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("own", [VOCAB - 4, VOCAB + 4])
def test_ids_that_only_one_of_the_vocabularies_has_are_never_drafted(own, config):
    model = llama(5, layers=1, vocab_size=own)
    with torch.no_grad():
        model.lm_head.weight[VOCAB:] = 0  # padding as it comes: neutral scores, which may win
    drafter, rows = model_drafter(model, VOCAB), 50
    prompts = [[1 + row % 7, row % 5] for row in range(rows)]
    drafter.admit(list(range(rows)), prompts)
    draft = propose(drafter, prompts, [4] * rows, config, seed=0)
    assert draft.tokens.max() < min(own, VOCAB)
    assert draft.scores.shape[-1] == VOCAB
    assert (draft.scores[..., own:] == -torch.inf).all()


# PromptLookup


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        # The last three tokens came before: what followed them is drafted.
        ([1, 2, 3, 9, 8, 7, 1, 2, 3], [9, 8, 7, 1]),
        # The longest match (3 tokens, early) beats a shorter, later one.
        ([1, 2, 3, 9, 0, 2, 3, 8, 0, 1, 2, 3], [9, 0, 2, 3]),
        # Of equally long matches, the latest.
        ([1, 2, 3, 9, 1, 2, 3, 8, 5, 1, 2, 3], [8, 5, 1, 2]),
        # Two tokens match, then one.
        ([7, 2, 3, 9, 0, 2, 3], [9, 0, 2, 3]),
        ([3, 9, 0, 4, 3], [9, 0, 4, 3]),
        # A match may overlap the end: a repeated token goes on, for what is known of it.
        ([5, 5, 5], [5]),
        # Fewer tokens than wanted.
        ([4, 6, 4], [6, 4]),
        # Never seen before.
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_prompt_lookup_copies_what_followed_the_latest_longest_match(history, expected):
    drafter = PromptLookup(CPU)
    drafter.admit([0], [history])
    draft = drafter.propose([history], [4], GREEDY, None)
    assert draft.tokens[0, : draft.num_drafted[0]].tolist() == expected
    assert draft.scores is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=25), st.integers(1, 5))
def test_prompt_lookup_agrees_with_a_search_through_the_whole_text(history, wanted):
    expected: list[int] = []
    for size in (3, 2, 1):
        starts = [i for i in range(len(history) - size) if history[i : i + size] == history[-size:]]
        if starts and size <= len(history):
            expected = history[starts[-1] + size :][:wanted]
            break
    drafter = PromptLookup(CPU)
    drafter.admit([0], [history])
    draft = drafter.propose([history], [wanted], GREEDY, None)
    assert draft.tokens[0, : draft.num_drafted[0]].tolist() == expected


def test_prompt_lookup_does_not_search_in_other_rows():
    drafter = PromptLookup(CPU)
    histories = [[1, 2, 3, 4], [3, 4]]
    drafter.admit([0, 1], histories)
    assert drafter.propose(histories, [4, 4], GREEDY, None).num_drafted == [0, 0]


def test_a_drafter_that_is_reset_remembers_nothing():
    drafter = PromptLookup(CPU)
    drafter.admit([0], [[1, 2, 1]])
    drafter.propose([[1, 2, 1]], [4], GREEDY, None)
    drafter.reset()
    drafter.admit([0], [[1]])
    assert drafter.propose([[1]], [4], GREEDY, None).num_drafted == [0]


def test_no_drafter_drafts_nothing():
    draft = NoDrafter(CPU).propose([[1], [2]], [4, 4], GREEDY, None)
    assert draft.tokens.shape == (2, 0)
    assert draft.num_drafted == [0, 0]
