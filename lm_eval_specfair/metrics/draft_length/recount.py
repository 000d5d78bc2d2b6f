"""A recount of recorded texts with drafts of another length: expected steps and drafted tokens.

Whether the drafter would have kept a token depends on the text before it, not on where a step
began: in greedy decoding both models' choices are functions of the prefix, and in sampling a token
of the target's text was drafted and kept with chance ``min(1, q/p)`` in any step. So the steps of a
run are *marks* on its text, from which the steps of any other draft length follow. Unknown are the
tokens that nothing was drafted for, one after each draft that was kept whole; they are taken as
kept with the chance of the deepest position that was examined often enough. At the run's own length
the replay is the run, step for step.

A drafter that drafts fewer tokens than it may, or none (a lookup that finds nothing), is followed
by what it drafted: a step that begins where one of the run began drafts no more than that one did.
Taken as given is that a step that begins inside a kept draft copies on from the same place, and
could draft as many tokens as the draft it is in; and that a token before a step that found nothing
was not the one that a longer draft would have gone on with, as otherwise there was something to
find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Record

KEPT, REPLACED, UNKNOWN = 1, 0, -1
MIN_EXAMINED = 10
"""Draft positions examined less often say nothing about the chance at unknown tokens."""

_NO_BOUND = 1 << 30
_AT_ONCE = 2_000_000  # marks replayed together: bounds memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Which tokens of one text the drafter would have kept.

    At its length limit a text ends with a token that is never drafted. `most_drafted` has what a
    step that begins at a token can draft at most; None where no step drafted less than it could.
    """

    tokens: NDArray[np.int8]  # `KEPT`, `REPLACED` or `UNKNOWN`, (num_tokens,)
    reached_limit: bool
    most_drafted: NDArray[np.int64] | None = None  # (num_tokens,)


class Replayed(NamedTuple):
    """Expected target passes and drafted tokens, each of shape (num_texts,)."""

    steps: Array
    drafted: Array


def marks_of(record: Record, generator: np.random.Generator) -> Marks | None:
    """The marks of one request; None where the steps or the text's length were not recorded.

    `generator` orders the steps where the record has no more than their histogram; lost is then
    only how they followed each other within one text.
    """
    steps = _steps(record, generator)
    if steps is None or record.num_generated_tokens is None:
        return None
    tokens: list[int] = []
    most: list[int] = []
    length = max((drafted for _, drafted in steps), default=0)
    if record.acceptance_histogram is not None:
        length = max(length, len(record.acceptance_histogram) - 1)
    fell_short = False
    for accepted, drafted in steps:
        room = record.num_generated_tokens - len(tokens) - 1
        if drafted < min(length, room):
            fell_short = True
            if not drafted and tokens and tokens[-1] == UNKNOWN:
                tokens[-1] = REPLACED
        most += [drafted if drafted < length else _NO_BOUND] * (accepted + 1)
        tokens += [KEPT] * accepted + [REPLACED if accepted < drafted else UNKNOWN]
    # What ended the text may have been a drafted token, and an engine may count the tokens of a
    # last step that it cut off.
    return Marks(
        tokens=np.array(tokens[: record.num_generated_tokens], dtype=np.int8),
        reached_limit=record.finish_reason == "length",
        most_drafted=np.array(most[: record.num_generated_tokens]) if fell_short else None,
    )


def _steps(record: Record, generator: np.random.Generator) -> list[tuple[int, int]] | None:
    accepted, drafted = record.accepted_per_step, record.drafted_per_step
    if accepted is not None and drafted is not None and len(accepted) == len(drafted):
        return list(zip(accepted, drafted, strict=True))
    histogram = record.acceptance_histogram
    if histogram is None:
        return None
    accepted_counts = np.repeat(np.arange(len(histogram)), histogram)
    return [(int(kept), len(histogram) - 1) for kept in generator.permutation(accepted_counts)]


def position_counts(record: Record, longest: int) -> Array:
    """Examined and kept tokens by draft position up to the longest, shape (2, longest).

    A step examines the positions up to its first rejection; the one that the text ended in was not
    rejected.
    """
    counts = np.zeros((2, longest))
    steps = _steps(record, np.random.default_rng(0)) or []
    for number, (accepted, drafted) in enumerate(steps, start=1):
        counts[:, :accepted] += 1
        cut_off = number == len(steps) and _ended_inside(record, steps)
        if accepted < min(drafted, longest) and not cut_off:
            counts[0, accepted] += 1
    return counts


def _ended_inside(record: Record, steps: Sequence[tuple[int, int]]) -> bool:
    emitted = sum(accepted + 1 for accepted, _ in steps)
    return record.num_generated_tokens is not None and record.num_generated_tokens < emitted


def chance_of_unknown(counts: Array) -> tuple[int, float]:
    """The draft position, from 0, that stands for unknown tokens, and the share kept there.

    It is the deepest one examined `MIN_EXAMINED` times, else the first, with a share of 0 where
    nothing was examined.
    """
    examined, kept = counts
    often = np.flatnonzero(examined >= MIN_EXAMINED)
    position = int(often[-1]) if often.size else 0
    return position, float(kept[position] / examined[position]) if examined[position] else 0.0


def replay(texts: Sequence[Marks], num_draft_tokens: int, unknown: Array) -> Replayed:
    """Expected steps and drafted tokens of texts decoded again with drafts of a given length.

    A step drafts up to this many tokens (fewer before a length limit), keeps them up to the first
    that would be replaced, and gets one further token from the target; 0 decodes without a
    drafter. `unknown` is the chance that an unknown token would have been kept, shape
    (num_texts,): the expectation is taken over these, as no mark is ever looked at twice.
    """
    steps, drafted = np.zeros(len(texts)), np.zeros(len(texts))
    order = np.argsort([len(text.tokens) for text in texts], kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end - start) * len(texts[order[end]].tokens) < _AT_ONCE:
            end += 1
        part = order[start:end]
        batch = [texts[place] for place in part]
        replayed = _replay_padded(batch, num_draft_tokens, unknown[part])
        steps[part], drafted[part] = replayed.steps, replayed.drafted
        start = end
    return Replayed(steps=steps, drafted=drafted)


def _replay_padded(texts: Sequence[Marks], num_draft_tokens: int, unknown: Array) -> Replayed:
    lengths = np.array([len(text.tokens) for text in texts])
    limited = np.array([text.reached_limit for text in texts])
    longest = int(lengths.max(initial=0))
    kept = np.zeros((longest + num_draft_tokens + 1, len(texts)))
    most = np.full((longest, len(texts)), num_draft_tokens)
    for place, text in enumerate(texts):
        kept[: len(text.tokens), place] = np.where(
            text.tokens == UNKNOWN, unknown[place], text.tokens
        )
        if text.most_drafted is not None:
            most[: len(text.tokens), place] = text.most_drafted
    starts = np.zeros((longest + num_draft_tokens + 2, len(texts)))  # chance that a step begins
    starts[0] = 1
    steps, drafted = np.zeros(len(texts)), np.zeros(len(texts))
    for position in range(longest):
        alive = np.where(position < lengths, starts[position], 0.0)
        room = np.where(limited, lengths - position - 1, num_draft_tokens)
        room = np.minimum(room, most[position])
        steps += alive
        drafted += alive * np.clip(room, 0, num_draft_tokens)
        for depth in range(num_draft_tokens):
            accepted = alive * np.where(depth < room, kept[position + depth], 0.0)
            starts[position + depth + 1] += alive - accepted
            alive = accepted
        starts[position + num_draft_tokens + 1] += alive
    return Replayed(steps=steps, drafted=drafted)
