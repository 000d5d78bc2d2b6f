"""What a server says of one request's drafts, in one shape for all of them; needs no torch.

Every server counts by a convention of its own (`CONVENTIONS`). Here its numbers stay as it gave
them; `count_fields` turns them into those of a record.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS

CONVENTIONS = {
    "vllm": "steps that had drafts; the first token comes from the prompt's pass; drafts after the "
    "end of a text, and those that its length limit made useless, are counted",
    "sglang": "verifications; the first token comes from the prompt's pass; drafts accepted after "
    "the end of a text are counted; proposals are computed: verifications times the draft length",
    "llamacpp": "drafted and accepted tokens, no steps; the first token comes from the prompt's "
    "pass; drafts accepted after the end of a text are counted",
    "metrics": "differences of the server's /metrics counters around a request sent alone",
}
"""By api: what its counts mean, in the words of `run.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCounts:
    """One request's counts as a server gave them; None is what it does not say.

    Attributes:
        convention: Key of `CONVENTIONS`.
        num_spec_steps: Target passes that verified drafts.
        num_draft_tokens: Tokens proposed.
        num_accepted_draft_tokens: Those kept by verification, behind the text's end as well.
        acceptance_histogram: Verifications by number accepted.
        drafted_per_step: Tokens proposed in each verification.
        accepted_per_step: Tokens kept in each.
        num_spec_tokens: The most that is drafted in a step.
        drafts_are_computed: Whether `num_draft_tokens` is a product of settings, not a count.
    """

    convention: str
    num_spec_steps: int | None = None
    num_draft_tokens: int | None = None
    num_accepted_draft_tokens: int | None = None
    acceptance_histogram: list[int] | None = None
    drafted_per_step: list[int] | None = None
    accepted_per_step: list[int] | None = None
    num_spec_tokens: int | None = None
    drafts_are_computed: bool = False


def contradictions(counts: ServedCounts) -> list[str]:
    """Where a server's numbers cannot all be true of one request; empty where they can.

    Example:
        >>> contradictions(ServedCounts(convention="vllm", num_spec_steps=2, num_draft_tokens=1,
        ...                             num_accepted_draft_tokens=3))
        ['3 accepted of 1 drafted']
    """
    return list(_contradictions(counts))


def _contradictions(counts: ServedCounts) -> Iterator[str]:
    longest = [counts.num_spec_tokens or 0, *(counts.drafted_per_step or ())]
    if max([*longest, len(counts.acceptance_histogram or ()) - 1]) > MAX_SPECULATIVE_TOKENS:
        yield f"over {MAX_SPECULATIVE_TOKENS} tokens drafted in a step"
    steps, drafted = counts.num_spec_steps, counts.num_draft_tokens
    accepted, histogram = counts.num_accepted_draft_tokens, counts.acceptance_histogram
    if drafted is not None and accepted is not None and accepted > drafted:
        yield f"{accepted} accepted of {drafted} drafted"
    if histogram is not None:
        in_histogram = sum(histogram)
        if steps is not None and in_histogram != steps:
            yield f"{in_histogram} steps in the histogram, {steps} in all"
        kept = sum(number * times for number, times in enumerate(histogram))
        if accepted is not None and kept != accepted:
            yield f"{kept} accepted in the histogram, {accepted} in all"
    each, of = counts.accepted_per_step, counts.drafted_per_step
    if each is not None and accepted is not None and sum(each) != accepted:
        yield f"{sum(each)} accepted step by step, {accepted} in all"
    if of is not None and drafted is not None and sum(of) != drafted:
        yield f"{sum(of)} drafted step by step, {drafted} in all"
    for name, steps_listed in (("accepted", each), ("drafted", of)):
        if steps_listed is not None and steps is not None and len(steps_listed) != steps:
            yield f"{len(steps_listed)} steps listed with what they {name}, {steps} in all"
    if each is not None and of is not None and any(a > d for a, d in zip(each, of, strict=False)):
        yield "a step accepted more than it drafted"
