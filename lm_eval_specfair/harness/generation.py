"""Generation settings that lm-eval passes, and the records of what was generated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from msgspec import structs

from lm_eval_specfair.config import DecodeConfig, Verification
from lm_eval_specfair.decoding.counters import repeated_ngrams
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.text_script import script_fields
from lm_eval_specfair.harness import task_metadata
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.harness.tasks import Acceptance, GeneratedText
from lm_eval_specfair.records import Record, Settings
from lm_eval_specfair.text_lines import num_bytes

# Settings that would change the target's distribution in a way that this engine does not follow,
# with the values that change nothing, which pass.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "no_repeat_ngram_size": (0,),
    "min_p": (None, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "use_cache": (True,),
    "early_stopping": (False, None),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """The settings of one request."""

    config: DecodeConfig
    stop_strings: tuple[str, ...]
    max_new_tokens: int


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return value


def read_settings(
    gen_kwargs: Mapping[str, Any],
    *,
    default_max_tokens: int,
    num_speculative_tokens: int,
    seed: int,
    verification: Verification = "token",
    drafter_temperature: float | None = None,
) -> GenerationSettings:
    """Read a task's `generation_kwargs` (with `--gen_kwargs` merged in by lm-eval).

    Sampling settings that a task does not name are neutral: nothing is taken over silently from
    the model's own generation settings.

    Raises:
        ConfigError: If a setting is not supported, or has a bad value.
    """
    if "temperature" in gen_kwargs:
        # Refused also where do_sample=False makes lm-eval overlook it.
        DecodeConfig(temperature=_number("temperature", gen_kwargs["temperature"]))
    for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_length"):
        if gen_kwargs.get(name) is not None:
            _number(name, gen_kwargs[name])  # lm-eval's own int() would say less
    settings = dict(normalize_gen_kwargs(dict(gen_kwargs), default_max_tokens))
    max_new_tokens, stops = settings.pop("max_gen_toks"), settings.pop("until")
    if max_new_tokens < 1:
        raise ConfigError(f"max_gen_toks must be at least 1, got {max_new_tokens}")
    sampled = bool(settings.pop("do_sample", False))
    given = settings.pop("temperature", None) if "temperature" in gen_kwargs else None
    settings.pop("temperature", None)  # lm-eval's own
    temperature, top_k, top_p = sampling_of(
        sampled, given, settings.pop("top_k", None), settings.pop("top_p", None)
    )
    for name, value in settings.items():
        if name not in NEUTRAL or value not in NEUTRAL[name]:
            raise ConfigError(
                f"{name}={value!r} is not supported with speculative decoding. Supported: "
                "temperature, top_k, top_p, do_sample, until, max_gen_toks. Remove it, or use "
                "--model hf."
            )
    config = DecodeConfig(
        num_speculative_tokens=num_speculative_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        verification=verification if temperature else "token",
        drafter_temperature=drafter_temperature if temperature else None,
    )
    strings = tuple(stop for stop in stops if stop)
    return GenerationSettings(config=config, stop_strings=strings, max_new_tokens=max_new_tokens)


def sampling_of(
    do_sample: object, temperature: float | None, top_k: Any, top_p: Any
) -> tuple[float, Any, Any]:
    """Temperature, top-k and top-p by lm-eval's rules; greedy is temperature 0 and no others.

    A temperature above 0 samples unless `do_sample` is false; what is not named is neutral, and 0
    and -1 are other engines' words for all tokens as top-k.
    """
    if do_sample is None:
        do_sample = bool(temperature)
    temperature = 1.0 if temperature is None else float(temperature)
    if not do_sample or temperature == 0:
        return 0.0, None, None
    return temperature, None if top_k in (0, -1) else top_k, None if top_p == 1 else top_p


def generated_text(record: Record) -> GeneratedText:
    """The text for lm-eval, with its acceptance for tasks that ask for it."""
    spec = None
    if record.num_spec_steps is not None and record.failure is None:
        spec = Acceptance(
            num_steps=record.num_spec_steps,
            num_accepted=record.num_accepted_draft_tokens or 0,
            num_examined=record.num_examined_draft_tokens or 0,
            overlap_sum=record.overlap_sum or 0.0,
            num_positions=record.num_distribution_positions or 0,
        )
    return GeneratedText(record.generated_text or "", spec)


def generation_record(
    decoded: Decoded, text: str, *, drafts: bool, checks: Mapping[str, Any] | None = None
) -> Record:
    """The record of a decoded request.

    Args:
        decoded: The request and its completions.
        text: As lm-eval gets it.
        drafts: Whether there is a drafter.
        checks: Further fields (`LosslessCheck.fields`).
    """
    job, done, plain = decoded
    counted, config, told = done.counters, job.config, done.told
    gamma = (job.request.num_speculative_tokens or 0) if drafts else 0
    if told is not None:
        gamma = told.num_speculative_tokens
    own = config.with_own([job.request.drafter_temperature]).drafter_temperature if gamma else None
    agrees = None
    if plain is not None and (plain.failure or done.failure):
        plain = None
    if plain is not None and config.greedy:
        agrees = plain.agrees_with(done)
    num_ngrams, num_repeated = repeated_ngrams(done.token_ids, 4)
    record = Record(
        request_id=job.request.request_id,
        task=job.task,
        doc_id=int(job.instance.doc_id or 0),
        request_type="generate_until",
        group_fields=group_fields(job.instance.doc),
        num_prompt_tokens=len(job.request.prompt),
        num_generated_tokens=len(done.token_ids),
        num_generated_bytes=num_bytes(text),
        num_generated_chars=len(text),
        num_4grams=num_ngrams,
        num_repeated_4grams=num_repeated,
        **script_fields(text, task_metadata.facts(job.task), group_fields(job.instance.doc)),
        num_spec_steps=counted.num_steps,
        num_draft_tokens=sum(counted.drafted_per_step),
        num_accepted_draft_tokens=sum(counted.accepted_per_step),
        num_examined_draft_tokens=counted.num_examined,
        acceptance_histogram=counted.histogram(gamma),
        drafted_per_step=counted.drafted_per_step,
        accepted_per_step=counted.accepted_per_step,
        rejected_token_ids=counted.rejected_tokens,
        discarded_token_ids=counted.discarded_per_step,
        **counted.distribution_fields(measured=drafts and counted.num_positions > 0),
        draft_seconds=_if_known(counted.draft_seconds),
        verify_seconds=_if_known(counted.verify_seconds),
        decode_seconds=counted.decode_seconds,
        prefill_seconds=counted.prefill_seconds,
        baseline_seconds=plain.counters.decode_seconds if plain else None,
        baseline_generated_tokens=plain.num_tokens if plain else None,
        baseline_agrees=agrees,
        **(checks or {}),
        num_active_rows_sum=counted.num_active_rows_sum,
        finish_reason=done.finish_reason,
        failure=done.failure,
        generated_token_ids=done.token_ids,
        generated_text=text,
        settings=Settings(
            num_speculative_tokens=gamma, temperature=config.temperature,
            top_k=config.top_k, top_p=config.top_p, verification=config.verification,
            drafter=job.request.drafter,
            drafter_temperature=own[0] if isinstance(own, tuple) else own,
        ),
    )  # fmt: skip
    return record if told is None else structs.replace(record, **told.fields)


def _if_known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
