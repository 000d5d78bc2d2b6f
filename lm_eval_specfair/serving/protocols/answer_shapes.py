"""The shapes of servers' answers: every key that is read, its type checked as it is read.

One shape for all servers, since they extend the same one (OpenAI's); keys of others are passed
over. Whole answers and the events of a stream have the same keys, but for `message` and `delta`.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

Number = Annotated[int, Meta(ge=0, le=2**53)]


class ChatText(Struct):
    """The text of a chat answer, whole (`message`) or a part (`delta`)."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(Struct):
    """One text of an answer."""

    text: str | None = None
    message: ChatText | None = None
    delta: ChatText | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None  # vLLM
    matched_stop: int | str | list[int] | None = None  # SGLang
    token_ids: list[Number] | None = None
    response_token_ids: list[Number] | None = None  # SGLang's chat
    prompt_token_ids: list[Number] | None = None
    logprobs: dict[str, Any] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None  # vLLM


class Usage(Struct):
    """OpenAI's counts of tokens."""

    prompt_tokens: Number | None = None
    completion_tokens: Number | None = None


class VllmSpeculation(Struct):
    """vLLM's counts of one request (`SpeculativeDecodingMetrics`)."""

    acceptance_histogram: list[Number]
    num_spec_steps: Number
    num_accepted_draft_tokens: Number
    num_draft_tokens: Number
    num_spec_tokens: Number | None = None
    per_step_accepted: list[Number] | None = None
    per_step_drafted: list[Number] | None = None


class VllmMetrics(Struct):
    """What vLLM measures for each request."""

    speculative_decoding: VllmSpeculation | None = None


class SglangSpeculation(Struct):
    """SGLang's counts of one request, in `sglext.spec_tokens_details` and `meta_info`."""

    spec_verify_ct: Number | None = None
    spec_num_correct_drafts: Number | None = None
    spec_num_proposed_drafts: Number | None = None
    spec_correct_drafts_histogram: list[Number] | None = None


class SglangMeta(SglangSpeculation):
    """What SGLang's native endpoint says beside a text."""

    input_token_logprobs: list[list[Any]] | None = None  # log-probability, id, text
    input_top_logprobs: list[list[list[Any]] | None] | None = None


class SglangExtension(Struct):
    """SGLang's addition to OpenAI's answer."""

    spec_tokens_details: SglangSpeculation | list[SglangSpeculation] | None = None


class LlamaCppTimings(Struct):
    """llama.cpp's counts; `draft_n` is absent where nothing was drafted."""

    predicted_n: Number | None = None
    prompt_n: Number | None = None
    draft_n: Number = 0
    draft_n_accepted: Number = 0
    draft_rounds: Number | None = None  # mlx-vlm, which took this shape over


class RawAnswer(Struct):
    """An answer, or an event of a stream, of any of the servers."""

    choices: list[Choice] = []
    usage: Usage | None = None
    model: str | None = None
    error: Any = None
    prompt_token_ids: list[Number] | None = None  # vLLM's chat
    metrics: VllmMetrics | None = None
    sglext: SglangExtension | None = None
    meta_info: SglangMeta | None = None
    timings: LlamaCppTimings | None = None
    # llama.cpp's own endpoint
    content: str | None = None
    tokens: list[Number] | None = None
    stop: bool | None = None
    stop_type: str | None = None
    tokens_predicted: Number | None = None
    tokens_evaluated: Number | None = None
