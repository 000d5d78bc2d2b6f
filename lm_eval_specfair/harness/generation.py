"""From lm-eval's `generate_until` requests to what the engine decodes, and to records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.engine import Completion, Request
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.harness.tasks import Acceptance, GeneratedText
from lm_eval_specfair.records import Record, Settings

# What would change the target's distribution in a way that this engine does not follow; the
# values that change nothing are let through.
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
    """What one request asks for, apart from its prompt.

    Attributes:
        config: How it is decoded.
        stop_strings: What ends the text.
        max_new_tokens: Its length limit.
    """

    config: DecodeConfig
    stop_strings: tuple[str, ...]
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One request on its way through a run.

    Attributes:
        place: Where lm-eval expects its answer.
        name: Its request_id, or None for a padding request that is not recorded.
        instance: lm-eval's request.
        config: How it is decoded.
        request: What the engine decodes.
        error: Why its prompt could not be read, or None.
    """

    place: int
    name: str | None
    instance: Instance
    config: DecodeConfig
    request: Request
    error: Exception | None = None

    @property
    def task(self) -> str:
        """lm-eval's task name."""
        return self.instance.task_name or ""


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
) -> GenerationSettings:
    """Read a task's `generation_kwargs` (with `--gen_kwargs` merged in by lm-eval).

    Sampling settings that a task does not name are neutral: nothing is taken over silently from
    the model's own generation settings.

    Args:
        gen_kwargs: As lm-eval passes them.
        default_max_tokens: Where the task names no limit.
        num_speculative_tokens: Tokens drafted per step at most.
        seed: Of the run.

    Raises:
        ConfigError: If a setting has no lossless counterpart here, or a bad value.
    """
    if "temperature" in gen_kwargs:
        # Refused also where do_sample=False makes lm-eval overlook it.
        DecodeConfig(temperature=_number("temperature", gen_kwargs["temperature"]))
    for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_length"):
        if gen_kwargs.get(name) is not None:
            _number(name, gen_kwargs[name])  # lm-eval's own int() would say less
    wanted = dict(normalize_gen_kwargs(dict(gen_kwargs), default_max_tokens))
    max_new_tokens, stops = wanted.pop("max_gen_toks"), wanted.pop("until")
    if max_new_tokens < 1:
        raise ConfigError(f"max_gen_toks must be at least 1, got {max_new_tokens}")
    sampled = bool(wanted.pop("do_sample", False))
    temperature = wanted.pop("temperature", None)
    if sampled and "temperature" not in gen_kwargs:
        temperature = 1.0
    top_k, top_p = wanted.pop("top_k", None), wanted.pop("top_p", None)
    for name, value in wanted.items():
        if name not in NEUTRAL or value not in NEUTRAL[name]:
            raise ConfigError(
                f"generation setting {name}={value!r} has no lossless counterpart here: expected "
                "temperature, top_k, top_p, do_sample, until, max_gen_toks. Remove it, or use "
                "--model hf."
            )
    greedy = not sampled or temperature == 0
    config = DecodeConfig(
        num_speculative_tokens=num_speculative_tokens,
        temperature=0.0 if greedy else float(temperature or 0.0),
        # 0 and -1 are other engines' words for "all tokens".
        top_k=None if greedy or top_k in (None, 0, -1) else top_k,
        top_p=None if greedy or top_p in (None, 1) else top_p,
        seed=seed,
    )
    strings = tuple(stop for stop in stops if stop)
    return GenerationSettings(config=config, stop_strings=strings, max_new_tokens=max_new_tokens)


def generated_text(record: Record) -> GeneratedText:
    """What lm-eval gets: the text, with its acceptance for tasks that ask for it."""
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
    job: Job, done: Completion, text: str, plain: Completion | None, *, drafts: bool
) -> Record:
    """The record of a decoded request.

    Args:
        job: Who asked.
        done: What the engine made of it.
        text: The text as lm-eval gets it.
        plain: The same request decoded without a drafter, where it was.
        drafts: Whether there is a drafter; without one, what it would do is not measured.
    """
    counted, config = done.statistics, job.config
    gamma = (job.request.num_speculative_tokens or 0) if drafts else 0
    measured = drafts and counted.has_distributions
    agrees = None
    if plain is not None and (plain.failure or done.failure):
        plain = None
    if plain is not None and config.greedy:
        agrees = plain.token_ids == done.token_ids
    return Record(
        request_id=job.request.request_id,
        task=job.task,
        doc_id=int(job.instance.doc_id or 0),
        request_type="generate_until",
        group_fields=group_fields(job.instance.doc),
        num_prompt_tokens=len(job.request.prompt),
        num_generated_tokens=len(done.token_ids),
        num_generated_bytes=len(text.encode("utf-8", errors="replace")),
        num_generated_chars=len(text),
        num_spec_steps=counted.num_steps,
        num_draft_tokens=sum(counted.drafted_per_step),
        num_accepted_draft_tokens=sum(counted.accepted_per_step),
        num_examined_draft_tokens=counted.num_examined,
        acceptance_histogram=counted.histogram(gamma),
        drafted_per_step=counted.drafted_per_step,
        accepted_per_step=counted.accepted_per_step,
        **counted.distribution_fields(measured=measured),
        draft_seconds=_if_known(counted.draft_seconds),
        verify_seconds=_if_known(counted.verify_seconds),
        decode_seconds=counted.decode_seconds,
        prefill_seconds=counted.prefill_seconds,
        baseline_seconds=plain.statistics.decode_seconds if plain else None,
        baseline_generated_tokens=len(plain.token_ids) if plain else None,
        baseline_agrees=agrees,
        num_active_rows_sum=counted.num_active_rows_sum,
        finish_reason=done.finish_reason,
        failure=done.failure,
        generated_token_ids=done.token_ids,
        generated_text=text,
        settings=Settings(
            num_speculative_tokens=gamma,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        ),
    )


def _if_known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def split_for_baseline(
    jobs: Sequence[Job], limit: Callable[[str], int | None], rows: int
) -> tuple[list[list[Job]], list[Job]]:
    """Which jobs are also decoded plainly: the first of each task.

    Args:
        jobs: Of one configuration.
        limit: Task to the number wanted, None for all.
        rows: Most jobs decoded together.

    Returns:
        Chunks of one task each, decoded both ways in turn, and all other jobs.
    """
    by_task: dict[str, list[Job]] = {}
    for job in jobs:
        by_task.setdefault(job.task, []).append(job)
    chunks: list[list[Job]] = []
    rest: list[Job] = []
    for task, same in by_task.items():
        number = limit(task)
        chosen = same[:number]
        rest.extend(same[len(chosen) :])
        chunks.extend(chosen[first : first + rows] for first in range(0, len(chosen), rows))
    return chunks, rest
