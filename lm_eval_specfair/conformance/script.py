"""Scripted drafts: a known continuation, with errors at given places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What to draft, given how far a text is; each decoder's adapter plays it.

    Attributes:
        num_right: For each prompt, how many drafts are right in its first, second, ... step, in a
            cycle; a prompt that is missing has all of them right.
        resumes: Whether drafts after the first wrong one are the answer's again, so that a
            decoder that counts all agreeing drafts counts too many.
    """

    answers: Mapping[tuple[int, ...], Sequence[int]]  # each prompt's right tokens
    num_right: Mapping[tuple[int, ...], Sequence[int]]
    vocab_size: int = 260
    wrong: int | None = None  # the token drafted in a wrong place; None for the right one plus 1
    resumes: bool = False

    def draft(self, prompt: Sequence[int], num_kept: int, wanted: int, step: int) -> list[int]:
        """The `wanted` drafts of a request's step (from 0), fewer where the answer ends."""
        key = tuple(prompt)
        right = list(self.answers[key][num_kept : num_kept + wanted])
        pattern = self.num_right.get(key)
        if pattern is None:
            return right
        first = pattern[step % len(pattern)]
        for place in range(first, first + 1 if self.resumes else len(right)):
            if place < len(right):
                wrong = (right[place] + 1) % self.vocab_size if self.wrong is None else self.wrong
                if wrong == right[place]:
                    wrong = (wrong + 1) % self.vocab_size
                right[place] = wrong
        return right


def expected_counts(
    script: Script, prompt: Sequence[int], num_tokens: int, num_speculative_tokens: int
) -> tuple[list[int], list[int]]:
    """Tokens drafted and accepted per step, by definition, for a text of `num_tokens` without EOS.

    Each step keeps its drafts up to the first wrong one and one token more, and drafts no more than
    can still be kept. The script's answers are the target's own.
    """
    drafted: list[int] = []
    accepted: list[int] = []
    kept, pattern = 0, script.num_right.get(tuple(prompt))
    while kept < num_tokens:
        number = min(num_speculative_tokens, num_tokens - kept - 1)
        right = number if pattern is None else min(number, pattern[len(drafted) % len(pattern)])
        drafted.append(number)
        accepted.append(right)
        kept += right + 1
    return drafted, accepted
