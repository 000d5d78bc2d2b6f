"""A suffix automaton over token ids: where, and how much of, a text's end occurred before."""

from collections.abc import Iterator, Sequence

_MOST_LINKS = 64


class SuffixAutomaton:
    """All substrings of a text that grows token by token.

    A state stands for the substrings that end at the same places; its link, for the longest of
    their suffixes that ends at others too. Source: Blumer et al. 1985, "The smallest automaton
    recognizing the subwords of a text".

    Attributes:
        transitions: Of each state, by token.
        links: Each state's link; -1 of the first, the empty string's.
        lengths: Of each state's longest substring.
        match_length: Length of the text's longest suffix that also ended before.
        match_end: The place behind an earlier end of it, the latest one but in texts that repeat
            themselves within themselves more than 64 times.
    """

    def __init__(self) -> None:
        self.transitions: list[dict[int, int]] = [{}]
        self.links, self.lengths = [-1], [0]
        self.match_length = self.match_end = 0
        self._ends = [0]  # the latest place behind each state's substrings
        self._last = self._size = 0

    def extend(self, token: int) -> None:
        """Append a token."""
        self._size += 1
        new = self._add({}, -1, self.lengths[self._last] + 1)
        state = self._last
        while state >= 0 and token not in self.transitions[state]:
            self.transitions[state][token] = new
            state = self.links[state]
        if state < 0:
            self.links[new] = 0
        else:
            self.links[new] = self._with_length(state, token)
        self._last = new
        link = self.links[new]
        self.match_length, self.match_end = self.lengths[link], self._ends[link]
        # Of a text that repeats one token there are as many links as tokens.
        for _ in range(_MOST_LINKS):
            if link <= 0:
                break
            self._ends[link] = self._size
            link = self.links[link]

    def _with_length(self, state: int, token: int) -> int:
        """The state behind a transition, split where it stands for longer substrings too."""
        found = self.transitions[state][token]
        length = self.lengths[state] + 1
        if self.lengths[found] == length:
            return found
        split = self._add(dict(self.transitions[found]), self.links[found], length)
        self._ends[split] = self._ends[found]
        self.links[found] = split
        while state >= 0 and self.transitions[state].get(token) == found:
            self.transitions[state][token] = split
            state = self.links[state]
        return split

    def _add(self, transitions: dict[int, int], link: int, length: int) -> int:
        self.transitions.append(transitions)
        self.links.append(link)
        self.lengths.append(length)
        self._ends.append(self._size)
        return len(self.links) - 1

    def occurrences(self, ends: Sequence[int]) -> list[int]:
        """How often each state's substrings occur; `ends` are the states of the text's prefixes."""
        found = [0] * len(self.links)
        for state in ends:
            found[state] += 1
        for state in sorted(range(1, len(found)), key=self.lengths.__getitem__, reverse=True):
            found[self.links[state]] += found[state]
        return found

    def read(self, tokens: Sequence[int]) -> Iterator[int]:
        """Append tokens; the state of the whole text after each."""
        for token in tokens:
            self.extend(token)
            yield self._last
