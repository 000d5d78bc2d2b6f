"""Scripted drafts: a known continuation, with errors at given places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What to draft, given how far a text is; each decoder's adapter plays it.

    Attributes:
        answers: Each prompt's right tokens, long enough for what is asked.
        num_right: For each prompt, how many drafts are right in its first, second, ... step, in a
            cycle; a prompt that is missing has all of them right.
        vocab_size: Wrong tokens are within it.
        wrong: The token drafted in a wrong place; None for the right one plus 1.
        resumes: Whether drafts after the first wrong one are the answer's again, so that a
            decoder that counts all agreeing drafts counts too many.
    """

    answers: Mapping[tuple[int, ...], Sequence[int]]
    num_right: Mapping[tuple[int, ...], Sequence[int]]
    vocab_size: int = 260
    wrong: int | None = None
    resumes: bool = False

    def draft(self, prompt: Sequence[int], num_kept: int, wanted: int, step: int) -> list[int]:
        """The drafts of one step.

        Args:
            prompt: The request's prompt.
            num_kept: Tokens generated so far.
            wanted: Tokens to draft.
            step: Number of the request's step, from 0.

        Returns:
            As many tokens, fewer where the answer ends.
        """
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
    """Tokens drafted and accepted per step by a decoder that follows the definitions.

    Worked from the script alone: each step keeps what is right up to the first wrong draft and one
    token more, and drafts no more than can still be kept.

    Args:
        script: Whose answers are the target's own.
        prompt: The request's prompt.
        num_tokens: Length of the text, which ends at no EOS.
        num_speculative_tokens: Most tokens drafted per step.
    """
    drafted: list[int] = []
    accepted: list[int] = []
    kept, key = 0, tuple(prompt)
    pattern = script.num_right.get(key)
    while kept < num_tokens:
        number = min(num_speculative_tokens, num_tokens - kept - 1)
        right = number if pattern is None else min(number, pattern[len(drafted) % len(pattern)])
        drafted.append(number)
        accepted.append(right)
        kept += right + 1
    return drafted, accepted
