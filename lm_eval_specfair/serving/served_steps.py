"""The steps of a served text, one by one, as far as the server's counts and its stream tell them.

The first step is the prompt's pass, which emits a text's first token without drafts. What a step
emitted beyond the text's end is cut by `vllm.step_counts.counted`, as everywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.serving.served_counts import ServedCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What one event of a stream brought.

    Attributes:
        seconds: From the request's sending to its arrival.
        num_tokens: Tokens that it added to the text.
        text: What it added to the text.
        counts: What the server had counted by then, where it says so with every event.
    """

    seconds: float
    num_tokens: int
    text: str = ""
    counts: ServedCounts | None = None


@dataclass(frozen=True, slots=True)
class ServedStep:
    """One target pass; it emitted `num_accepted` tokens and one more, less at the text's end."""

    num_drafted: int
    num_accepted: int


PROMPT_PASS = ServedStep(0, 0)


def served_steps(
    counts: ServedCounts, arrivals: Sequence[Arrival], num_tokens: int, *, late: bool = False
) -> list[ServedStep] | None:
    """All steps of a text of `num_tokens` tokens, the prompt's pass first; None if unknown.

    A step that kept nothing looks like a pass without drafts, and some servers list only the
    first kind. With `late` such steps stand as far behind as they may, else as far in front: what
    both say alike is certain.
    """
    if not num_tokens:
        return []
    if counts.accepted_per_step is not None and counts.drafted_per_step is not None:
        listed = list(map(ServedStep, counts.drafted_per_step, counts.accepted_per_step))
        return _placed(listed, arrivals, num_tokens, late=late)
    if counts.acceptance_histogram is not None and counts.num_spec_tokens is not None:
        return _by_histogram(counts, arrivals)
    if arrivals and all(arrival.counts is not None for arrival in arrivals):
        return _by_marks(arrivals, num_tokens)
    return None


def _placed(
    listed: Sequence[ServedStep], arrivals: Sequence[Arrival], num_tokens: int, *, late: bool
) -> list[ServedStep] | None:
    """Listed steps with those between them for which nothing was drafted.

    A stream shows where these are, if no two of its events were merged. vLLM pads the prompt's pass
    of a request that joins others with one token left to compute, and lists it as a step that
    kept nothing. Without a stream that shows only where nothing else explains it.
    """
    lengths = [arrival.num_tokens for arrival in arrivals if arrival.num_tokens]
    padded = listed[1:] if listed and not listed[0].num_accepted else None
    if lengths and lengths[0] == 1:
        for steps in (listed, padded):
            placed = None if steps is None else _matched(steps, lengths[1:], late=late)
            if placed is not None:
                return [PROMPT_PASS, *placed]
    emitted = 1 + sum(step.num_accepted + 1 for step in listed)
    behind = emitted - num_tokens
    # Only the last step's tokens can lie behind the end.
    if behind == 0 or (listed and 0 < behind <= listed[-1].num_accepted):
        return [PROMPT_PASS, *listed]
    return [PROMPT_PASS, *padded] if padded is not None and behind == 1 else None


def _matched(
    listed: Sequence[ServedStep], lengths: Sequence[int], *, late: bool
) -> list[ServedStep] | None:
    """A step for each length: those listed, in order, and between them steps of one token."""
    for cut in (True, False):
        found = _matched_once(listed, lengths, late=late, cut=cut)
        if found is not None:
            return found
    return None


def _matched_once(
    listed: Sequence[ServedStep], lengths: Sequence[int], *, late: bool, cut: bool
) -> list[ServedStep] | None:
    """The same, with the last length that of a listed step that was cut off, or not."""
    order = -1 if late else 1
    found: list[ServedStep] = []
    waiting = list(listed)[::-order]
    for place in range(len(lengths))[::order]:
        length = lengths[place]
        ends = cut and place == len(lengths) - 1 and (late or len(waiting) == 1)
        fits = waiting and (
            length == waiting[-1].num_accepted + 1 or (ends and length <= waiting[-1].num_accepted)
        )
        if fits:
            found.append(waiting.pop())
        elif length == 1:
            found.append(PROMPT_PASS)
        else:
            return None
    return None if waiting else found[::order]


def _by_histogram(counts: ServedCounts, arrivals: Sequence[Arrival]) -> list[ServedStep] | None:
    """Steps by the lengths of a stream's events, where these are what the histogram holds."""
    histogram = list(counts.acceptance_histogram or [])
    lengths = [arrival.num_tokens for arrival in arrivals if arrival.num_tokens]
    drafted, steps = counts.num_spec_tokens or 0, sum(histogram)
    if counts.num_draft_tokens != drafted * steps or len(lengths) != steps + 1 or lengths[0] != 1:
        return None
    if not steps:
        return [PROMPT_PASS]
    *full, last = lengths[1:]
    for length in full:
        if length > len(histogram) or not histogram[length - 1]:
            return None
        histogram[length - 1] -= 1
    # What is left is the last step, some of whose tokens may lie behind the text's end.
    accepted = histogram.index(1)
    if last > accepted + 1:
        return None
    steps_found = [ServedStep(drafted, length - 1) for length in full]
    return [PROMPT_PASS, *steps_found, ServedStep(drafted, accepted)]


def _by_marks(arrivals: Sequence[Arrival], num_tokens: int) -> list[ServedStep] | None:
    """Steps by where the counts of drafted tokens grew; None if one cannot be told from the next.

    A stream holds tokens back until their character is complete: a step that began among these may
    be two, unless as many were drafted as the longest step drafts.
    """
    steps = [PROMPT_PASS]
    emitted, seen = 1, 0  # tokens of these steps, tokens that arrived
    drafted = accepted = 0
    doubtful: list[int] = []
    for arrival in arrivals:
        counts = arrival.counts
        assert counts is not None
        now = (counts.num_draft_tokens or 0, counts.num_accepted_draft_tokens or 0)
        if now[0] > drafted:
            start = seen if arrival.num_tokens == 1 else max(seen, emitted)
            step = ServedStep(now[0] - drafted, now[1] - accepted)
            is_possible = emitted <= start < seen + arrival.num_tokens
            is_possible &= 0 <= step.num_accepted <= step.num_drafted <= MAX_SPECULATIVE_TOKENS
            if not is_possible:
                return None
            steps += [PROMPT_PASS] * (start - emitted)
            if arrival.num_tokens > 1:
                doubtful.append(len(steps))
            steps.append(step)
            emitted = start + step.num_accepted + 1
        elif now != (drafted, accepted):
            return None
        drafted, accepted = now
        seen += arrival.num_tokens
    if seen != num_tokens:
        return None
    steps += [PROMPT_PASS] * max(0, num_tokens - emitted)
    longest = max(
        (step.num_drafted for n, step in enumerate(steps) if n not in doubtful), default=0
    )
    for place in doubtful:
        number, is_last = steps[place].num_drafted, place == len(steps) - 1
        if number > longest or (number < longest and not is_last):  # the limit shortens the last
            return None
    return steps


def step_tokens(steps: Sequence[ServedStep], tokens: Sequence[int]) -> Iterator[list[int]]:
    """The tokens that each step emitted; the last one's may end early."""
    place = 0
    for step in steps:
        end = place + step.num_accepted + 1
        yield list(tokens[place:end])
        place = end
