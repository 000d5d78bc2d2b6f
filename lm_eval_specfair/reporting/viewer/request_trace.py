"""The trace of a request: which of its tokens were drafted, and what was thrown away, by step."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from lm_eval_specfair.records import Record


class Fate(Enum):
    """Where a token of a text came from."""

    KEPT = "kept"
    """Drafted, and kept by the target."""
    REPLACED = "replaced"
    """The target's own, in place of a draft that it rejected."""
    BONUS = "bonus"
    """The target's own, after drafts of which all were kept."""
    UNDRAFTED = "undrafted"
    """The target's own, in a step that drafted nothing."""
    UNKNOWN = "unknown"
    """Of a record without its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceStep:
    """One draft-and-verify round.

    Attributes:
        begin: Its first token's place in the text.
        num_drafted: Tokens drafted.
        num_kept: Those kept.
        own: How the token that ended the step came about; None where the text ended before it.
        thrown_away: Ids of the drafted tokens that were not kept, as far as they are known.
        is_examined: Whether the first of these was rejected; else the text ended before it.
    """

    begin: int
    num_drafted: int
    num_kept: int
    own: Fate | None
    thrown_away: Sequence[int]

    @property
    def num_thrown_away(self) -> int:
        """Drafted tokens that were not kept, whether it is known which or not."""
        return self.num_drafted - self.num_kept

    @property
    def end(self) -> int:
        """The place after its last token."""
        return self.begin + self.num_kept + (self.own is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestTrace:
    """A request's text by tokens; without steps where its record has none.

    Attributes:
        fates: Of each token.
        overlaps: `sum_x min(p, q)` at each token's place, None where nothing was examined there, or
            where it is not known.
    """

    record: Record
    tokens: Sequence[int]
    fates: Sequence[Fate]
    steps: Sequence[TraceStep]
    overlaps: Sequence[float | None]

    def counts(self) -> dict[str, int]:
        """Tokens by fate, and those thrown away, under `thrown_away`; what is 0 is left out."""
        found = Counter(fate.value for fate in self.fates)
        found["thrown_away"] = sum(step.num_thrown_away for step in self.steps)
        return {name: number for name, number in found.items() if number}


def trace_of(record: Record) -> RequestTrace:
    """The trace of a generated request's record."""
    tokens = record.generated_token_ids or []
    length = len(tokens) if record.generated_token_ids is not None else 1 << 62
    steps = list(_steps(record, min(length, record.num_generated_tokens or 0)))
    fates = [fate for step in steps for fate in _fates(step)][: len(tokens)]
    fates += [Fate.UNKNOWN] * (len(tokens) - len(fates))
    return RequestTrace(
        record=record,
        tokens=tokens,
        fates=fates,
        steps=steps,
        overlaps=_overlaps(record, steps, len(tokens)),
    )


def _steps(record: Record, length: int) -> Iterator[TraceStep]:
    accepted, drafted = record.accepted_per_step or [], record.drafted_per_step or []
    thrown = record.discarded_token_ids or [[]] * len(accepted)
    place = 0
    for kept, proposed, ids in zip(accepted, drafted, thrown, strict=False):
        own = None
        if place + kept < length:
            own = Fate.REPLACED if kept < proposed else Fate.BONUS if proposed else Fate.UNDRAFTED
        yield TraceStep(begin=place, num_drafted=proposed, num_kept=kept, own=own, thrown_away=ids)
        place += kept + (own is not None)


def _fates(step: TraceStep) -> list[Fate]:
    return [Fate.KEPT] * step.num_kept + ([] if step.own is None else [step.own])


def _overlaps(record: Record, steps: Sequence[TraceStep], num_tokens: int) -> list[float | None]:
    """The overlaps of examined positions, each at its token: a kept one, or the replacement."""
    places = [
        place
        for step in steps
        for place in range(step.begin, step.begin + step.num_kept + (step.own is Fate.REPLACED))
    ]
    known = record.overlap_per_position or []
    found: list[float | None] = [None] * num_tokens
    # Where distributions are known of some positions only, nobody says of which.
    if len(known) == len(places):
        for place, overlap in zip(places, known, strict=True):
            if place < num_tokens:
                found[place] = overlap
    return found
