"""AIPerf's `profile_export.jsonl`: a line a request, with counts of its drafts (since 0.13).

Prompts are in `inputs.json` beside it. Fields were read in the source of 0.13.0 and in a file that
it wrote; later versions name a request's category in its metadata (`source_kind`).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.logs.logged_request import LoggedRequest
from lm_eval_specfair.serving.served_counts import ServedCounts

INPUTS_FILE, PROFILE_FILE = "inputs.json", "profile_export.jsonl"

Number = Annotated[int, Meta(ge=0, le=2**53)]
Drafted = Annotated[int, Meta(ge=0, le=MAX_SPECULATIVE_TOKENS)]


class _Metadata(Struct):
    benchmark_phase: str
    session_num: Number
    conversation_id: str | None = None
    turn_index: Number | None = None
    was_cancelled: bool = False


class _Value(Struct):
    value: Any
    unit: str = ""


class _Acceptance(Struct):
    engine: str
    acceptance_histogram: dict[Drafted, Number]
    num_accepted_draft_tokens: Number
    num_draft_tokens: Number
    num_spec_steps: Number
    num_spec_tokens: Drafted | None = None
    completion_tokens: Number | None = None
    per_step_accepted: list[Number] | None = None
    per_step_drafted: list[Number] | None = None


class _Error(Struct):
    message: str
    code: int | None = None


class _Line(Struct):
    metadata: _Metadata
    metrics: dict[str, _Value]
    spec_decode_acceptance: _Acceptance | None = None
    error: _Error | None = None


class _Session(Struct):
    session_id: str
    payloads: list[dict[str, Any]]


class _Inputs(Struct):
    data: list[_Session]


def is_aiperf(line: Mapping[str, Any]) -> bool:
    """Whether a line is of this log."""
    metadata = line.get("metadata")
    return isinstance(metadata, dict) and "benchmark_phase" in metadata and "metrics" in line


def read_aiperf(
    path: Path, lines: Iterable[tuple[int, Mapping[str, Any]]]
) -> Iterator[LoggedRequest]:
    """The measured requests of a log, without those of the warm-up.

    Args:
        path: The file, beside which `inputs.json` is looked for.
        lines: Its lines with their numbers.

    Raises:
        ConfigError: If a line is not of the documented shape.
    """
    payloads = _payloads(path.with_name(INPUTS_FILE))
    for number, data in lines:
        where = f"{path}:{number}"
        try:
            line = msgspec.convert(data, _Line, str_keys=True)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{where} is not a line of AIPerf's profile_export.jsonl: {one_line(error)[:200]}"
            ) from None
        if line.metadata.benchmark_phase == "profiling":
            yield _request(line, data, where, payloads)


def _request(
    line: _Line,
    data: Mapping[str, Any],
    where: str,
    payloads: Mapping[tuple[str, int], Mapping[str, Any]],
) -> LoggedRequest:
    metadata, found = line.metadata, line.spec_decode_acceptance
    turn = metadata.turn_index or 0
    session = metadata.conversation_id or str(metadata.session_num)
    payload = payloads.get((session, turn), {})
    limit = payload.get("max_completion_tokens", payload.get("max_tokens"))
    limit = limit if isinstance(limit, int) and limit > 0 else None
    generated = found.completion_tokens if found else None
    if generated is None:
        generated = _count(line, "usage_completion_tokens", "output_sequence_length")
    failure = None
    if line.error is not None:
        code = "" if line.error.code is None else f"{line.error.code}: "
        failure = f"{code}{one_line(line.error.message)[:200]}"
    elif metadata.was_cancelled:
        failure = "cancelled by the client"
    temperature = payload.get("temperature")
    return LoggedRequest(
        where=where,
        number=metadata.session_num,
        names=(f"{session}/{turn}", session) if metadata.conversation_id else (),
        line=data,
        prompt=payload.get("prompt", payload.get("messages")),
        max_new_tokens=limit,
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        num_prompt_tokens=_count(line, "usage_prompt_tokens", "input_sequence_length"),
        num_generated_tokens=generated,
        finish_reason="length" if limit is not None and generated == limit else None,
        counts=_counts(found) if found is not None else None,
        failure=failure,
        seconds=_seconds(line),
    )


def _counts(found: _Acceptance) -> ServedCounts:
    buckets = max([found.num_spec_tokens or 0, *found.acceptance_histogram]) + 1
    histogram = [found.acceptance_histogram.get(number, 0) for number in range(buckets)]
    listed = found.per_step_accepted is not None and found.per_step_drafted is not None
    is_vllm = found.engine == "vllm"
    return ServedCounts(
        convention=found.engine,
        num_spec_steps=found.num_spec_steps,
        num_draft_tokens=found.num_draft_tokens,
        num_accepted_draft_tokens=found.num_accepted_draft_tokens,
        acceptance_histogram=histogram,
        accepted_per_step=found.per_step_accepted if listed or found.num_spec_steps else [],
        drafted_per_step=found.per_step_drafted if listed or found.num_spec_steps else [],
        num_spec_tokens=found.num_spec_tokens,
        drafts_are_computed=not is_vllm,
    )


def _count(line: _Line, *names: str) -> int | None:
    for name in names:
        value = line.metrics[name].value if name in line.metrics else None
        if isinstance(value, int | float) and value >= 0 and value == int(value):
            return int(value)
    return None


def _seconds(line: _Line) -> dict[str, float]:
    """Times to the first token and from it to the last; empty where the answer was not streamed."""
    first = _milliseconds(line, "time_to_first_token")
    whole = _milliseconds(line, "request_latency")
    if first is None or whole is None or not 0 <= first <= whole < 1e12:
        return {}
    return {
        "first_token_seconds": first / 1_000,
        "prefill_seconds": first / 1_000,
        "decode_seconds": (whole - first) / 1_000,
    }


def _milliseconds(line: _Line, name: str) -> float | None:
    metric = line.metrics.get(name)
    if metric is None or metric.unit != "ms" or not isinstance(metric.value, int | float):
        return None
    return float(metric.value)


def _payloads(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What was sent, by session and turn; empty where it was not kept."""
    try:
        inputs = msgspec.json.decode(path.read_bytes(), type=_Inputs)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)[:200]}") from None
    return {
        (session.session_id, turn): payload
        for session in inputs.data
        for turn, payload in enumerate(session.payloads)
    }
