"""A model class's part that decodes generation requests through a decoder, on record."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from lm_eval.api.instance import Instance
from tqdm import tqdm
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.completion import Completion
from lm_eval_specfair.decoding.decoder import Decoder
from lm_eval_specfair.decoding.vocabularies.token_bytes import pieces_of
from lm_eval_specfair.distributed import own_share
from lm_eval_specfair.errors import NO_RESPONSE_CACHE, ConfigError
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.harness.generation import generated_text, generation_record
from lm_eval_specfair.harness.jobs.lossless_check import LosslessCheck
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded, PairedDecoder
from lm_eval_specfair.harness.requests import Job
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.harness.totals import Totals
from lm_eval_specfair.records import read_records
from lm_eval_specfair.records.requests_file import AskedRequest

logger = logging.getLogger(__name__)


class RunArguments(Protocol):
    """What the arguments of every backend have."""

    @property
    def policy(self) -> DraftPolicy:
        """Draft lengths."""

    @property
    def baseline(self) -> int | Literal["all"]:
        """Requests per task also decoded without the drafter."""

    @property
    def lossless_checks(self) -> int | Literal["all"]:
        """Greedy requests per task held against the target's own plain pass."""

    @property
    def seed(self) -> int:
        """The run's."""


class RecordedLM:
    """`generate_until`, and the end of a run, of a model that has a decoder and a folder.

    Attributes:
        finished_runs: Folders of the runs that this process finished.
        failed_runs: Those among them in which requests failed, or that were not lossless.
    """

    finished_runs: ClassVar[list[Path]] = []
    failed_runs: ClassVar[set[Path]] = set()
    rank: int
    world_size: int
    tokenizer: Any  # None where a server's is not known

    def record_texts(
        self,
        decoder: Decoder,
        folder: RunFolder,
        arguments: RunArguments,
        *,
        own_pass: PreTrainedModel | None = None,
        mixed_chunk: int | None = None,
    ) -> None:
        """Decode and record from now on.

        Args:
            decoder: What decodes.
            folder: Where records go.
            arguments: Of the run.
            own_pass: The target, where it is loaded here, to check greedy texts with.
            mixed_chunk: See `PairedDecoder`.
        """
        self._decoder, self._folder, self._run_arguments = decoder, folder, arguments
        self._paired = PairedDecoder(
            decoder, self._num_pairs, seed=arguments.seed, mixed_chunk=mixed_chunk
        )
        self._check = LosslessCheck(own_pass, self._num_checks, seed=arguments.seed)
        self._totals = Totals()

    @abstractmethod
    def _jobs(self, requests: list[Instance]) -> Iterator[Job]:
        """lm-eval's requests, ready to be decoded."""

    @abstractmethod
    def _text(self, job: Job, completion: Completion) -> str:
        """The text as lm-eval gets it."""

    def _further_fields(self, decoded: Decoded) -> dict[str, Any]:
        """Fields of a record that this model adds."""
        return {}

    def _num_pairs(self, task: str) -> int | None:
        """Requests of a task still to be decoded both ways; None for all.

        A resumed run has some already, and processes share the number.
        """
        return self._still_to_do(task, self._run_arguments.baseline, "baseline_seconds")

    def _num_checks(self, task: str) -> int | None:
        """Requests of a task still to be held against the target's own pass; None for all."""
        return self._still_to_do(task, self._run_arguments.lossless_checks, "plain_pass_tokens")

    def _still_to_do(self, task: str, wanted: int | Literal["all"], field: str) -> int | None:
        if wanted == "all":
            return None
        done = sum(
            record.task == task and getattr(record, field) is not None
            for record in self._folder.done.values()
        )
        return own_share(max(0, wanted - done), self.rank, self.world_size)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode requests: their texts, in order; a record of each goes to the folder."""
        answers: list[str | None] = [None] * len(requests)
        jobs = []
        for job in self._jobs(requests):
            earlier = self._folder.done.get(job.request.request_id)
            if earlier is not None and earlier.generated_text is not None:
                self._totals.add(earlier)
                answers[job.place] = generated_text(earlier)
            else:
                jobs.append(job)
        self._folder.begin(requests)
        self._folder.note(_asked((job, job.request.prompt) for job in jobs))
        progress = tqdm(
            total=len(requests), initial=len(requests) - len(jobs),
            disable=disable_tqdm or self.rank != 0, desc="Decoding", unit="request",
        )  # fmt: skip
        self._totals.begin()
        self._check.choose(jobs)
        with self._folder.interruptible():
            for decoded in self._paired.decode(jobs):
                job = decoded.job
                record = generation_record(
                    decoded,
                    self._text(job, decoded.completion),
                    drafts=self._decoder.drafts,
                    checks=self._check.fields(decoded) | self._further_fields(decoded),
                )
                if not job.is_padding:
                    self._folder.write(record)
                    self._totals.add(record)
                    told = decoded.completion.told
                    if told is not None and told.prompt_token_ids and not job.request.prompt:
                        self._folder.note(_asked([(job, told.prompt_token_ids)]))
                answers[job.place] = generated_text(record)
                progress.set_postfix(self._totals.speed(), refresh=False)
                progress.update()
        progress.close()
        return [answer for answer in answers if answer is not None]

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse `--use_cache`: lm-eval's cache does not know the drafter."""
        raise ConfigError(NO_RESPONSE_CACHE)

    def finish_run(self, **further: Any) -> dict[str, Any]:
        """Close the folder with the run's totals, which are for lm-eval's results file too.

        `further` is what this model adds to them.
        """
        if self.world_size > 1:  # lm-eval asks rank 0 alone, once all have finished
            for record in read_records(self._folder.path):
                if record.generated_text is not None:
                    self._totals.add(record)
        totals = self._totals.as_dict() | further
        tokenizer = self.tokenizer
        self._folder.finish(totals, None if tokenizer is None else lambda: pieces_of(tokenizer))
        if self._totals.failures:
            self._totals.warn_of_failures()
            self.failed_runs.add(self._folder.path)
        if not self._totals.is_lossless:
            self._totals.warn_of_differences()
            self.failed_runs.add(self._folder.path)
        if self.rank == 0:
            if self._folder.path not in self.finished_runs:
                self.finished_runs.append(self._folder.path)
            if self.world_size == 1:  # else each process knows its share alone
                self._run_arguments.policy.warn_of_strangers()
            logger.warning("records: %s", self._folder.path)
            logger.warning("report:  specfair report %s", self._folder.path)
        return {"specfair": {"records_dir": str(self._folder.path), **totals}}


def _asked(prompts: Iterable[tuple[Job, list[int]]]) -> Iterator[AskedRequest]:
    """What is kept of jobs whose prompts' tokens are known."""
    for job, prompt in prompts:
        if prompt and not job.is_padding:
            yield AskedRequest(
                request_id=job.request.request_id,
                prompt_token_ids=prompt,
                max_new_tokens=job.request.stopping.max_new_tokens,
            )
