"""Folders of records as a run leaves them, drawn from the model of speculative decoding itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_specfair.metrics.aggregate.addends import addends_of
from lm_eval_specfair.metrics.aggregate.columns import requests_of
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Record, RecordWriter, Settings, write_run
from lm_eval_specfair.records.record_batch import RecordBatch

GREEDY = Settings(num_speculative_tokens=4, temperature=0.0, top_k=None, top_p=None)
DRAFT_SECONDS, VERIFY_SECONDS, HOST_SECONDS = 0.0004, 0.0105, 0.0005  # of a token, a step, a step
PLAIN_SECONDS = 0.01
LANGUAGES = [
    "en",
    "de",
    "fr",
    "es",
    "pt",
    "it",
    "nl",
    "sv",
    "fi",
    "cs",
    "pl",
    "hu",
    "ru",
    "uk",
    "el",
    "tr",
    "ar",
    "fa",
    "he",
    "hi",
    "bn",
    "ta",
    "th",
    "vi",
    "id",
    "ja",
    "ko",
    "zh",
    "ka",
    "km",
]


def generation(task: str, doc_id: int, **changes: Any) -> Record:
    """One request, 10 steps of 4 drafted tokens: 20 accepted, 28 examined, 30 emitted.

    What follows from changed fields changes with them: no record contradicts itself.
    """
    values: dict[str, Any] = {
        "request_id": f"{task}/{doc_id}/0",
        "task": task,
        "doc_id": doc_id,
        "request_type": "generate_until",
        "group_fields": {},
        "num_prompt_tokens": 12,
        "num_generated_tokens": 30,
        "num_generated_bytes": 90,
        "num_generated_chars": 90,
        "num_spec_steps": 10,
        "num_draft_tokens": 40,
        "num_accepted_draft_tokens": 20,
        "num_examined_draft_tokens": 28,
        "acceptance_histogram": [2, 1, 4, 1, 2],
        "overlap_sum": 21.0,
        "kl_sum": 14.0,
        "cross_entropy_sum": 42.0,
        "target_entropy_sum": 28.0,
        "num_distribution_positions": 28,
        "num_infinite_positions": 0,
        "draft_seconds": 0.1,
        "verify_seconds": 0.4,
        "decode_seconds": 0.6,
        "finish_reason": "length",
        "settings": GREEDY,
    }
    values |= changes
    _follow(values, set(changes))
    return Record(**values)


def _follow(values: dict[str, Any], given: set[str]) -> None:
    """Let fields that are not given agree with those that are."""

    def follows(name: str, value: Any) -> None:
        if name not in given and values[name] is not None:
            values[name] = value

    settings, steps = values["settings"], values["num_spec_steps"]
    accepted, most = values["num_accepted_draft_tokens"], 4
    if settings is not None:
        most = settings.num_speculative_tokens
    counts = {"settings", "num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens"}
    if steps is not None and accepted is not None and counts & given:
        follows("num_draft_tokens", most * steps)
        drafted = values["num_draft_tokens"]
        if drafted is not None:
            least = min(accepted + steps, drafted)
            follows("num_examined_draft_tokens", max(accepted, min(28, least)))
        if {"num_spec_steps", "num_accepted_draft_tokens"} & given:
            follows("num_generated_tokens", steps + accepted)
        each, more = divmod(accepted, max(steps, 1))
        histogram = [0] * (most + 2)
        histogram[min(each, most)] = steps - more
        histogram[min(each, most) + 1] = more
        follows("acceptance_histogram", histogram[: most + 1])
    examined, positions = values["num_examined_draft_tokens"], "num_distribution_positions"
    if examined is not None and values[positions] is not None:
        follows(positions, min(values[positions], examined))
        if values["overlap_sum"] is not None:
            follows("overlap_sum", min(values["overlap_sum"], values[positions]))
    if (seconds := values["decode_seconds"]) is not None and seconds < 0.5:
        follows("draft_seconds", seconds / 6)
        follows("verify_seconds", seconds * 4 / 6)
    if (text := values.get("generated_text")) is not None:
        follows("num_generated_bytes", len(text.encode()))
        follows("num_generated_chars", len(text))


def simulated(
    task: str,
    doc_id: int,
    acceptance_rate: float,
    generator: np.random.Generator,
    *,
    bytes_per_token: float = 3.0,
    baseline: bool = False,
    group_fields: Mapping[str, str] | None = None,
) -> Record:
    """One request whose drafted tokens are accepted independently with one chance."""
    gamma, num_steps = GREEDY.num_speculative_tokens, int(generator.integers(8, 20))
    runs = generator.geometric(1 - acceptance_rate, size=num_steps) - 1
    accepted, examined = np.minimum(runs, gamma), np.minimum(runs + 1, gamma)
    num_examined, num_tokens = int(examined.sum()), num_steps + int(accepted.sum())
    noise = float(generator.uniform(0.97, 1.03))
    draft_seconds = DRAFT_SECONDS * gamma * num_steps * noise
    verify_seconds = VERIFY_SECONDS * num_steps * noise
    return generation(
        task,
        doc_id,
        group_fields=dict(group_fields or {}),
        num_generated_tokens=num_tokens,
        num_generated_bytes=round(bytes_per_token * num_tokens),
        num_generated_chars=num_tokens,
        num_spec_steps=num_steps,
        num_draft_tokens=gamma * num_steps,
        num_accepted_draft_tokens=int(accepted.sum()),
        num_examined_draft_tokens=num_examined,
        acceptance_histogram=np.bincount(accepted, minlength=gamma + 1).tolist(),
        overlap_sum=acceptance_rate * num_examined,
        kl_sum=(1 - acceptance_rate) * num_examined,
        cross_entropy_sum=(3 - acceptance_rate) * num_examined,
        target_entropy_sum=2.0 * num_examined,
        num_distribution_positions=num_examined,
        draft_seconds=draft_seconds,
        verify_seconds=verify_seconds,
        decode_seconds=draft_seconds + verify_seconds + HOST_SECONDS * num_steps * noise,
        baseline_seconds=PLAIN_SECONDS * num_tokens if baseline else None,
        baseline_generated_tokens=num_tokens if baseline else None,
        baseline_agrees=True if baseline else None,
    )


def scored(task: str, doc_id: int, **changes: Any) -> Record:
    """One scored text: 50 bytes at 100 bits for the target, 200 for the drafter."""
    values: dict[str, Any] = {
        "request_id": f"{task}/{doc_id}/scored",
        "task": task,
        "doc_id": doc_id,
        "request_type": "loglikelihood",
        "group_fields": {},
        "num_prompt_tokens": 12,
        "target_nll_sum": 100 * np.log(2).item(),
        "drafter_nll_sum": 200 * np.log(2).item(),
        "num_scored_tokens": 20,
        "num_scored_bytes": 50,
        "is_greedy": False,
    }
    return Record(**(values | changes))


def parallel_run(
    rates: Mapping[str, float], *, num_documents: int = 20, num_baselines: int = 8, seed: int = 0
) -> list[Record]:
    """The same documents in several languages, each with its chance of acceptance."""
    generator = np.random.default_rng(seed)
    records = []
    for language, rate in rates.items():
        task = f"xnli_{language}"
        for doc_id in range(num_documents):
            easier = float(np.clip(rate + generator.normal(0, 0.06), 0.02, 0.98))
            records.append(
                simulated(task, doc_id, easier, generator, baseline=doc_id < num_baselines)
            )
            records.append(scored(task, doc_id))
    return records


def many_languages(**options: Any) -> list[Record]:
    """Thirty languages, from 0.8 down to 0.3."""
    rates = dict(zip(LANGUAGES, np.linspace(0.8, 0.3, len(LANGUAGES)).tolist(), strict=True))
    return parallel_run(rates, **options)


def addends(record: Record) -> Array:
    """What one request adds to each sum, shape (num_columns,)."""
    return addends_of(requests_of(RecordBatch.of([record]), {}))[0]


def write_folder(folder: Path, records: Sequence[Record], **run: Any) -> Path:
    """`run.json` and `records.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, {"command": ["lm_eval", "--model", "specfair"], "finished": "now"} | run)
    writer = RecordWriter(folder)
    for record in records:
        writer.write(record)
    writer.close()
    return folder


PAIRED = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}


def extreme(task, doc_id, *, accepted):
    steps = 10 + doc_id
    return generation(
        task,
        doc_id,
        num_spec_steps=steps,
        num_draft_tokens=4 * steps,
        num_accepted_draft_tokens=4 * steps if accepted else 0,
        num_examined_draft_tokens=4 * steps if accepted else steps,
        num_generated_tokens=5 * steps if accepted else steps,
        acceptance_histogram=[0, 0, 0, 0, steps] if accepted else [steps, 0, 0, 0, 0],
        overlap_sum=4.0 * steps if accepted else 0.0,
        kl_sum=0.0,
        num_distribution_positions=4 * steps if accepted else steps,
        baseline_seconds=0.03 * (5 * steps if accepted else steps),
        baseline_generated_tokens=5 * steps if accepted else steps,
        decode_seconds=0.06 * steps,
    )
