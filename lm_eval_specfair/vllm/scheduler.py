"""vLLM's schedulers, extended to count every step of every request.

vLLM hands out a request's counts when its core ends it (EOS, length). Stop strings are found
outside the core, so such a request has none; a step for which nothing was drafted is not counted;
and a request that joins others with one token left to compute (a prompt of one, or one whose other
tokens are cached) has its pass padded to the width of theirs, which is counted as drafts, all of
them rejected. A scheduler class (`scheduler_cls`) is vLLM's place to fix all three. Imported by
vLLM's core only, by name.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler


class _EveryStep:
    """Mixin: each output step has an entry in the request's per-step counts."""

    requests: dict[str, Any]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        counts = {
            name: request.spec_decode_metrics
            for name in scheduler_output.num_scheduled_tokens
            if (request := self.requests.get(name)) is not None
        }
        before = {name: len(kept.per_step_drafted) for name, kept in counts.items() if kept}
        watched = {
            name
            for name in counts
            if (parameters := self.requests[name].sampling_params) is not None and parameters.stop
        }
        resumed = getattr(scheduler_output.scheduled_cached_reqs, "resumed_req_ids", ())
        # Their passes read a prompt, or a text again: there is nothing yet to draft from.
        reading = {
            name for name in counts if not self.requests[name].num_output_tokens or name in resumed
        }
        result = super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output
        )
        for batch in result.values():
            for output in batch.outputs:
                metrics = counts.get(output.request_id)
                if metrics is None:
                    continue
                if output.new_token_ids:
                    if len(metrics.per_step_drafted) == before[output.request_id]:
                        metrics.per_step_drafted.append(0)
                        metrics.per_step_accepted.append(0)
                    elif output.request_id in reading:
                        metrics.per_step_drafted[-1] = 0
                if output.request_id in watched:
                    output.spec_decode_metrics = metrics
        return result


class CountingScheduler(_EveryStep, Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, with complete counts."""


class AsyncCountingScheduler(_EveryStep, AsyncScheduler):  # type: ignore[misc]
    """vLLM's asynchronous scheduler, with complete counts."""
