"""The fields of a record that a server's counts can fill: our convention, or None.

A served text is cut by the rule that the in-process engine stops by, and what lies behind the cut
is not counted. Where the steps are known one by one, `vllm.step_counts.counted` does it. Where only
their sums are, what can be worked out from these is, and the rest is None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.served_counts import ServedCounts, contradictions
from lm_eval_specfair.serving.served_steps import Arrival, ServedStep, served_steps, step_tokens
from lm_eval_specfair.vllm.step_counts import Step, counted

COUNT_FIELDS = (
    "num_spec_steps",
    "num_draft_tokens",
    "num_accepted_draft_tokens",
    "num_examined_draft_tokens",
    "acceptance_histogram",
    "drafted_per_step",
    "accepted_per_step",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedText:
    """A whole text as a server gave it.

    Attributes:
        num_tokens: Its length, with the token that ended it.
        token_ids: None where the server does not say.
        finish_reason: The server's.
        counts: The server's; None where it gives none.
        arrivals: The events of its stream; empty where it was not streamed.
    """

    num_tokens: int
    token_ids: Sequence[int] | None
    finish_reason: FinishReason
    counts: ServedCounts | None
    arrivals: Sequence[Arrival] = ()


@dataclass(frozen=True, slots=True)
class CutText:
    """A served text up to where it ends, and the record's fields on its steps.

    Attributes:
        num_tokens: Kept ones.
        fields: A value for each of `COUNT_FIELDS`.
        contradiction: What the server's counts contradict themselves in; empty where they do not.
            The fields are then all None.
    """

    num_tokens: int
    finish_reason: FinishReason
    fields: dict[str, Any]
    contradiction: str = ""


def cut_text(
    text: ServedText,
    *,
    max_new_tokens: int,
    stop_strings: Sequence[str] = (),
    decode: Callable[[list[int]], str] | None = None,
    num_speculative_tokens: int = 0,
) -> CutText:
    """Cut a text by our stops and count its steps as our engine does.

    Args:
        text: As the server gave it.
        max_new_tokens: Length limit that it was asked with.
        stop_strings: Those that the server was not asked to stop at; they need `decode`.
        decode: Token ids to text, special tokens kept.
        num_speculative_tokens: The most that the server drafts in a step, where that is known.
    """
    looks_for_stops = bool(stop_strings) and decode is not None and text.token_ids is not None
    # Where the server alone ended the text, places stand for tokens: only the last one ends it.
    tokens = list((text.token_ids or ()) if looks_for_stops else range(text.num_tokens))
    ended_by = "eos" if looks_for_stops else text.finish_reason
    is_ended = text.finish_reason == ended_by != "length"
    stopping = Stopping(
        max_new_tokens=max_new_tokens,
        eos_token_ids=frozenset(tokens[-1:]) if is_ended else frozenset(),
        stop_strings=tuple(stop_strings) if looks_for_stops else (),
        decode=decode,
    )
    nothing: dict[str, Any] = dict.fromkeys(COUNT_FIELDS)
    kept, reason = stopping.cut(tokens, len(tokens)) if tokens else (0, None)
    if reason is None or (reason == "eos" and text.finish_reason == "stop"):
        reason = text.finish_reason
    if text.counts is None:
        return CutText(kept, reason, nothing)
    wrong = contradictions(text.counts)
    if wrong:
        return CutText(kept, reason, nothing, contradiction="; ".join(wrong))
    known = max(num_speculative_tokens, text.counts.num_spec_tokens or 0)
    steps = served_steps(text.counts, text.arrivals, len(tokens))
    if steps is None:
        summed = _from_sums(text, kept, max_new_tokens) if kept == len(tokens) else {}
        if "acceptance_histogram" in summed:
            histogram = summed["acceptance_histogram"]
            summed["acceptance_histogram"] = histogram + [0] * (known + 1 - len(histogram))
        return CutText(kept, reason, nothing | summed)
    fields = _from_steps(steps, tokens, stopping, known)
    later = served_steps(text.counts, text.arrivals, len(tokens), late=True)
    if later != steps:  # some stand where nobody can tell
        other = nothing if later is None else _from_steps(later, tokens, stopping, known)
        fields = {name: value if value == other[name] else None for name, value in fields.items()}
    return CutText(kept, reason, fields)


def _from_steps(
    steps: Sequence[ServedStep], tokens: Sequence[int], stopping: Stopping, longest: int
) -> dict[str, Any]:
    parts = [
        Step(own, step.num_drafted, step.num_accepted)
        for step, own in zip(steps, step_tokens(steps, tokens), strict=True)
    ]
    counters = counted(parts, stopping).counters
    return {
        "num_spec_steps": counters.num_steps,
        "num_draft_tokens": sum(counters.drafted_per_step),
        "num_accepted_draft_tokens": sum(counters.accepted_per_step),
        "num_examined_draft_tokens": counters.num_examined,
        "acceptance_histogram": counters.histogram(max([longest, *counters.drafted_per_step])),
        "drafted_per_step": counters.drafted_per_step,
        "accepted_per_step": counters.accepted_per_step,
    }


def _from_sums(text: ServedText, num_tokens: int, max_new_tokens: int) -> dict[str, Any]:
    """What sums alone tell of a text that was not cut here.

    A step emits its accepted tokens and one more, and the prompt's pass one. So with all steps
    known, what is missing from a text lies behind its end, first of it the last step's own token.
    At the length limit the last token counts as that one (`counted`).
    """
    counts = text.counts
    assert counts is not None
    accepted, steps = counts.num_accepted_draft_tokens, counts.num_spec_steps
    if accepted is None or not num_tokens:
        return {}
    if steps is None:
        # Steps follow from tokens, unless tokens that were accepted lie behind the end; llama.cpp
        # drafts no more than the length limit leaves room for.
        if text.finish_reason != "length" or accepted >= num_tokens:
            return {}
        return {"num_spec_steps": num_tokens - accepted, "num_accepted_draft_tokens": accepted}
    behind = 1 + steps + accepted - num_tokens
    if behind < 0:  # passes without drafts, which nobody counted
        return {}
    accepted -= behind if num_tokens >= max_new_tokens else max(0, behind - 1)
    if accepted < 0:
        return {}
    found: dict[str, Any] = {
        "num_spec_steps": steps + 1,
        "num_accepted_draft_tokens": accepted,
    }
    histogram, drafted = counts.acceptance_histogram, counts.num_draft_tokens
    most = counts.num_spec_tokens
    if behind or num_tokens + (most or 0) >= max_new_tokens or drafted is None:
        # What the last step drafted for nothing is not known.
        return found
    found["num_draft_tokens"] = drafted
    if histogram is not None and most is not None and drafted == most * steps:
        whole = [*histogram, *[0] * (most + 1 - len(histogram))]
        found["acceptance_histogram"] = [whole[0] + 1, *whole[1:]]
        found["num_examined_draft_tokens"] = accepted + steps - whole[most]
    return found
