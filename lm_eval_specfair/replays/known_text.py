"""A finished text with what must be known of it to take its speculative steps again."""

from dataclasses import dataclass, field

from lm_eval_specfair.records import FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownText:
    """A prompt and its finished response.

    Attributes:
        request_id: Names the request; equal to that of a decoded run of the same request.
        task: lm-eval's task, or the name of the source.
        prompt: Token ids, at least one.
        response: Token ids, with the one that ended the text; at least one.
        finish_reason: Why it ended, where that is known.
        max_new_tokens: Its length limit, where that is known.
        temperature: It was sampled with; 0 is greedy.
        drafter_temperature: Of the drafters that are replayed; None for the text's own.
        num_certain: Leading tokens of the response that are those that the model emitted, or at
            least give back the text when decoded and encoded again; the others may be split
            differently. None where all are.
        num_hidden: Tokens that the model may have emitted at the end without their being in the
            text, at most: those of a stop string.
    """

    request_id: str
    task: str
    doc_id: int
    prompt: list[int]
    response: list[int]
    text: str
    group_fields: dict[str, str | list[str]] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    drafter_temperature: float | None = None
    num_certain: int | None = None
    num_hidden: int = 0

    @property
    def sampling(self) -> tuple[float, int | None, float | None]:
        """Temperature, top-k and top-p."""
        return self.temperature, self.top_k, self.top_p

    @property
    def is_certain(self) -> bool:
        """Whether all of it is."""
        return self.num_certain is None

    @property
    def num_read(self) -> int:
        """Tokens that a model reads of it: all but the last."""
        return len(self.prompt) + len(self.response) - 1
