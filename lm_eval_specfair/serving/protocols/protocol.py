"""A server's protocol: which request it is sent, and what is read from its answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.protocols.answer_shapes import Choice, RawAnswer
from lm_eval_specfair.serving.served_counts import ServedCounts

Prompt = str | list[int] | list[dict[str, Any]]
"""A text, token ids, or the messages of a chat."""

_LONGEST_QUOTE = 160
_MOST_NATS, _ROUNDING = 1e6, 1e-3


class BrokenAnswerError(ValueError):
    """An answer that is not of the documented shape, or that names an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """One text to ask for.

    Attributes:
        model: The served name.
        max_new_tokens: Length limit of the text.
        seed: Of its sampling.
        stop_strings: Strings that the server itself is to stop at.
        stop_token_ids: Tokens that it is to stop at.
    """

    model: str
    prompt: Prompt
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop_strings: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is messages."""
        prompt = self.prompt
        return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event of a stream says, or a whole answer; None and empty where it says nothing.

    Attributes:
        text: What is added to the text.
        token_ids: The tokens that are added.
        finish_reason: Why the text ended, in its last event.
        num_prompt_tokens: Of the request.
        num_generated_tokens: Of the whole text so far.
        counts: The request's, up to here.
        model: Name of the model that answered.
    """

    text: str = ""
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_generated_tokens: int | None = None
    counts: ServedCounts | None = None
    model: str | None = None


class Protocol(ABC):
    """How one kind of server is asked.

    Attributes:
        name: The value of `api`.
        owner: What `/v1/models` says in `owned_by`.
        info_paths: Where it tells about itself, the most telling first.
        counts_switch: What makes it count, in the words of an error message.
        scores_prompts: Whether it gives the log-probabilities of a prompt's tokens.
        counts_at_stop_strings: Whether texts that end at a stop string keep their counts.
    """

    name: ClassVar[str]
    owner: ClassVar[str]
    info_paths: ClassVar[Sequence[str]]
    counts_switch: ClassVar[str]
    scores_prompts: ClassVar[bool]
    counts_at_stop_strings: ClassVar[bool]

    def path(self, request: ServedRequest) -> str:
        """Where a request goes, below the base URL."""
        return "/v1/chat/completions" if request.is_chat else "/v1/completions"

    @abstractmethod
    def body(self, request: ServedRequest) -> dict[str, Any]:
        """The JSON of a streamed request, with every setting that could follow the server's."""

    @abstractmethod
    def counts(self, answer: RawAnswer) -> ServedCounts | None:
        """What an answer, or the event of a stream, says of the drafts; None if nothing."""

    @abstractmethod
    def finish_reason(self, answer: RawAnswer) -> FinishReason | None:
        """Why a text ended, where the answer says so."""

    def score_request(self, model: str, tokens: list[int], first: int) -> tuple[str, Any]:
        """Path and JSON that ask for the log-probabilities of tokens from place `first` on.

        Raises:
            NotImplementedError: Where `scores_prompts` is false.
        """
        raise NotImplementedError

    def scores(self, data: bytes, tokens: list[int], first: int) -> list[tuple[float, bool]]:
        """What the answer says of each of these tokens: nats, and whether it is the likeliest.

        Raises:
            BrokenAnswerError: If it does not say that of every one.
            NotImplementedError: Where `scores_prompts` is false.
        """
        raise NotImplementedError

    def simulated(self, info: Mapping[str, Any]) -> list[str]:
        """Settings by which acceptance is pretended, of those that a server's information shows."""
        return []

    def shows_simulation(self, info: Mapping[str, Any]) -> bool:
        """Whether a server's information would show such a setting."""
        return bool(self.simulated(info))

    def read(self, data: bytes | str) -> Piece:
        """Read the JSON of an event or of a whole answer.

        Raises:
            BrokenAnswerError: If it is not of the documented shape, or names an error.
        """
        answer = read_answer(data)
        choice = answer.choices[0] if answer.choices else Choice()
        usage = answer.usage
        return Piece(
            text=_text(choice) or answer.content or "",
            token_ids=self.token_ids(answer, choice),
            prompt_token_ids=choice.prompt_token_ids or answer.prompt_token_ids,
            finish_reason=self.finish_reason(answer),
            num_prompt_tokens=usage.prompt_tokens if usage else answer.tokens_evaluated,
            num_generated_tokens=self.num_generated_tokens(answer),
            counts=self.counts(answer),
            model=answer.model,
        )

    def num_generated_tokens(self, answer: RawAnswer) -> int | None:
        """Tokens of the text so far."""
        return answer.usage.completion_tokens if answer.usage else answer.tokens_predicted

    def token_ids(self, answer: RawAnswer, choice: Choice) -> list[int] | None:
        """The tokens that an answer adds, where it lists them."""
        return choice.token_ids


def read_answer(data: bytes | str) -> RawAnswer:
    """The known keys of an answer; a `BrokenAnswerError` if it has another shape or an error."""
    try:
        answer = msgspec.json.decode(data, type=RawAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = one_line(error)[:_LONGEST_QUOTE]
        raise BrokenAnswerError(f"the answer is not of the documented shape ({reason})") from None
    if answer.error is not None:
        raise BrokenAnswerError(f"the server answered: {quoted(answer.error)}")
    return answer


def nats(value: Any) -> float:
    """A log-probability; a `ValueError` for what can be none."""
    found = float(value)
    if not -_MOST_NATS < found < _ROUNDING:
        raise ValueError
    return found


def no_scores(reason: object) -> BrokenAnswerError:
    """The error of an answer that lacks a token's log-probability."""
    return BrokenAnswerError(
        f"the answer lacks the log-probability of a token ({type(reason).__name__})"
    )


def quoted(text: object) -> str:
    """A server's own words, short and harmless in a terminal."""
    if isinstance(text, dict):
        text = text.get("message", text)
    return one_line(text)[:_LONGEST_QUOTE]


def openai_body(request: ServedRequest) -> dict[str, Any]:
    """The settings that all servers take by OpenAI's names."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages" if request.is_chat else "prompt": request.prompt,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "seed": request.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.stop_strings:
        body["stop"] = list(request.stop_strings)
    return body


def _text(choice: Choice) -> str | None:
    chat = choice.message or choice.delta
    return choice.text if chat is None else chat.content
