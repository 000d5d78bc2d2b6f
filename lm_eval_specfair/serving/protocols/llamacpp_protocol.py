"""llama.cpp's llama-server (read in 11434)."""

from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.protocols.answer_shapes import Choice, RawAnswer
from lm_eval_specfair.serving.protocols.protocol import Protocol, ServedRequest, openai_body
from lm_eval_specfair.serving.served_counts import ServedCounts


class LlamaCppProtocol(Protocol):
    """Counts come with every event (`timings_per_token`), so the steps can be told from them.

    Texts are asked for at its own endpoint, which gives token ids; an event has one token, and a
    token that ends inside a character has none.
    """

    name = "llamacpp"
    owner = "llamacpp"
    info_paths = ("/props",)
    counts_switch = "--spec-type draft-simple (or another kind) beside -md DRAFTER.gguf"
    scores_prompts = False
    counts_at_stop_strings = True

    def path(self, request: ServedRequest) -> str:
        """See `Protocol`."""
        return "/v1/chat/completions" if request.is_chat else "/completion"

    def body(self, request: ServedRequest) -> dict[str, Any]:
        """See `Protocol`; its own sampling would cut tokens off by several rules."""
        return {
            **openai_body(request),
            "top_k": request.top_k or 0,
            "min_p": 0.0,
            "typical_p": 1.0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "dry_multiplier": 0.0,
            "xtc_probability": 0.0,
            "timings_per_token": True,
            "return_tokens": True,
        }

    def counts(self, answer: RawAnswer) -> ServedCounts | None:
        """See `Protocol`; `draft_rounds` is said by servers that took the shape over."""
        timings = answer.timings
        if timings is None:
            return None
        return ServedCounts(
            convention=self.name,
            num_spec_steps=timings.draft_rounds,
            num_draft_tokens=timings.draft_n,
            num_accepted_draft_tokens=timings.draft_n_accepted,
        )

    def finish_reason(self, answer: RawAnswer) -> FinishReason | None:
        """See `Protocol`; its chat does not tell EOS from a stop string."""
        if answer.stop:
            return {"limit": "length", "word": "stop"}.get(answer.stop_type or "", "eos")  # type: ignore[return-value]
        for choice in answer.choices:
            if choice.finish_reason is not None:
                return "length" if choice.finish_reason == "length" else "eos"
        return None

    def num_generated_tokens(self, answer: RawAnswer) -> int | None:
        """See `Protocol`."""
        predicted = answer.timings.predicted_n if answer.timings else None
        return super().num_generated_tokens(answer) if predicted is None else predicted

    def token_ids(self, answer: RawAnswer, choice: Choice) -> list[int] | None:
        """See `Protocol`."""
        return choice.token_ids or answer.tokens or None

    def simulated(self, info: Mapping[str, Any]) -> list[str]:
        """See `Protocol`; `--spec-synth-len` and `--spec-synth-rates`, where they are shown."""
        settings = info.get("default_generation_settings")
        params = settings.get("params", {}) if isinstance(settings, Mapping) else {}
        places = [place for place in (info, params) if isinstance(place, Mapping)]
        return [f"{n}={p[n]}" for p in places for n in p if "synth" in n and p[n]]
