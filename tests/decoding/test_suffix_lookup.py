"""The suffix automaton beside a search through the whole text, and what a lookup drafts by it.

python -m pytest tests/decoding/test_suffix_lookup.py
"""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.fitted import suffix_automaton
from lm_eval_specfair.decoding.fitted.suffix_automaton import SuffixAutomaton
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore

from support.decoding_runs import CPU

GREEDY = DecodeConfig()
few_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def longest_earlier(text: list[int]) -> tuple[int, int]:
    """By search: the longest suffix that also ends earlier, and the place behind its latest end."""
    for size in range(len(text) - 1, 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                return size, end
    return 0, 0


@settings(deadline=None, max_examples=300)
@given(few_tokens)
def test_the_longest_match_is_that_of_a_search_after_every_token(text):
    automaton = SuffixAutomaton()
    for place, token in enumerate(text):
        automaton.extend(token)
        length, end = longest_earlier(text[: place + 1])
        assert automaton.match_length == length
        if length:
            assert automaton.match_end == end


@settings(deadline=None, max_examples=100)
@given(few_tokens)
def test_a_text_that_repeats_itself_often_still_finds_a_longest_match(text):
    suffix_automaton._MOST_LINKS, kept = 1, suffix_automaton._MOST_LINKS
    try:
        automaton = SuffixAutomaton()
        for place, token in enumerate(text):
            automaton.extend(token)
            length, _ = longest_earlier(text[: place + 1])
            end = automaton.match_end
            assert automaton.match_length == length
            assert end <= place
            assert text[end - length : end] == text[place + 1 - length : place + 1]
    finally:
        suffix_automaton._MOST_LINKS = kept


@settings(deadline=None, max_examples=100)
@given(st.lists(few_tokens, min_size=1, max_size=4), few_tokens)
def test_a_store_matches_as_a_search_through_its_texts(texts, history):
    store, match = TextStore(texts), (0, 0)
    for place, token in enumerate(history):
        match = store.advanced(match, token)
        size = next(
            size
            for size in range(place + 1, -1, -1)
            if any(_places(text, history[place + 1 - size : place + 1]) for text in texts)
        )
        assert match[1] == size
        suffix = history[place + 1 - size : place + 1]
        following = Counter(
            text[end] for text in texts for end in _places(text, suffix) if end < len(text)
        )
        drafted = store.continuation(match, 1)
        if following:
            most = max(following.values())
            assert drafted == [min(t for t, number in following.items() if number == most)]
        else:
            assert drafted == []


def _places(text: list[int], part: list[int]) -> list[int]:
    """The places behind the part's occurrences."""
    return [end for end in range(len(part), len(text) + 1) if text[end - len(part) : end] == part]


def drafted(lookup: SuffixLookup, history: list[int], wanted: int = 4) -> list[int]:
    lookup.reset()
    lookup.admit([0], [history])
    draft = lookup.propose([history], [wanted], GREEDY, None)
    assert draft.scores is None
    return draft.tokens[0, : draft.num_drafted[0]].tolist()


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        # The longest match (4 tokens, early) goes before a shorter, later one.
        ([4, 1, 2, 3, 9, 0, 1, 2, 3, 8, 0, 4, 1, 2, 3], [9, 0, 1, 2]),
        # Of matches alike, the latest.
        ([1, 2, 9, 1, 2, 8, 5, 1, 2], [8, 5, 1, 2]),
        # A text that repeats itself goes on.
        ([5, 5, 5], [5, 5, 5, 5]),
        ([1, 2, 1, 2, 1], [2, 1, 2, 1]),
        ([7, 1, 2, 3, 1, 2, 3, 1], [2, 3, 1, 2]),
        # Never seen before.
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_what_followed_the_longest_match_is_drafted(history, expected):
    assert drafted(SuffixLookup(CPU), history) == expected


@settings(deadline=None)
@given(few_tokens, st.integers(1, 6))
def test_drafts_are_those_of_a_search_through_the_row(history, wanted):
    length, end = longest_earlier(history)
    whole = list(history)
    for place in range(wanted if length else 0):
        whole.append(whole[end + place])
    assert drafted(SuffixLookup(CPU), history, wanted) == whole[len(history) :]


def test_matches_that_are_too_short_are_not_followed():
    history = [1, 2, 9, 0, 1, 2]
    assert drafted(SuffixLookup(CPU, least=2), history) == [9, 0, 1, 2]
    assert drafted(SuffixLookup(CPU, least=3), history) == []


def test_the_longer_match_of_row_and_store_is_followed_and_the_rows_own_of_two_alike():
    store = TextStore([[1, 2, 3, 7, 7], [1, 2, 3, 8], [1, 2, 3, 8], [0, 2, 4]])
    assert drafted(SuffixLookup(CPU, store), [6, 1, 2, 3]) == [8]  # the most frequent
    assert drafted(SuffixLookup(CPU, store), [2, 3, 9, 5, 2, 3]) == [9, 5, 2, 3]
    assert drafted(SuffixLookup(CPU, store), [3, 9, 5, 2, 3]) == [8]  # 2 tokens, not 1
    assert drafted(SuffixLookup(CPU, store, least=3), [5, 2, 3]) == []
    assert drafted(SuffixLookup(CPU, store, least=2), [5, 2, 3]) == [8]


def test_a_match_does_not_cross_from_one_text_of_a_store_into_another():
    lookup = SuffixLookup(CPU, TextStore([[1, 2], [3, 4]]))
    assert drafted(lookup, [2]) == []
    assert drafted(lookup, [2, 3]) == [4]
    assert drafted(SuffixLookup(CPU, TextStore([[1, 2], [3, 4]]), least=2), [2, 3]) == []


def test_rows_are_kept_apart_and_keep_what_they_read_when_they_move():
    lookup = SuffixLookup(CPU)
    histories = [[1, 2, 3, 4], [3, 4], [6, 7, 6]]
    lookup.admit([0, 1, 2], histories)
    assert lookup.propose(histories, [4, 4, 4], GREEDY, None).num_drafted == [0, 0, 4]
    lookup.remove(0, 2)
    moved = lookup.propose([[6, 7, 6, 7], [3, 4, 3]], [2, 2], GREEDY, None)
    assert moved.tokens.tolist() == [[6, 7], [4, 3]]


def test_a_lookup_in_the_text_of_another_row_fails_these_tests(monkeypatch):
    monkeypatch.setattr(SuffixLookup, "move", lambda *given: None)
    with pytest.raises(AssertionError):
        test_rows_are_kept_apart_and_keep_what_they_read_when_they_move()


@pytest.mark.parametrize("by", [-1, 1])
def test_a_match_that_is_off_by_one_fails_these_tests(monkeypatch, by):
    extend = SuffixAutomaton.extend

    def careless(self, token):
        extend(self, token)
        self.match_end = max(0, self.match_end + by)

    monkeypatch.setattr(SuffixAutomaton, "extend", careless)
    with pytest.raises((AssertionError, IndexError)):
        test_what_followed_the_longest_match_is_drafted([1, 2, 9, 1, 2, 8, 5, 1, 2], [8, 5, 1, 2])
