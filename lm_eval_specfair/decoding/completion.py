"""A request to a decoder, and the completion that comes back."""

from dataclasses import dataclass
from typing import Any

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
        drafter: The name of its drafter, where there are several; one of no drafter drafts nothing.
        drafter_temperature: Its drafter's own, where it has another than the configuration's.
        asked: What another process is asked in place of the tokens, where these are not known: a
            text, or the messages of a chat.
    """

    request_id: str
    prompt: list[int]
    stopping: Stopping
    num_speculative_tokens: int | None = None
    drafter: str | None = None
    drafter_temperature: float | None = None
    asked: str | list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What another process said of a text, in place of what is counted and timed here.

    Attributes:
        text: The text as it gave it.
        num_tokens: Its tokens; `Completion.token_ids` is empty where it did not list them.
        prompt_token_ids: The prompt's, where it listed them.
        num_speculative_tokens: The most that it drafts in a step.
        fields: Fields of the record; None is what it did not say.
    """

    text: str
    num_tokens: int
    prompt_token_ids: list[int] | None
    num_speculative_tokens: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Completion:
    """A decoded request.

    Attributes:
        token_ids: Generated tokens, with the one that ended the text.
        finish_reason: Why it ended; None where it failed.
        failure: Why it could not be decoded to its end, or None.
        error: What was raised, where that is the failure.
        told: What the process that decoded it said; None where it was decoded here.
    """

    request: Request
    token_ids: list[int]
    finish_reason: FinishReason | None
    counters: RequestCounters
    failure: str | None = None
    error: Exception | None = None
    told: Told | None = None

    @property
    def num_tokens(self) -> int:
        """Generated tokens, listed or not."""
        return len(self.token_ids) if self.told is None else self.told.num_tokens

    def agrees_with(self, other: "Completion") -> bool:
        """Whether both have the same tokens; the same text, where tokens were not listed."""
        are_told = self.told is not None and other.told is not None
        if are_told and not (self.token_ids and other.token_ids):
            return self.told.text == other.told.text  # type: ignore[union-attr]
        return self.token_ids == other.token_ids

    @classmethod
    def failed(cls, request: Request, error: Exception) -> "Completion":
        """The completion of a request of which nothing could be decoded."""
        return cls(request, [], None, RequestCounters(), failure_reason(error), error)
