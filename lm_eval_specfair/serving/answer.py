"""One request's answer, put together from the events of its stream."""

import time
from dataclasses import dataclass, field

from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.count_fields import ServedText
from lm_eval_specfair.serving.protocols import BrokenAnswerError, Piece, Protocol
from lm_eval_specfair.serving.served_counts import ServedCounts
from lm_eval_specfair.serving.served_steps import Arrival


@dataclass(slots=True)
class ServedAnswer:
    """An answer as far as it has come.

    Attributes:
        protocol: Reads its events.
        most_tokens: Length limit that it was asked with.
        text: As the server gave it.
        token_ids: Of the text, as far as the server listed them.
        num_tokens: Of the text, as the server counts.
        model: Who answered, in the server's words.
    """

    protocol: Protocol
    most_tokens: int
    began: float = field(default_factory=time.perf_counter)
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    counts: ServedCounts | None = None
    model: str | None = None
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the text has ended and the server has said how long it is."""
        return self.finish_reason is not None and self.num_prompt_tokens is not None

    @property
    def has_token_ids(self) -> bool:
        """Whether all of the text's tokens are listed."""
        return len(self.token_ids) == self.num_tokens

    def feed(self, data: bytes) -> None:
        """Take in one event; a `BrokenAnswerError` if it is not of the documented shape."""
        self.add(self.protocol.read(data), time.perf_counter() - self.began)

    def add(self, piece: Piece, seconds: float) -> None:
        """Add what an event said that came so long after the request was sent."""
        listed = piece.token_ids or []
        arrived = self.num_tokens + len(listed)
        if piece.num_generated_tokens is not None:
            arrived = max(arrived, piece.num_generated_tokens)
        if arrived > self.most_tokens:
            raise BrokenAnswerError(
                f"the answer has {arrived} tokens, though at most {self.most_tokens} were asked for"
            )
        if arrived > self.num_tokens or piece.text:
            self.arrivals.append(
                Arrival(
                    seconds=seconds,
                    num_tokens=arrived - self.num_tokens,
                    text=piece.text,
                    counts=piece.counts,
                )
            )
        self.num_tokens = arrived
        self.text += piece.text
        self.token_ids += listed
        self.prompt_token_ids = self.prompt_token_ids or piece.prompt_token_ids
        self.finish_reason = self.finish_reason or piece.finish_reason
        if piece.num_prompt_tokens is not None:
            self.num_prompt_tokens = piece.num_prompt_tokens
        self.counts = piece.counts or self.counts
        self.model = self.model or piece.model

    def served_text(self) -> ServedText:
        """What counts are worked out from."""
        return ServedText(
            num_tokens=self.num_tokens,
            token_ids=self.token_ids if self.has_token_ids else None,
            finish_reason=self.finish_reason or "length",
            counts=self.counts,
            arrivals=self.arrivals,
        )

    def arrival_of(self, num_tokens: int) -> float | None:
        """Seconds from the request's sending until so many of its tokens were there."""
        seen = 0
        for arrival in self.arrivals:
            seen += arrival.num_tokens
            if seen >= num_tokens:
                return arrival.seconds
        return None
