"""Answers of servers that somebody saved, a JSON object a line: whole ones, not streams.

A line is the answer itself (vLLM's and llama.cpp's OpenAI shapes, SGLang's, and its own
`/generate`), or an object that holds it at `response`, beside what was asked (`request`) and fields
that name its groups. The output of vLLM's and OpenAI's batches is such a line (`response.body`,
`custom_id`).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.logs.logged_request import LoggedRequest, Prompt
from lm_eval_specfair.serving.protocols import PROTOCOLS, BrokenAnswerError, Protocol

_KEYS = {"sglext": "sglang", "meta_info": "sglang", "timings": "llamacpp", "metrics": "vllm"}
"""What tells servers' answers apart; vLLM's `metrics` is there, if null, in every answer."""

_NAMES = ("custom_id", "request_id", "session_id", "conversation_id", "doc_id")
"""Ids that whoever sent a request chose; an answer's own `id` is the server's."""


def read_responses(
    path: Path, lines: Iterable[tuple[int, Mapping[str, Any]]], api: str | None = None
) -> Iterator[LoggedRequest]:
    """The requests of a file.

    Args:
        path: For messages.
        lines: Its lines with their numbers.
        api: Key of `PROTOCOLS` where the answers do not tell.

    Raises:
        ConfigError: If a line holds no answer, or one of another shape.
    """
    for index, (number, line) in enumerate(lines):
        where = f"{path}:{number}"
        yield _request(line, where, index, api)


def _request(line: Mapping[str, Any], where: str, number: int, api: str | None) -> LoggedRequest:
    answer, failure = _answer(line, where)
    asked = _asked(line)
    known: dict[str, Any] = {
        "where": where,
        "number": number,
        "names": tuple(str(line[name]) for name in _NAMES if _is_name(line.get(name))),
        "line": line,
        "prompt": _prompt(asked),
        "max_new_tokens": _limit(asked),
        "temperature": _temperature(asked),
    }
    if failure is not None:
        return LoggedRequest(**known, failure=failure)
    protocol = _protocol(answer, api)
    try:
        piece = protocol.read(msgspec.json.encode(_openai_shape(answer)))
    except BrokenAnswerError as error:
        if "error" in answer:
            return LoggedRequest(**known, failure=one_line(error)[:200])
        raise ConfigError(f"{where}: {error}") from None
    if len(answer.get("choices") or ()) > 1:
        raise ConfigError(
            f"{where}: expected one text an answer, got {len(answer['choices'])}: servers count "
            "drafts for all of them together; ask with one prompt and n = 1"
        )
    ids = piece.token_ids
    generated = piece.num_generated_tokens
    return LoggedRequest(
        **known,
        num_prompt_tokens=piece.num_prompt_tokens,
        num_generated_tokens=len(ids) if generated is None and ids is not None else generated,
        text=piece.text,
        token_ids=ids if ids is not None and generated in (None, len(ids)) else None,
        finish_reason=piece.finish_reason,
        counts=piece.counts,
    )


def _answer(line: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], str | None]:
    """The answer in a line, or why there is none."""
    held = line.get("response", line)
    if isinstance(held, dict) and isinstance(held.get("body"), dict):  # of a batch
        held = held["body"]
    error = line.get("error")
    if error or (held is None and "response" in line):
        message = error.get("message", error) if isinstance(error, dict) else error
        return {}, one_line(message or "no answer")[:200]
    is_answer = isinstance(held, dict) and any(
        key in held for key in ("choices", "meta_info", "timings", "error")
    )
    if not is_answer:
        raise ConfigError(
            f"{where}: expected a server's answer (`choices`, or SGLang's `meta_info`), or one at "
            f"`response`, got the keys {one_line(', '.join(map(str, list(line)[:6])))[:200]}"
        )
    return held, None


def _protocol(answer: Mapping[str, Any], api: str | None) -> Protocol:
    found = next((name for key, name in _KEYS.items() if key in answer), None)
    return PROTOCOLS[api or found or "vllm"]


def _openai_shape(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """SGLang's own shape (`/generate`) in OpenAI's words; any other as it is."""
    info = answer.get("meta_info")
    if "choices" in answer or not isinstance(info, dict):
        return answer
    reason = info.get("finish_reason")
    reason = reason if isinstance(reason, dict) else {}
    choice = {
        "text": answer.get("text"),
        "token_ids": answer.get("output_ids"),
        "finish_reason": reason.get("type"),
        "matched_stop": reason.get("matched"),
    }
    usage = {name: info.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {"choices": [choice], "usage": usage, "meta_info": info}


def _asked(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was sent, where a line holds it: at `request`, in its `body`, or beside the answer."""
    held = line.get("request", line)
    held = held if isinstance(held, dict) else {}
    body = held.get("body", held)
    return body if isinstance(body, dict) else {}


def _prompt(asked: Mapping[str, Any]) -> Prompt | None:
    for name in ("prompt", "messages", "text", "input_ids"):
        value = asked.get(name)
        # Beside SGLang's own answer `text` is what came back.
        if isinstance(value, str | list) and not (name == "text" and "meta_info" in asked):
            return value
    return None


def _limit(asked: Mapping[str, Any]) -> int | None:
    sampling = asked.get("sampling_params")
    for holder in (asked, sampling if isinstance(sampling, dict) else {}):
        for name in ("max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict"):
            value = holder.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _temperature(asked: Mapping[str, Any]) -> float | None:
    sampling = asked.get("sampling_params")
    for holder in (asked, sampling if isinstance(sampling, dict) else {}):
        value = holder.get("temperature")
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6:
            return float(value)
    return None


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""
