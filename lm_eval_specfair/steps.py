"""The steps that speculative decoding takes over a text that is known.

Whether a drafted token is kept depends on the text before it alone, so a finished text and a
drafter determine every step. The engine takes the same steps while it decodes.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

Agreeing = Callable[[int, int], tuple[int, int]]
"""Place in the text and tokens wanted → tokens drafted, and how many of them are kept in a row.

The second never reaches beyond the end of the text.
"""


@dataclass(slots=True)
class Steps:
    """The steps of one text.

    Attributes:
        drafted: Tokens drafted in each step.
        accepted: Tokens kept of them.
        rejected_places: Place in the text of each step's token that replaced a rejected one; None
            for steps without.
        examined_places: Places in the text where a drafted token was examined, in order: those of
            the kept ones, and of the token that replaced a rejected one.
    """

    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    rejected_places: list[int | None] = field(default_factory=list)
    examined_places: list[int] = field(default_factory=list)


def num_wanted(
    place: int,
    num_speculative_tokens: int,
    max_new_tokens: int | None,
    *,
    room: int | None = None,
) -> int:
    """Tokens to draft in a step that starts after `place` generated tokens.

    `room` is how many tokens after the prompt the drafter can continue.
    """
    # Of the tokens that are left before the limit, the last comes from the target anyway.
    left = None if max_new_tokens is None else max_new_tokens - place - 1
    reach = None if room is None else room - place
    return max(
        0, min(number for number in (num_speculative_tokens, left, reach) if number is not None)
    )


def step_walk(
    length: int,
    *,
    num_speculative_tokens: int,
    max_new_tokens: int | None,
    num_prompt_tokens: int = 0,
    max_length: int | None = None,
) -> Generator[tuple[int, int], tuple[int, int], Steps]:
    """The steps of a known text, one after another, for a drafter that is asked at each.

    Yields the place in the text and the tokens wanted, and is sent the answer (`Agreeing`). Nobody
    is asked where nothing is wanted. Arguments are those of `steps_of`.
    """
    steps, place = Steps(), 0
    room = None if max_length is None else max_length - num_prompt_tokens
    while place < length:
        wanted = num_wanted(place, num_speculative_tokens, max_new_tokens, room=room)
        drafted, accepted = (yield place, wanted) if wanted else (0, 0)
        # Where the text ended inside the kept tokens, the rejected one was never looked at.
        rejected = accepted < drafted and place + accepted < length
        steps.drafted.append(drafted)
        steps.accepted.append(accepted)
        steps.rejected_places.append(place + accepted if rejected else None)
        steps.examined_places.extend(range(place, place + accepted + rejected))
        place += accepted + 1
    return steps


def steps_of(
    length: int,
    agreeing: Agreeing,
    *,
    num_speculative_tokens: int,
    max_new_tokens: int | None,
    num_prompt_tokens: int = 0,
    max_length: int | None = None,
) -> Steps:
    """Decode a known text again.

    Args:
        length: Tokens of the text, with the one that ended it.
        agreeing: What the drafter proposes at a place, and how much of it is kept.
        num_speculative_tokens: Tokens drafted per step at most.
        max_new_tokens: Length limit of the text; None where it is not known to have one.
        num_prompt_tokens: Tokens before the text.
        max_length: Longest row that the drafter can continue, prompt included.

    Example:
        >>> kept = [True, True, False, True, True]  # what a drafter would have got right
        >>> def agreeing(place, wanted):
        ...     right = kept[place : place + wanted]
        ...     return wanted, right.index(False) if False in right else len(right)
        >>> steps = steps_of(5, agreeing, num_speculative_tokens=2, max_new_tokens=5)
        >>> steps.drafted, steps.accepted, steps.examined_places
        ([2, 1], [2, 1], [0, 1, 3])
    """
    walk = step_walk(
        length,
        num_speculative_tokens=num_speculative_tokens,
        max_new_tokens=max_new_tokens,
        num_prompt_tokens=num_prompt_tokens,
        max_length=max_length,
    )
    try:
        asked = next(walk)
        while True:
            asked = walk.send(agreeing(*asked))
    except StopIteration as end:
        steps: Steps = end.value
        return steps


def agreeing_by_marks(marks: Sequence[bool]) -> Agreeing:
    """For a drafter of one token after another: `marks[i]` says whether it would get token i."""
    runs = [0] * (len(marks) + 1)
    for place in range(len(marks) - 1, -1, -1):
        runs[place] = runs[place + 1] + 1 if marks[place] else 0

    def agreeing(place: int, wanted: int) -> tuple[int, int]:
        return wanted, min(wanted, runs[place])

    return agreeing


def expected_counts(
    chances: Sequence[float],
    *,
    num_speculative_tokens: int,
    max_new_tokens: int | None,
    num_prompt_tokens: int = 0,
    max_length: int | None = None,
) -> tuple[float, float, float]:
    """Expected steps, drafted and accepted tokens of a known text, for chances instead of marks.

    `chances[i]` is that of token i to be drafted and kept, independent of all others once the text
    is given. Other arguments are those of `steps_of`.

    Example:
        >>> expected_counts([0.5, 1.0], num_speculative_tokens=1, max_new_tokens=None)
        (1.5, 1.5, 1.0)
    """
    length = len(chances)
    room = None if max_length is None else max_length - num_prompt_tokens
    begins = [1.0] + [0.0] * length  # that a step starts at this place
    steps = drafted = accepted = 0.0
    for place in range(length):
        here = begins[place]
        if not here:
            continue
        wanted = num_wanted(place, num_speculative_tokens, max_new_tokens, room=room)
        steps += here
        drafted += here * wanted
        end = min(place + wanted, length)
        for at in range(place, end):
            begins[at + 1] += here * (1 - chances[at])
            here *= chances[at]
            accepted += here
        if end + 1 <= length:
            begins[end + 1] += here
    return steps, drafted, accepted
