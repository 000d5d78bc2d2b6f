"""Records of what logs hold: counts by our convention, and null for what no log says."""

from typing import Any

from lm_eval_specfair.decoding.counters import repeated_ngrams
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.text_script import script_fields
from lm_eval_specfair.logs.counter_snapshots import CountedTraffic
from lm_eval_specfair.logs.import_notes import ImportTotals
from lm_eval_specfair.logs.logged_request import LoggedRequest
from lm_eval_specfair.records import Record, Settings
from lm_eval_specfair.serving.count_fields import ServedText, cut_text
from lm_eval_specfair.text_lines import num_bytes

_NO_LIMIT = 1 << 40


def record_of(request: LoggedRequest, totals: ImportTotals, **who: Any) -> Record:
    """The record of a logged request; `who` are its names, and `totals` hears what it lacks."""
    known = {**who, "request_type": "generate_until"}
    known["num_prompt_tokens"] = request.num_prompt_tokens or 0
    failure = request.failure
    if failure is None and None in (request.num_prompt_tokens, request.num_generated_tokens):
        failure = "the log does not say how many tokens it was asked and gave (usage)"
    if failure is not None:
        totals.num_failed += 1
        return Record(**known, failure=failure)
    tokens = request.num_generated_tokens or 0
    ended = request.finish_reason or "eos"
    limit = request.max_new_tokens or (tokens if ended == "length" else _NO_LIMIT)
    cut = cut_text(
        ServedText(
            num_tokens=tokens,
            token_ids=request.token_ids,
            finish_reason=ended,
            counts=request.counts,
        ),
        max_new_tokens=limit,
    )
    totals.add(request, cut)
    longest = request.counts.num_spec_tokens if request.counts else None
    settings = None
    if longest is not None and request.temperature is not None:
        settings = Settings(
            num_speculative_tokens=longest,
            temperature=request.temperature,
            top_k=None,
            top_p=None,
        )
    ids, text = request.token_ids, request.text
    ngrams = (None, None) if ids is None else repeated_ngrams(ids, 4)
    return Record(
        **known,
        **cut.fields,
        **request.seconds,
        num_generated_tokens=tokens,
        num_generated_bytes=None if text is None else num_bytes(text),
        num_generated_chars=None if text is None else len(text),
        num_4grams=ngrams[0],
        num_repeated_4grams=ngrams[1],
        **script_fields(text, TaskFacts(who["task"]), who["group_fields"]),
        finish_reason=request.finish_reason,
        generated_token_ids=ids,
        generated_text=text,
        settings=settings,
    )


def record_of_traffic(found: CountedTraffic, **who: Any) -> Record:
    """A record of many requests together, so without what only one can have: a text, tokens.

    Passes over prompts are not among a server's steps; as everywhere they are added, where the
    number of requests is known. Drafts behind the ends of texts cannot be taken off.
    """
    prompts = found.num_requests
    histogram = found.histogram
    if prompts is not None and histogram is not None:
        histogram = [histogram[0] + prompts, *histogram[1:]]
    return Record(
        **who,
        request_type="generate_until",
        num_prompt_tokens=found.num_prompt_tokens or 0,
        num_spec_steps=None if prompts is None else found.num_steps + prompts,
        num_draft_tokens=found.num_drafted,
        num_accepted_draft_tokens=found.num_accepted,
        num_examined_draft_tokens=found.num_examined,
        acceptance_histogram=None if prompts is None else histogram,
    )
