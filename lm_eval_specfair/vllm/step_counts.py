"""The counts of our records from the steps that vLLM reports; needs no vLLM.

vLLM takes a text's first token from the prompt's pass, drafts after EOS and beyond the length
limit, and counts all of that (vllm#56101). Here each of its steps is cut by the rule that the
in-process engine stops by, so that equal counts mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records import FinishReason


@dataclass(frozen=True, slots=True)
class Step:
    """One target pass as vLLM reports it, also after EOS and beyond the length limit."""

    tokens: list[int]
    num_drafted: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A text cut where it ends, and the counts up to there, without times and divergences."""

    token_ids: list[int]
    finish_reason: FinishReason | None  # None where none of its stops was met
    counters: RequestCounters


def counted(steps: Sequence[Step], stopping: Stopping) -> Counted:
    """Cut a text by our stops and count its steps as our engine does.

    Not counted are drafted tokens that the length limit made useless: one token follows anyway, so
    a step can keep one fewer than remain. A draft after EOS or a stop was not examined, and one
    kept there is not accepted. Steps after the end do not count; the first is the prompt's pass.
    """
    tokens: list[int] = []
    counters = RequestCounters()
    reason: FinishReason | None = None
    for step in steps:
        useful = stopping.max_new_tokens - len(tokens) - 1
        drafted = min(step.num_drafted, useful)
        accepted = min(step.num_accepted, drafted)
        new = step.tokens[: accepted + 1]
        tokens.extend(new)
        kept, reason = stopping.cut(tokens, len(new))
        if kept < len(new):
            del tokens[kept - len(new) :]
        rejected = kept > accepted and accepted < drafted
        counters.drafted_per_step.append(drafted)
        counters.accepted_per_step.append(min(accepted, kept))
        counters.num_examined += min(accepted, kept) + rejected
        if reason is not None:
            break
    return Counted(tokens, reason, counters)


def examined_places(counters: RequestCounters) -> list[int]:
    """Places of the generated tokens at which a draft was examined, in order.

    A step examines drafts at the places of its accepted tokens and of the one that replaced the
    rejected draft. Only a text's last step may have ended before that one.
    """
    places: list[int] = []
    start = 0
    for accepted, drafted in zip(
        counters.accepted_per_step, counters.drafted_per_step, strict=True
    ):
        places.extend(range(start, start + accepted + (accepted < drafted)))
        start += accepted + 1
    return places[: counters.num_examined]
