"""Kneser-Ney by its definition, with dictionaries, beside the arrays of the package.

python -m pytest tests/decoding/test_ngram_model.py
"""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.decoding.fitted import ngram_model
from lm_eval_specfair.decoding.fitted.ngram_counts import PAD, count_ngrams
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel, discounts_of

VOCAB = 7
TEXTS = [([1, 2, 3, 1, 2, 4, 1, 2, 3], 2), ([2, 3, 3, 1], 0), ([5], 0), ([1, 2, 3, 1, 2, 3], 4)]


class ByDefinition:
    """Interpolated Kneser-Ney as textbooks write it: sets of n-grams, no tree."""

    def __init__(self, texts, order, discounts):
        self.order, self.discounts = order, discounts
        occurred = Counter()
        for tokens, first in texts:
            padded = ["<s>"] * (order - 1) + list(tokens)
            for place in range(first, len(tokens)):
                occurred[tuple(padded[place : place + order])] += 1
        self.counts = {order: occurred}
        kinds = set(occurred)
        for length in range(order - 1, 0, -1):
            before = defaultdict(set)
            for gram in kinds:
                before[gram[1:]].add(gram[0])
            self.counts[length] = Counter({gram: len(seen) for gram, seen in before.items()})
            kinds = set(before)

    def chance(self, token, context):
        """P(token | context), by the recursion."""
        length = len(context) + 1
        lower = self.chance(token, context[1:]) if context else 1 / VOCAB
        counts = self.counts[length]
        after = [number for gram, number in counts.items() if gram[:-1] == context]
        if not after:
            return lower
        discount = self.discounts[length - 1]
        own = max(counts[(*context, token)] - discount, 0)
        return (own + discount * len(after) * lower) / sum(after)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_chances_are_those_of_the_definition_at_every_context(order):
    model = NgramModel(count_ngrams(TEXTS, order), VOCAB)
    expected = ByDefinition(TEXTS, order, model.discounts)
    for context in itertools.product(range(VOCAB), repeat=order - 1):
        got = np.exp(model.log_chances(context).astype(float))
        wanted = [expected.chance(token, context) for token in range(VOCAB)]
        assert got == pytest.approx(wanted, rel=1e-5)
        assert got.sum() == pytest.approx(1, abs=1e-6)


texts_of = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12).flatmap(
        lambda text: st.tuples(st.just(text), st.integers(0, len(text) - 1))
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(
    texts=texts_of,
    order=st.integers(1, 5),
    history=st.lists(st.integers(0, VOCAB + 2), max_size=6),
)
def test_chances_of_any_texts_are_those_of_the_definition_and_add_up_to_1(texts, order, history):
    model = NgramModel(count_ngrams(texts, order), VOCAB)
    expected = ByDefinition(texts, order, model.discounts)
    got = np.exp(model.log_chances(history).astype(float))
    context = tuple(history)[len(history) - min(order - 1, len(history)) :]
    assert got == pytest.approx(
        [expected.chance(token, context) for token in range(VOCAB)], rel=1e-4
    )
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_a_bigram_by_hand():
    # Of "a b a b c": after a two b; after b an a and a c. Seen before a: the beginning and b;
    # before b: a; before c: b. So a has 2 of 4 kinds of bigrams, b 1, c 1.
    counts = count_ngrams([([0, 1, 0, 1, 2], 0)], 2)
    model = NgramModel(counts, 4, discounts=[0.5, 0.75])
    low = [(2 - 0.5) / 4, (1 - 0.5) / 4, (1 - 0.5) / 4, 0]
    low = [chance + 0.5 * 3 / 4 / 4 for chance in low]
    after_a = [0.75 * 1 / 2 * chance for chance in low]
    after_a[1] += (2 - 0.75) / 2
    after_b = [0.75 * 2 / 2 * chance for chance in low]
    after_b[0] += (1 - 0.75) / 2
    after_b[2] += (1 - 0.75) / 2
    assert np.exp(model.log_chances([0])) == pytest.approx(after_a, rel=1e-5)
    assert np.exp(model.log_chances([3, 1])) == pytest.approx(after_b, rel=1e-5)
    assert np.exp(model.log_chances([2])) == pytest.approx(low, rel=1e-5)  # nothing follows it


def test_discounts_are_neys_estimates_where_counts_allow_them():
    # Bigrams: a b twice, four others once; before a: the beginning, b, c; before b: a, b.
    counts = count_ngrams([([0, 1, 0, 1, 1, 2, 0], 0)], 2)
    once, twice = 5, 1
    assert sorted(counts.counts[1].tolist()) == [1, 1, 1, 1, 1, 2]
    assert discounts_of(counts)[1] == pytest.approx(once / (once + 2 * twice))
    assert discounts_of(count_ngrams([([0, 0, 0], 0)], 1)) == [0.75]


def test_only_learnt_tokens_are_counted_and_contexts_reach_into_what_comes_before():
    model = NgramModel(count_ngrams([([6, 5, 1], 2)], 3), VOCAB, discounts=[0.1] * 3)
    chances = np.exp(model.log_chances([6, 5]))
    assert chances.argmax() == 1
    assert chances[1] > 0.99
    assert np.exp(model.log_chances([6]))[5] < 0.1  # 5 was read, not learnt


def test_an_order_of_one_forgets_the_context():
    model = NgramModel(count_ngrams(TEXTS, 1), VOCAB)
    assert np.array_equal(model.log_chances([1, 2]), model.log_chances([]))


def without_backoff(model):
    """As if what is taken from counts were not given to shorter contexts."""
    model._backoffs = [np.ones_like(each) for each in model._backoffs]


def test_a_backoff_weight_that_is_forgotten_fails_these_tests(monkeypatch):
    init = NgramModel.__init__

    def careless(self, *given, **named):
        init(self, *given, **named)
        without_backoff(self)

    monkeypatch.setattr(NgramModel, "__init__", careless)
    with pytest.raises(AssertionError):
        test_chances_are_those_of_the_definition_at_every_context(3)


def test_counts_in_place_of_kinds_in_shorter_contexts_fail_these_tests(monkeypatch):
    count = count_ngrams

    def raw(texts, order):
        counts = count(texts, order)
        occurred = count(texts, 1)
        counts.counts[0][counts.tokens[0] != PAD] = occurred.counts[0]
        return counts

    monkeypatch.setitem(globals(), "count_ngrams", raw)
    with pytest.raises(AssertionError):
        test_a_bigram_by_hand()


def test_few_contexts_are_kept(monkeypatch):
    monkeypatch.setattr(ngram_model, "_KEPT_CONTEXTS", 2)
    model = NgramModel(count_ngrams(TEXTS, 3), VOCAB)
    for context in itertools.product(range(VOCAB), repeat=2):
        assert math.isclose(np.exp(model.log_chances(context)).sum(), 1, abs_tol=1e-5)
    assert model._after.cache_info().currsize == 2
