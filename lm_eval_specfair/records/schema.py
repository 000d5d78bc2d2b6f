"""The schema of a record. Counts are stored, ratios derived; None means not measured, never 0."""

import json
import typing
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

SCHEMA_VERSION = 1
LARGEST_COUNT = 2**63 - 1

RequestType = Literal["generate_until", "loglikelihood", "loglikelihood_rolling"]
FinishReason = Literal["stop", "eos", "length"]
Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
"""All whole numbers of a record are counts or ids."""
_MOST = 1e15
"""Above whatever a request can add up to, and low enough that sums of millions stay finite."""
Seconds = Annotated[float, Meta(ge=0.0, le=_MOST)]
Probabilities = Annotated[float, Meta(ge=0.0, le=_MOST)]
"""A sum of probabilities."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Nats = Annotated[float, Meta(ge=-_MOST, le=_MOST)]
"""A sum that rounding may leave a little below 0; `invariants` says by how much."""
Cost = Annotated[float, Meta(ge=-1.0, le=_MOST)]
"""A sum of `-log p`, at least 0 up to rounding."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The decoding settings that a request was really run with; a temperature of 0 is greedy.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most.
        temperature: 0 is greedy.
        top_k: Number of tokens kept, or None.
        top_p: Probability mass kept, or None.
        verification: How sampled drafts were judged: one token after the other, or as a block of
            which the longest accepted prefix is kept. Older records were judged by tokens.
        drafter: The request's drafter by name, in runs whose groups have several; `none` for none.
        drafter_temperature: The drafter's own, where drafts of a sampled text were not drawn (and
            judged) at the text's temperature; 0: its most likely tokens.
    """

    num_speculative_tokens: Count
    temperature: Annotated[float, Meta(ge=0.0, le=_MOST)]
    top_k: Count | None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None
    verification: Literal["token", "block"] = "token"
    drafter: str | None = None
    drafter_temperature: Annotated[float, Meta(ge=0.0, le=_MOST)] | None = None


# Structs rather than dataclasses: they are checked while a line is read, in one go. They hold
# nothing that could hold them, so the garbage collector need not look at a million of them.
class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One request: who it was, what was counted, how long it took.

    Counts stop where the request stopped: a drafted token after EOS or a stop string was not
    examined. Sums run over examined positions and are in nats.

    Attributes:
        request_id: Unique in a run and equal in every run of the same request: task, document,
            number of the request within the document, repeat, and a digest of its arguments.
        task: lm-eval's task name.
        doc_id: lm-eval's document number.
        request_type: `generate_until`, `loglikelihood` or `loglikelihood_rolling`.
        group_fields: Fields of the document that may name a group (language, domain, ...); a list
            names several.
        num_prompt_tokens: Tokens of the context, after truncation.
        num_generated_tokens: Tokens emitted, with the one that ended the text.
        num_generated_bytes: UTF-8 bytes of the text as lm-eval gets it (stops cut off); U+FFFD,
            which stands for bytes of no character where a text is cut inside one, counts one.
        num_generated_chars: Its characters (code points).
        num_4grams: Runs of four tokens in the emitted ones.
        num_repeated_4grams: Those among them that were there before in the same text.
        num_letters: Letters of the text, where the script of the request's language is known.
        num_other_script_letters: Those among them that are of another script.
        num_covered_tokens: Emitted tokens that the drafter's vocabulary has; measured where its
            tokenizer is not the target's.
        num_accepted_bytes: UTF-8 bytes of the kept drafts' tokens; measured where drafters with
            other tokenizers than the texts' were replayed.
        num_spec_steps: Target passes (one draft-and-verify round each), the prompt's apart.
        num_draft_tokens: Tokens proposed by the drafter.
        num_accepted_draft_tokens: Those kept.
        num_examined_draft_tokens: Accepted ones and, for each step that met one, the rejected one.
        acceptance_histogram: Steps by number accepted, length num_speculative_tokens + 1.
        drafted_per_step: Tokens proposed in each step.
        accepted_per_step: Tokens kept in each step.
        rejected_token_ids: For each step that met one, the drafted token that was rejected. None
            where it is not known which tokens they were (servers, vLLM, older records).
        discarded_token_ids: For each step, its drafted tokens that were not kept, in order: the
            rejected one, then those behind it; where the text ended among its drafts (EOS, a stop
            string, the length limit), those behind the end, none of which was examined. A replay
            of a model knows of each step the rejected one alone.
        overlap_per_position: `sum_x min(p, q)` at each of `num_distribution_positions`, in the
            order of a generated text, to three digits.
        overlap_sum: Sum of `sum_x min(p, q)`.
        kl_sum: Sum of `KL(p || q)` over positions where it is finite.
        cross_entropy_sum: Sum of `-sum_x p log q` over positions where it is finite.
        target_entropy_sum: Sum of `H(p)`.
        num_distribution_positions: Positions that the sums run over.
        num_infinite_positions: Those among them where q lacks a token of p (through top-k or top-p,
            or a drafter without distributions), so that KL and cross-entropy are infinite; they
            are missing from these two sums.
        untruncated_kl_sum: `kl_sum` of the distributions at the temperature, before top-k and
            top-p, over all these positions; only where these cut tokens off.
        untruncated_cross_entropy_sum: The same of `cross_entropy_sum`.
        draft_seconds: Drafter passes and draws, this row's share of the batch's time.
        verify_seconds: Target passes, this row's share.
        decode_seconds: Everything between the prompt's pass and the last token, this row's share.
        prefill_seconds: The prompt's passes, this row's share.
        first_token_seconds: Of a served text: from sending the request to its first token, with
            the time that it waited in a queue.
        baseline_seconds: The same request decoded without a drafter, decode time only.
        baseline_generated_tokens: Its tokens; each took one target pass.
        baseline_agrees: Greedy only: whether its tokens equal the speculative ones.
        baseline_differs_at: Where they don't: the first place in the text that differs, from 0.
        baseline_is_tie: Whether the two tokens there are as likely as each other, up to rounding,
            by the target's own pass without a cache.
        baseline_margin: How far the less likely of the two is below the best there, nats.
        plain_pass_tokens: Tokens of a greedy text held against the target's own pass without a
            cache; a few requests of a run are (`lossless_checks`).
        plain_pass_ties: Those that are not its most likely, but by no more than rounding.
        plain_pass_differing: Those that are further off: the text is not the target's.
        plain_pass_differs_at: The first place of these in the text, from 0.
        expected_spec_steps: Of a sampled text that was replayed, the mean of `num_spec_steps` over
            what could have been kept; a replayed record's own counts are one draw of it.
        expected_draft_tokens: The mean of `num_draft_tokens`.
        expected_accepted_draft_tokens: The mean of `num_accepted_draft_tokens`.
        num_uncertain_tokens: Of a replayed text, tokens from the first step on whose ids may not be
            those that the model emitted, with those that the text may hide at its end; only in
            replays that hold such texts, 0 where all are certain.
        certain_spec_steps: Steps before them.
        certain_accepted_draft_tokens: Tokens kept in these steps.
        certain_examined_draft_tokens: Tokens examined in these steps.
        num_active_rows_sum: Rows in the batch, summed over steps (mean = over num_spec_steps).
        target_nll_sum: `-log p` of the scored text (loglikelihood requests), nats.
        drafter_nll_sum: `-log q` of the scored text, nats.
        num_scored_tokens: Tokens of the scored text.
        num_scored_bytes: Its UTF-8 bytes.
        target_reference_probability_sum: Sum of `p(token)` over the scored text's tokens.
        drafter_reference_probability_sum: Sum of `q(token)` over them.
        num_agreeing_positions: Tokens of the scored text before which the two models' most likely
            token is one and the same.
        is_greedy: lm-eval's second answer to a loglikelihood request.
        is_right_choice: Whether the scored text is a right answer, of a multiple-choice task; None
            for other tasks and in older records.
        finish_reason: `stop` (a stop string), `eos` or `length`; None where the request failed.
        failure: Why it could not be decoded to its end; such a record is left out of all metrics.
        generated_token_ids: The emitted tokens.
        generated_text: The text as lm-eval gets it.
        settings: What was really used for decoding.
    """

    request_id: str
    task: str
    doc_id: Count
    request_type: RequestType
    group_fields: dict[str, str | list[str]]
    num_prompt_tokens: Count
    num_generated_tokens: Count | None = None
    num_generated_bytes: Count | None = None
    num_generated_chars: Count | None = None
    num_4grams: Count | None = None
    num_repeated_4grams: Count | None = None
    num_letters: Count | None = None
    num_other_script_letters: Count | None = None
    num_covered_tokens: Count | None = None
    num_accepted_bytes: Count | None = None
    num_spec_steps: Count | None = None
    num_draft_tokens: Count | None = None
    num_accepted_draft_tokens: Count | None = None
    num_examined_draft_tokens: Count | None = None
    acceptance_histogram: list[Count] | None = None
    drafted_per_step: list[Count] | None = None
    accepted_per_step: list[Count] | None = None
    rejected_token_ids: list[Count] | None = None
    discarded_token_ids: list[list[Count]] | None = None
    overlap_per_position: list[Share] | None = None
    overlap_sum: Probabilities | None = None
    kl_sum: Nats | None = None
    cross_entropy_sum: Cost | None = None
    target_entropy_sum: Cost | None = None
    num_distribution_positions: Count | None = None
    num_infinite_positions: Count | None = None
    untruncated_kl_sum: Nats | None = None
    untruncated_cross_entropy_sum: Cost | None = None
    draft_seconds: Seconds | None = None
    verify_seconds: Seconds | None = None
    decode_seconds: Seconds | None = None
    prefill_seconds: Seconds | None = None
    first_token_seconds: Seconds | None = None
    baseline_seconds: Seconds | None = None
    baseline_generated_tokens: Count | None = None
    baseline_agrees: bool | None = None
    baseline_differs_at: Count | None = None
    baseline_is_tie: bool | None = None
    baseline_margin: Cost | None = None
    plain_pass_tokens: Count | None = None
    plain_pass_ties: Count | None = None
    plain_pass_differing: Count | None = None
    plain_pass_differs_at: Count | None = None
    num_active_rows_sum: Count | None = None
    expected_spec_steps: Probabilities | None = None
    expected_draft_tokens: Probabilities | None = None
    expected_accepted_draft_tokens: Probabilities | None = None
    num_uncertain_tokens: Count | None = None
    certain_spec_steps: Count | None = None
    certain_accepted_draft_tokens: Count | None = None
    certain_examined_draft_tokens: Count | None = None
    target_nll_sum: Cost | None = None
    drafter_nll_sum: Cost | None = None
    num_scored_tokens: Count | None = None
    num_scored_bytes: Count | None = None
    target_reference_probability_sum: Probabilities | None = None
    drafter_reference_probability_sum: Probabilities | None = None
    num_agreeing_positions: Count | None = None
    is_greedy: bool | None = None
    is_right_choice: bool | None = None
    finish_reason: FinishReason | None = None
    failure: str | None = None
    generated_token_ids: list[Count] | None = None
    generated_text: str | None = None
    settings: Settings | None = None

    def to_json(self) -> str:
        """One line of `records.jsonl`, without its newline."""
        fields = structs.asdict(self)
        if self.settings is not None:
            fields["settings"] = structs.asdict(self.settings)
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def _bounds(hint: object) -> tuple[float, float] | None:
    for part in (hint, *typing.get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            return float(meta.ge), float(meta.le)
    return None


BOUNDS = {
    name: bounds
    for name, hint in typing.get_type_hints(Record, include_extras=True).items()
    if (bounds := _bounds(hint)) is not None
}
"""The least and the most that numbers of a record may be, by field."""
