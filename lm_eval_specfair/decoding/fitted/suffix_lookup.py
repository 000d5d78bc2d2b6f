"""Drafts what followed the longest match of a row's end: in the row itself, or in earlier texts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Draft, Drafter, looked_up
from lm_eval_specfair.decoding.fitted.suffix_automaton import SuffixAutomaton


class TextStore:
    """Texts of token ids, in which the longest match of what a row says is followed.

    Matches do not cross from one text into another.
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        automaton = SuffixAutomaton()
        ends = [
            state
            for number, text in enumerate(texts)
            for state in automaton.read([*text, -1 - number])
        ]
        occurrences = automaton.occurrences(ends)
        self._transitions, self._links = automaton.transitions, automaton.links
        self._lengths = automaton.lengths
        # Of each state the most frequent token that follows, and the state behind it.
        self._following: list[tuple[int, int] | None] = [
            max(
                ((t, to) for t, to in transitions.items() if t >= 0),
                key=lambda each: (occurrences[each[1]], -each[0]),
                default=None,
            )
            for transitions in self._transitions
        ]

    def advanced(self, match: tuple[int, int], token: int) -> tuple[int, int]:
        """The longest match, a state and its length, after one more token; (0, 0) is empty."""
        state, length = match
        while state >= 0 and token not in self._transitions[state]:
            state = self._links[state]
            length = self._lengths[state] if state >= 0 else 0
        return (self._transitions[state][token], length + 1) if state >= 0 else (0, 0)

    def continuation(self, match: tuple[int, int], wanted: int) -> list[int]:
        """What followed a match most often, then what followed that, for as long as texts go on."""
        found, state = list[int](), match[0]
        while len(found) < wanted and (following := self._following[state]) is not None:
            token, state = following
            found.append(token)
        return found


class SuffixLookup(Drafter):
    """Proposes what followed the longest match of the row's end; without a distribution.

    Matches are looked for in the row's own kept tokens, of which the latest is taken, and in a
    store, of which the most frequent continuation is. The longer match is followed, the row's own
    of two alike. One that reaches the end of the row goes on with what it has just drafted, since a
    text that repeats itself goes on doing so.

    Nothing comes from other rows: a request's steps would depend on which others were decoded with
    it. Earlier answers are for a store, which is fitted before.

    Source: Oliaro et al. 2024, "SuffixDecoding" (arXiv:2411.04975), for following frequent
    continuations of suffixes.
    """

    max_length = 1 << 30

    def __init__(
        self, device: torch.device, store: TextStore | None = None, *, least: int = 1
    ) -> None:
        """Look up in rows and a store; matches of fewer than `least` tokens are not followed."""
        self._device, self._store, self._least = device, store, least
        self._rows: dict[int, _Row] = {}

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        for row in rows:  # nothing is read yet: `continuation` does
            self._rows[row] = _Row()

    def continuation(self, row: int, history: Sequence[int], wanted: int) -> list[int]:
        """Up to `wanted` tokens that follow a row's longest match; none where it is too short."""
        own = self._rows[row]
        for token in history[own.num_read :]:
            own.automaton.extend(token)
            if self._store is not None:
                own.in_store = self._store.advanced(own.in_store, token)
        own.num_read = len(history)
        length, begin = own.automaton.match_length, own.automaton.match_end
        if self._store is not None and own.in_store[1] >= max(length + 1, self._least):
            found = self._store.continuation(own.in_store, wanted)
            if found:
                return found
        if length < self._least:
            return []
        drafted = list(history[begin : begin + wanted])
        while len(drafted) < wanted:
            drafted.append(drafted[begin + len(drafted) - len(history)])
        return drafted

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        drafts = [
            self.continuation(row, tokens, lengths[row]) for row, tokens in enumerate(histories)
        ]
        return looked_up(drafts, self._device)

    def move(self, source: int, destination: int) -> None:
        self._rows[destination] = self._rows[source]

    def reset(self) -> None:
        self._rows = {}


class _Row:
    """What was read of a row."""

    def __init__(self) -> None:
        self.automaton = SuffixAutomaton()
        self.in_store = (0, 0)
        self.num_read = 0
