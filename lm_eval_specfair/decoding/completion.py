"""A request to a decoder, and the completion that comes back."""

from dataclasses import dataclass

from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records import FinishReason

LONGEST_REASON = 200


def failure_reason(error: Exception) -> str:
    """An error as a record's `failure`: its kind and the first line of its message."""
    message = (str(error).splitlines() or [""])[0][:LONGEST_REASON]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt to decode.

    Attributes:
        request_id: Unique; with the seed, the request's source of randomness.
        prompt: Token ids, at least one.
        num_speculative_tokens: Tokens drafted per step, where fewer than the configuration's.
    """

    request_id: str
    prompt: list[int]
    stopping: Stopping
    num_speculative_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A decoded request.

    Attributes:
        token_ids: Generated tokens, with the one that ended the text.
        finish_reason: Why it ended; None where it failed.
        failure: Why it could not be decoded to its end, or None.
        error: What was raised, where that is the failure.
    """

    request: Request
    token_ids: list[int]
    finish_reason: FinishReason | None
    counters: RequestCounters
    failure: str | None = None
    error: Exception | None = None

    @classmethod
    def failed(cls, request: Request, error: Exception) -> "Completion":
        """The completion of a request of which nothing could be decoded."""
        return cls(request, [], None, RequestCounters(), failure_reason(error), error)
