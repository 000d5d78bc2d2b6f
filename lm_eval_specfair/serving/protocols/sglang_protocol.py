"""SGLang's OpenAI server (counts since 0.5.19, read in 0.5.23; native answers have them too)."""

from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.serving.protocols.answer_shapes import Choice, RawAnswer, SglangMeta
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


class SglangProtocol(Protocol):
    """Counts come in `sglext`, on request, in an event of their own.

    Proposals are not counted but computed from the number of verifications and a setting, which is
    wrong where draft lengths adapt.
    """

    name = "sglang"
    owner = "sglang"
    info_paths = ("/server_info", "/get_server_info", "/model_info", "/get_model_info")
    counts_switch = "a drafter (--speculative-algorithm ...) in SGLang 0.5.19 or newer"
    scores_prompts = True
    counts_at_stop_strings = True

    def body(self, request: ServedRequest) -> dict[str, Any]:
        """See `Protocol`."""
        return {
            **openai_body(request),
            "top_k": request.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(request.stop_token_ids),
            "return_spec_tokens_details": True,
            "return_token_ids": True,
        }

    def counts(self, answer: RawAnswer) -> ServedCounts | None:
        """See `Protocol`."""
        found = answer.sglext.spec_tokens_details if answer.sglext else answer.meta_info
        if isinstance(found, list):  # one for each of n texts
            found = found[0] if len(found) == 1 else None
        if found is None or found.spec_verify_ct is None:
            return None
        steps, proposed = found.spec_verify_ct, found.spec_num_proposed_drafts
        return ServedCounts(
            convention=self.name,
            num_spec_steps=steps,
            num_draft_tokens=proposed,
            num_accepted_draft_tokens=found.spec_num_correct_drafts,
            acceptance_histogram=found.spec_correct_drafts_histogram or None,
            num_spec_tokens=proposed // steps if steps and proposed is not None else None,
            drafts_are_computed=True,
        )

    def finish_reason(self, answer: RawAnswer) -> FinishReason | None:
        """See `Protocol`; a token's id in `matched_stop` is EOS, a text is a stop string."""
        for choice in answer.choices:
            if choice.finish_reason == "length":
                return "length"
            if choice.finish_reason is not None:
                return "stop" if isinstance(choice.matched_stop, str) else "eos"
        return None

    def token_ids(self, answer: RawAnswer, choice: Choice) -> list[int] | None:
        """See `Protocol`."""
        return choice.token_ids or choice.response_token_ids

    def score_request(self, model: str, tokens: list[int], first: int) -> tuple[str, Any]:
        """See `Protocol`; the native endpoint, since OpenAI's would give texts for ids."""
        return "/generate", {
            "input_ids": tokens,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            # The token at this place has none: it gives those after it.
            "logprob_start_len": first - 1,
            "top_logprobs_num": 1,
        }

    def scores(self, data: bytes, tokens: list[int], first: int) -> list[tuple[float, bool]]:
        """See `Protocol`; the lists end at the prompt's last token."""
        try:
            meta = read_answer(data).meta_info or SglangMeta()
            number = len(tokens) - first
            given = (meta.input_token_logprobs or [])[-number:]
            best = [top or [[None, None]] for top in (meta.input_top_logprobs or [])[-number:]]
            if [each[1] for each in given] != tokens[first:]:
                raise LookupError
            return [
                (nats(own[0]), top[0][1] == own[1]) for own, top in zip(given, best, strict=True)
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise error if isinstance(error, BrokenAnswerError) else no_scores(error) from None

    def simulated(self, info: Mapping[str, Any]) -> list[str]:
        """See `Protocol`; its switch is an environment variable, which not every server shows."""
        names = ("SGLANG_SIMULATE_ACC_LEN", "simulate_acc_len", "speculative_simulate_acc_len")
        off = (None, -1, -1.0, "-1", "", "None")
        places = [info, *(v for v in info.values() if isinstance(v, Mapping))]
        return [f"{n}={p[n]}" for p in places for n in names if n in p and p[n] not in off]
