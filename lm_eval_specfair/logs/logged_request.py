"""One request as a log has it, whichever program wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.served_counts import ServedCounts

Prompt = str | list[Any]
"""A text, token ids, or the messages of a chat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRequest:
    """What a log says of a request; None is what it does not say.

    Attributes:
        where: File and line, for messages.
        number: Of the request among those that the log knows, from 0.
        names: Ids of the request that whoever sent it chose, the most telling first.
        line: The line itself, where fields that name a group are looked for.
        prompt: What was asked, if the log or a file beside it has it.
        max_new_tokens: Length limit of its text.
        temperature: Of its sampling; 0 is greedy.
        num_prompt_tokens: By the server, else by the client's tokenizer.
        num_generated_tokens: The same, with the token that ended the text.
        text: What came back.
        token_ids: Its tokens.
        finish_reason: Why it ended.
        counts: The server's.
        failure: Why there is no text; such a request is left out of all metrics.
        seconds: Fields of a record that are times on the client's clock.
    """

    where: str
    number: int
    names: tuple[str, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    num_prompt_tokens: int | None = None
    num_generated_tokens: int | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    finish_reason: FinishReason | None = None
    counts: ServedCounts | None = None
    failure: str | None = None
    seconds: Mapping[str, Any] = field(default_factory=dict)
