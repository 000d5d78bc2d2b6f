"""The decoder of a run's jobs: some of each task also without the drafter, as a baseline.

Pairs are decoded in chunks, alternately with and without the drafter, so that the measured speed-up
compares the same requests in the same minute.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.decoder import Decoder
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.harness.jobs.group_draw import drawn
from lm_eval_specfair.harness.requests import Job

WARM_UP_TOKENS = 8
# Requests whose lengths are sorted together, for each row of a batch.
WINDOW_A_ROW = 8
# This many requests that raise one after the other are no longer the fault of each.
MOST_IN_A_ROW = 8


class Decoded(NamedTuple):
    """A job's completions, with the drafter and, in a pair, without."""

    job: Job
    completion: Completion
    baseline: Completion | None


class PairedDecoder:
    """Decodes jobs, of any configurations."""

    def __init__(
        self,
        decoder: Decoder,
        num_pairs: Callable[[str], int | None],
        *,
        seed: int = 0,
        mixed_chunk: int | None = None,
    ) -> None:
        """Decode with a decoder; `num_pairs` of a task's requests both ways, None for all.

        Which these are is drawn by group (`group_draw.drawn`) with the seed. A chunk has one task's
        requests, as many as the decoder has rows; with `mixed_chunk`, so many of all tasks.
        """
        self._decoder, self._num_pairs, self._seed = decoder, num_pairs, seed
        self._mixed_chunk = mixed_chunk
        self._has_decoded = False

    def decode(self, jobs: Sequence[Job]) -> Iterator[Decoded]:
        """Decode jobs, yielding each once it is known whether a failure is its own.

        A request that raised is held back until another one is decoded.

        Raises:
            Exception: What the requests raised, where all did, or `MOST_IN_A_ROW` in a row: then
                it is not their fault, and none of these is yielded.
        """
        held: list[Decoded] = []
        error: Exception | None = None
        for decoded in self._decode_all(jobs):
            error = decoded.completion.error
            if error is None:
                self._has_decoded = True
                yield from held
                held.clear()
                yield decoded
                continue
            held.append(decoded)
            if len(held) == MOST_IN_A_ROW:
                raise error
        if error is not None and not self._has_decoded:
            raise error
        yield from held

    def _decode_all(self, jobs: Sequence[Job]) -> Iterator[Decoded]:
        readable = [job for job in jobs if job.error is None]
        readable.sort(key=lambda job: repr(job.config))
        for config, same in groupby(readable, key=lambda job: job.config):
            yield from self._decode_alike(list(same), config)
        for job in jobs:
            if job.error is not None:
                yield Decoded(job, Completion.failed(job.request, job.error), None)

    def _decode_alike(self, jobs: list[Job], config: DecodeConfig) -> Iterator[Decoded]:
        chunks, rest = self._split(jobs)
        if chunks:
            self._warm_up(chunks[0], config)
        for number, chunk in enumerate(chunks):
            # The two ways take turns in going first, so that a machine that gets slower or faster
            # favours neither.
            order = (False, True) if number % 2 else (True, False)
            done = {plain: self._run(chunk, config, plain=plain) for plain in order}
            for job in chunk:
                name = job.request.request_id
                yield Decoded(job, done[False][name], done[True][name])
        rest = self._mixed(rest)
        by_name = {job.request.request_id: job for job in rest}
        for completion in self._decoder.decode([job.request for job in rest], config):
            yield Decoded(by_name[completion.request.request_id], completion, None)

    def _split(self, jobs: list[Job]) -> tuple[list[list[Job]], list[Job]]:
        """Chunks to be decoded both ways, and all other jobs."""
        if not self._decoder.drafts:
            return [], jobs
        by_task: dict[str, list[Job]] = {}
        for job in jobs:
            by_task.setdefault(job.task, []).append(job)
        chunks: list[list[list[Job]]] = []
        rest: list[Job] = []
        size = self._decoder.max_rows
        for task, same in by_task.items():
            own = [job for job in same if not job.is_padding]
            paired = drawn(own, self._seed)[: self._num_pairs(task)]
            places = {job.place for job in paired}
            rest += [job for job in same if job.place not in places]
            chunks.append(_chunks(paired, size))
        if self._mixed_chunk is not None:
            paired = [job for task_chunks in chunks for chunk in task_chunks for job in chunk]
            return _chunks(drawn(paired, self._seed), self._mixed_chunk), rest
        # Tasks take turns, since they often are the groups: a run that is killed then has some of
        # each.
        rounds = zip_longest(*chunks, fillvalue=[])
        return [chunk for each in rounds for chunk in each if chunk], rest

    def _mixed(self, jobs: list[Job]) -> list[Job]:
        """Jobs in an order in which every stretch has all groups, and lengths are alike nearby.

        Sorted by length as a whole, languages with long prompts would come first. In a stretch the
        longest come first: rows that start last are then short, and the batch empties evenly.
        """
        order, size = drawn(jobs, self._seed), WINDOW_A_ROW * self._decoder.max_rows
        parts = _chunks(order, size)
        return [job for part in parts for job in sorted(part, key=_fewest_tokens_last)]

    def _run(self, jobs: list[Job], config: DecodeConfig, *, plain: bool) -> dict[str, Completion]:
        completions = self._decoder.decode([job.request for job in jobs], config, plain=plain)
        return {completion.request.request_id: completion for completion in completions}

    def _warm_up(self, jobs: list[Job], config: DecodeConfig) -> None:
        """Let both ways meet their first-time costs before they are timed."""
        stopping = Stopping(max_new_tokens=WARM_UP_TOKENS)
        requests = [
            Request(
                request_id=f"warm-up/{job.place}",
                prompt=job.request.prompt,
                stopping=stopping,
                drafter=job.request.drafter,
                asked=job.request.asked,
            )
            for job in jobs
        ]
        for plain in (True, False):
            for _ in self._decoder.decode(requests, config, plain=plain):
                pass


def _chunks(jobs: list[Job], size: int) -> list[list[Job]]:
    return [jobs[first : first + size] for first in range(0, len(jobs), size)]


def _fewest_tokens_last(job: Job) -> int:
    return -len(job.request.prompt)
