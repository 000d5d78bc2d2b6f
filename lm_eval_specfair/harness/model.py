"""`--model specfair`: lm-eval's Hugging Face model, decoding speculatively and on record."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from tqdm import tqdm
from transformers import PreTrainedModel

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.decoder import Decoder
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.distributed import let_cpus_share, own_place, own_share
from lm_eval_specfair.errors import NO_RESPONSE_CACHE, ConfigError
from lm_eval_specfair.harness import backends
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.harness.generation import generated_text, generation_record, read_settings
from lm_eval_specfair.harness.jobs.lossless_check import LosslessCheck
from lm_eval_specfair.harness.jobs.paired_decoder import PairedDecoder
from lm_eval_specfair.harness.loglikelihood.scoring_model import ScoringLM
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.harness.requests import Job, request_ids
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.harness.totals import Totals
from lm_eval_specfair.records import read_records
from lm_eval_specfair.records.requests_file import AskedRequest
from lm_eval_specfair.vllm.vllm_decoder import vllm_environment

logger = logging.getLogger(__name__)


@register_model("specfair")
class SpecFairLM(ScoringLM):
    """A target decoded with a drafter; see `Arguments` for what `--model_args` may hold.

    Loading the target, tokenizing, chat templates and log-likelihoods are lm-eval's own (`HFLM`).

    Attributes:
        finished_runs: Folders of the runs that this process finished.
        failed_runs: Those among them in which requests failed, or that were not lossless.
    """

    finished_runs: ClassVar[list[Path]] = []
    failed_runs: ClassVar[set[Path]] = set()

    def __init__(self, pretrained: str | PreTrainedModel | None = None, **arguments: Any) -> None:
        """Load target (by default the embedded one) and drafter and open the run's folder.

        Raises:
            ConfigError: If an argument is unknown or wrong, or the pair cannot be decoded.
        """
        self._arguments = given = Arguments.read(pretrained, arguments)
        task_facts.watch(arguments)
        let_cpus_share(given.for_hf.get("device"))
        self.weights_come_late = given.vllm is not None
        self.quantization = given.quantization
        self.AUTO_MODEL_CLASS = backends.examined(given)
        try:
            super().__init__(pretrained=given.target, backend="causal", **given.for_target())
        except (OSError, ValueError) as error:
            raise loading.cannot_load("target", given.target_name, error) from error
        self.model.eval()
        self._rank, self._world_size = own_place(getattr(self, "accelerator", None))
        self._eos = loading.eos_token_ids(self.model, [self.eot_token_id])
        self._drafter: backends.LoadedDrafter | None = None
        self._decoder = self._make_decoder()
        self._paired = PairedDecoder(self._decoder, self._num_pairs, seed=given.seed)
        has_no_own_pass = self.weights_come_late or self._decoder.steps_differ
        own_pass = None if has_no_own_pass else self.model
        self._check = LosslessCheck(own_pass, self._num_checks, seed=given.seed)
        self._totals = Totals()
        self._folder = self._open_folder()
        self.record_scores(self._folder, self._drafter.as_scorer if self._drafter else None)

    # ------------------------------------------------------------------ loading

    def _make_decoder(self) -> Decoder:
        given = self._arguments
        max_rows = max(1, self.batch_size) if isinstance(self.batch_size, int) else None
        if given.vllm is not None:
            return backends.on_vllm(
                given, self.model, self.tokenizer, max_rows=max_rows, max_length=self.max_length,
                device=self.device.type, load_models=self._both_models,
            )  # fmt: skip
        if given.drafts_by_model:
            self._drafter = backends.load_drafter(given, self.model, self.tokenizer)
        return backends.in_process(
            given, self.model, self.tokenizer, self._drafter,
            max_rows=max_rows, rank=self.rank, num_processes=self.world_size,
        )  # fmt: skip

    def _open_folder(self) -> RunFolder:
        given = self._arguments
        drafter = given.drafter if isinstance(given.drafter, str) else "model"
        settings = {
            **given.settings(),
            "target": loading.shown_name(given.target_name),
            "target_weights": weights_digest(given.target, self.model, given.for_hf),
            "drafter": loading.shown_name(drafter),
            "drafter_weights": backends.drafter_weights(given, self._drafter),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "batch_size": self._decoder.max_rows,
            **given.loading_settings(),
        }
        if self._drafter is not None and self._drafter.vocabulary is not None:
            settings["drafter_vocabulary"] = self._drafter.vocabulary.settings()
        hardware = loading.hardware(self.device)
        if self.world_size > 1:
            hardware["processes"] = self.world_size
        if given.vllm is not None:
            hardware["vllm_environment"] = vllm_environment()
        return RunFolder(
            given.records_dir,
            name=f"{Path(given.target_name).name}-{Path(drafter).name}",
            resume=given.resume,
            run={"settings": settings, "hardware": hardware, "states": self._decoder.states},
            rank=self.rank,
            num_processes=self.world_size,
        )

    def need_weights(self) -> None:
        """Have target and drafter in this process, to score texts with."""
        if not self.weights_come_late:
            return
        super().need_weights()
        vllm = self._arguments.vllm
        if self._drafter is None and vllm is not None and vllm.drafts_by_model:
            self._drafter = backends.load_drafter(self._arguments, self.model, self.tokenizer)
            self.measure(self._drafter.as_scorer)

    def _both_models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        self.need_weights()
        assert self._drafter is not None
        return self.model, self._drafter.model

    def _num_pairs(self, task: str) -> int | None:
        """Requests of a task still to be decoded both ways; None for all.

        A resumed run has some already, and processes share the number.
        """
        return self._still_to_do(task, self._arguments.baseline, "baseline_seconds")

    def _num_checks(self, task: str) -> int | None:
        """Requests of a task still to be held against the target's own pass; None for all."""
        return self._still_to_do(task, self._arguments.lossless_checks, "plain_pass_tokens")

    def _still_to_do(self, task: str, wanted: int | Literal["all"], field: str) -> int | None:
        if wanted == "all":
            return None
        done = sum(
            record.task == task and getattr(record, field) is not None
            for record in self._folder.done.values()
        )
        return own_share(max(0, wanted - done), self.rank, self.world_size)

    # ------------------------------------------------------------------ generation

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
        self._folder.note(
            AskedRequest(
                request_id=job.request.request_id,
                prompt_token_ids=job.request.prompt,
                max_new_tokens=job.request.stopping.max_new_tokens,
            )
            for job in jobs
            if not job.is_padding
        )
        progress = tqdm(
            total=len(requests), initial=len(requests) - len(jobs),
            disable=disable_tqdm or self.rank != 0, desc="Decoding", unit="request",
        )  # fmt: skip
        self._totals.begin()
        self._check.choose(jobs)
        with self._folder.interruptible():
            for decoded in self._paired.decode(jobs):
                job, text = decoded.job, self._text(decoded.job, decoded.completion.token_ids)
                record = generation_record(
                    decoded,
                    text,
                    drafts=self._decoder.drafts,
                    checks=self._check.fields(decoded) | backends.covered(self._drafter, decoded),
                )
                if not job.is_padding:
                    self._folder.write(record)
                    self._totals.add(record)
                answers[job.place] = generated_text(record)
                progress.set_postfix(self._totals.speed(), refresh=False)
                progress.update()
        progress.close()
        return [answer for answer in answers if answer is not None]

    def _jobs(self, requests: list[Instance]) -> Iterator[Job]:
        policy = self._arguments.policy
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        for place, (instance, name) in enumerate(zip(requests, request_ids(requests), strict=True)):
            context, gen_kwargs = instance.args
            settings = read_settings(
                gen_kwargs,
                default_max_tokens=self.max_gen_toks,
                num_speculative_tokens=policy.longest,
                seed=self._arguments.seed,
                verification=self._arguments.verification,
            )
            room = self.max_length - settings.max_new_tokens
            if room < 1:
                raise ConfigError(
                    f"max_gen_toks {settings.max_new_tokens} leaves no room for the prompt in a "
                    f"context of {self.max_length} tokens; lower it with --gen_kwargs"
                )
            prompt: list[int] = []
            error = None
            try:
                encoded, _ = self.tok_batch_encode(
                    [context], left_truncate_len=room, truncation=self.truncation
                )
                prompt = [int(token) for token in encoded[0]]
            except Exception as raised:  # a text that the tokenizer cannot read fails alone
                error = raised
            request = Request(
                request_id=name or f"padding/{place}",
                prompt=prompt or [self.prefix_token_id],
                stopping=Stopping(
                    max_new_tokens=settings.max_new_tokens,
                    eos_token_ids=self._eos,
                    stop_strings=(*settings.stop_strings, eos),
                    decode=self._decode_all,
                ),
                num_speculative_tokens=policy.tokens_for(instance),
            )
            yield Job(
                place=place, instance=instance, request=request, config=settings.config,
                is_padding=name is None, error=error,
            )  # fmt: skip

    def _decode_all(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _text(self, job: Job, tokens: list[int]) -> str:
        """The text as `--model hf` would hand it to lm-eval."""
        think_end = self.think_end_token
        if isinstance(think_end, int):
            if think_end in tokens:
                tokens = tokens[len(tokens) - tokens[::-1].index(think_end) :]
            text = self.tok_decode(tokens).lstrip()  # as lm-eval does, found or not
        else:
            text = self.tok_decode(tokens)
        return str(
            postprocess_generated_text(
                generation=text,
                stop=list(job.request.stopping.stop_strings),
                think_end_token=think_end if isinstance(think_end, str) else None,
            )
        )

    # ------------------------------------------------------------------ lm-eval's other calls

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse `--use_cache`: lm-eval's cache does not know the drafter."""
        raise ConfigError(NO_RESPONSE_CACHE)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval's facts, and this run's totals; lm-eval asks for them when the run is done."""
        info: dict[str, Any] = super().get_model_info()
        if self.world_size > 1:  # lm-eval asks rank 0 alone, once all have finished
            for record in read_records(self._folder.path):
                if record.generated_text is not None:
                    self._totals.add(record)
        totals = self._totals.as_dict()
        self._folder.finish(totals)
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
                self._arguments.policy.warn_of_strangers()
            logger.warning("records: %s", self._folder.path)
            logger.warning("report:  specfair report %s", self._folder.path)
        return {**info, "specfair": {"records_dir": str(self._folder.path), **totals}}
