"""`num_speculative_tokens=auto`: the draft length with which a run's own requests are fastest.

Two things decide it, and neither needs many tokens. Which drafts are kept follows from one decoding
of a few requests with the longest drafts, recounted for shorter ones (`metrics.draft_length`). What
a step of each length costs is timed on the same requests with as many rows as the run has.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion
from lm_eval_specfair.decoding.decoder import Decoder
from lm_eval_specfair.harness.draft_policy import LONGEST
from lm_eval_specfair.harness.generation import generation_record
from lm_eval_specfair.harness.jobs.group_draw import drawn
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.requests import Job
from lm_eval_specfair.metrics.draft_length.recount import (
    chance_of_unknown,
    marks_of,
    position_counts,
    replay,
)

logger = logging.getLogger(__name__)

LENGTHS = (1, 2, 3, 4, 6, LONGEST)
BY_DEFAULT = 4  # where there is nothing to try

_REQUESTS, _TOKENS = 24, 48  # of the decoding that says which drafts are kept
_STEPS, _ROUNDS = 4, 3  # of what is timed
_MOST_SECONDS = 60.0  # for rounds after the first


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoLength:
    """The length chosen, and what it was chosen by.

    Attributes:
        length: Tokens drafted per step, at least 1.
        speedups: Expected speed of each length tried, of plain decoding.
        requests: How many requests were decoded to find it.
        rows: Rows decoded together.
    """

    length: int
    speedups: dict[int, float]
    requests: int
    rows: int

    def to_json(self) -> dict[str, Any]:
        """For `run.json`."""
        speedups = {str(length): round(speed, 4) for length, speed in self.speedups.items()}
        return {"expected_speedup": speedups, "requests": self.requests, "rows": self.rows}

    def log(self) -> None:
        """Say what was chosen, and where no length pays."""
        tried = ", ".join(f"{length}: {speed:.2f}" for length, speed in self.speedups.items())
        logger.warning(
            "num_speculative_tokens=auto: %d (expected speed, plain decoding 1, %s)",
            self.length, tried or "not tried",
        )  # fmt: skip
        if self.speedups and self.speedups[self.length] < 1:
            logger.warning(
                "no draft length pays here: with the best, decoding is expected at %.2f of plain "
                "speed. drafter=none decodes plainly; a policy (`specfair policy`) can say so for "
                "each group.",
                self.speedups[self.length],
            )


def fastest_length(decoder: Decoder, jobs: Sequence[Job], *, seed: int) -> AutoLength:
    """The length of `LENGTHS` with which a sample of the jobs is expected to be decoded fastest.

    The jobs' configurations must draft `LONGEST` tokens. The sample goes round the groups
    (`group_draw.drawn`); its texts are cut to 48 tokens and not kept. A decoder without a drafter
    gets 4, and so does one whose every request failed.
    """
    readable = [job for job in jobs if job.error is None and not job.is_padding]
    rows = decoder.max_rows
    if not decoder.drafts or not readable:
        return AutoLength(length=BY_DEFAULT, speedups={}, requests=0, rows=rows)
    sample = drawn(readable, seed)[: max(_REQUESTS, rows)]
    with tqdm(
        desc="num_speculative_tokens auto", total=1 + _ROUNDS * (1 + len(LENGTHS)), unit="part"
    ) as progress:
        done = list(_decoded(decoder, sample, LONGEST, _TOKENS))
        progress.update()
        counts = _recounts(done)
        costs = _step_seconds(decoder, sample[:rows], progress) if counts else {}
    if not counts or not all(costs.values()):
        return AutoLength(length=BY_DEFAULT, speedups={}, requests=len(sample), rows=rows)
    plain = counts[0] * costs[0]
    speedups = {length: plain / (counts[length] * costs[length]) for length in LENGTHS}
    best = max(LENGTHS, key=lambda length: speedups[length])
    return AutoLength(length=best, speedups=speedups, requests=len(sample), rows=rows)


def _decoded(
    decoder: Decoder, jobs: Sequence[Job], length: int, most_tokens: int
) -> Iterator[Decoded]:
    """Jobs cut short, decoded with drafts of a length; 0 leaves the drafter out."""
    alike: dict[DecodeConfig, list[Job]] = defaultdict(list)
    for job in jobs:
        tokens = min(job.request.stopping.max_new_tokens, most_tokens)
        request = replace(
            job.request,
            stopping=replace(job.request.stopping, max_new_tokens=tokens),
            num_speculative_tokens=length,
        )
        alike[job.config].append(replace(job, request=request))
    for config, same in alike.items():
        by_name = {job.request.request_id: job for job in same}
        completions = decoder.decode([job.request for job in same], config, plain=length == 0)
        for completion in completions:
            yield Decoded(by_name[completion.request.request_id], completion, None)


def _recounts(decoded: Sequence[Decoded]) -> dict[int, float]:
    """Expected steps of all texts at each length, 0 without a drafter; empty if all failed."""
    generator = np.random.default_rng(0)
    records = [
        generation_record(one, "", drafts=True) for one in decoded if one.completion.error is None
    ]
    marked = [(record, marks_of(record, generator)) for record in records]
    texts = [(record, marks) for record, marks in marked if marks is not None]
    if not texts:
        return {}
    total = sum(position_counts(record, LONGEST) for record, _ in texts)
    chances = np.full(len(texts), chance_of_unknown(np.asarray(total))[1])
    every = [marks for _, marks in texts]
    return {length: float(replay(every, length, chances).steps.sum()) for length in (0, *LENGTHS)}


def _step_seconds(decoder: Decoder, jobs: Sequence[Job], progress: Any) -> dict[int, float]:
    """Seconds of a row's step at each length: the fastest of a few rounds, which take turns."""
    found: dict[int, float] = {}
    began = time.monotonic()
    for number in range(_ROUNDS):
        for length in (0, *LENGTHS):
            done = [
                each.completion for each in _decoded(decoder, jobs, length, _STEPS * (length + 1))
            ]
            seconds = _mean_step(done)
            if seconds:
                found[length] = min(found.get(length, seconds), seconds)
            progress.update()
        if number + 1 < _ROUNDS and time.monotonic() - began > _MOST_SECONDS:
            break
    return {length: found.get(length, 0.0) for length in (0, *LENGTHS)}


def _mean_step(done: Sequence[Completion]) -> float:
    counters = [completion.counters for completion in done if completion.error is None]
    steps = sum(each.num_steps for each in counters)
    # A step's seconds are divided among its rows, so the sum over rows is that of all steps.
    return sum(each.decode_seconds for each in counters) / steps if steps else 0.0
