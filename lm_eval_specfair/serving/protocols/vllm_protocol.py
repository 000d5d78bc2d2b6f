"""vLLM's OpenAI server (counts since 0.29.0, read in 0.32.0)."""

import re
from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.protocols.answer_shapes import RawAnswer
from lm_eval_specfair.serving.protocols.protocol import (
    BrokenAnswerError,
    Protocol,
    ServedRequest,
    nats,
    no_scores,
    openai_body,
    read_answer,
)
from lm_eval_specfair.serving.served_counts import ServedCounts

# Its configuration is shown as Python prints it, or as JSON.
_SYNTHETIC = re.compile(r"\b(synthetic_acceptance_\w+)\W*[=:]\W*(?!None|null)([\w.]+)")


class VllmProtocol(Protocol):
    """Counts come in the usage event; token ids with `return_token_ids`.

    A text that ends at a stop *string* has no counts, since vLLM looks for these outside its core;
    `stop_token_ids` keep them.
    """

    name = "vllm"
    owner = "vllm"
    info_paths = ("/version", "/server_info")
    counts_switch = "--per-request-spec-decode-metrics detailed"
    scores_prompts = True
    counts_at_stop_strings = False

    def body(self, request: ServedRequest) -> dict[str, Any]:
        """See `Protocol`; all that a model's own generation settings could change is named."""
        return {
            **openai_body(request),
            "top_k": request.top_k or 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(request.stop_token_ids),
            "return_token_ids": True,
            # Else the token that ended the text would be missing from it, whatever it holds.
            "include_stop_str_in_output": bool(request.stop_token_ids),
        }

    def counts(self, answer: RawAnswer) -> ServedCounts | None:
        """See `Protocol`."""
        found = answer.metrics and answer.metrics.speculative_decoding
        if not found:
            return None
        is_listed = found.per_step_accepted is not None and found.per_step_drafted is not None
        return ServedCounts(
            convention=self.name,
            num_spec_steps=found.num_spec_steps,
            num_draft_tokens=found.num_draft_tokens,
            num_accepted_draft_tokens=found.num_accepted_draft_tokens,
            acceptance_histogram=found.acceptance_histogram,
            # Left out as well where `detailed` had no step to list.
            accepted_per_step=found.per_step_accepted if is_listed or found.num_spec_steps else [],
            drafted_per_step=found.per_step_drafted if is_listed or found.num_spec_steps else [],
            num_spec_tokens=found.num_spec_tokens,
        )

    def finish_reason(self, answer: RawAnswer) -> FinishReason | None:
        """See `Protocol`; `stop_reason` is empty where the model's own EOS ended the text."""
        for choice in answer.choices:
            if choice.finish_reason == "length":
                return "length"
            if choice.finish_reason is not None:
                return "eos" if choice.stop_reason is None else "stop"
        return None

    def score_request(self, model: str, tokens: list[int], first: int) -> tuple[str, Any]:
        """See `Protocol`; `first` is at least 1, as nothing precedes the first token."""
        body = {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 0.0}
        return "/v1/completions", body | {"prompt_logprobs": 1}

    def scores(self, data: bytes, tokens: list[int], first: int) -> list[tuple[float, bool]]:
        """See `Protocol`; by token id, with ranks from 1."""
        try:
            given = read_answer(data).choices[0].prompt_logprobs or []
            found = [(given[n] or {})[str(tokens[n])] for n in range(first, len(tokens))]
            return [(nats(each["logprob"]), each.get("rank") == 1) for each in found]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise error if isinstance(error, BrokenAnswerError) else no_scores(error) from None

    def shows_simulation(self, info: Mapping[str, Any]) -> bool:
        """See `Protocol`; in development mode it shows its whole configuration."""
        return "vllm_config" in info

    def simulated(self, info: Mapping[str, Any]) -> list[str]:
        """See `Protocol`; shown by a server in development mode only (`/server_info`)."""
        return [f"{name}={value}" for name, value in _SYNTHETIC.findall(str(info))]
