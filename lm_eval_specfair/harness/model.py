"""`--model specfair`: lm-eval's Hugging Face model with speculative decoding, and a record of it.

Loading, tokenising, chat templates and log-likelihoods are lm-eval's own (`HFLM`); this class
decodes `generate_until` requests with the project's engine, watches log-likelihood requests, and
writes one record a request.
"""

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from tqdm import tqdm
from transformers import PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.engine import Completion, Request
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.recovery import Decoded
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.distributed import agreed, let_cpus_share, own_place, own_share
from lm_eval_specfair.errors import NO_RESPONSE_CACHE, ConfigError
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.harness.batch_size import fastest_rows
from lm_eval_specfair.harness.decoder import Decoder, InProcess
from lm_eval_specfair.harness.generation import (
    Job,
    generated_text,
    generation_record,
    read_settings,
    split_for_baseline,
)
from lm_eval_specfair.harness.loglikelihood.scoring_model import ScoringLM
from lm_eval_specfair.harness.model_arguments import DRAFTERS_BY_NAME, Arguments
from lm_eval_specfair.harness.requests import request_ids
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.harness.totals import Totals
from lm_eval_specfair.records import RUN_FILE, read_records, read_run
from lm_eval_specfair.vllm.text_distributions import TextScores
from lm_eval_specfair.vllm.vllm_decoder import VllmDecoder, vllm_environment

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = 8
SHOWN_FAILURES = 5


@register_model("specfair")
class SpecFairLM(ScoringLM):
    """A target decoded with a drafter; see `Arguments` for what `--model_args` may hold.

    Attributes:
        finished_runs: Folders of the runs that came to their end in this process.
        failed_runs: Those among them in which requests failed.
    """

    finished_runs: ClassVar[list[Path]] = []
    failed_runs: ClassVar[set[Path]] = set()

    def __init__(self, pretrained: str | PreTrainedModel | None = None, **arguments: Any) -> None:
        """Load target and drafter and open the run's folder.

        Args:
            pretrained: The target: folder, hub id or loaded model; the embedded one by default.
            arguments: The contract's arguments, and those of `--model hf`.

        Raises:
            ConfigError: If an argument is unknown or wrong, or the pair cannot be decoded.
        """
        given = Arguments.read(pretrained, arguments)
        task_facts.watch(arguments)
        target: Any = given.target
        name = target if isinstance(target, str) else getattr(target, "name_or_path", "") or "model"
        hf_arguments = dict(given.for_hf)
        if isinstance(target, str):
            if not hf_arguments.get("gguf_file"):
                hf_arguments.setdefault("use_safetensors", True)
            let_cpus_share(hf_arguments.get("device"))
        self.weights_come_late = given.vllm is not None
        try:
            super().__init__(pretrained=target, backend="causal", **hf_arguments)
        except (OSError, ValueError) as error:
            raise loading.cannot_load("target", name, error) from error
        self._rank, self._world_size = own_place(getattr(self, "accelerator", None))
        self.model.eval()
        self._seed, self._num_baseline = given.seed, given.baseline
        self._policy = given.policy
        self._eos = loading.eos_token_ids(self.model, [self.eot_token_id])
        self._drafter_model: PreTrainedModel | None = None
        self._totals = Totals()
        self._given = given
        self._decoder: Decoder = self._in_process() if given.vllm is None else self._on_vllm()

        drafter = given.drafter if isinstance(given.drafter, str) else "model"
        settings = {
            **given.settings(),
            "target": loading.shown_name(name),
            "target_weights": loading.weights_digest(target, self.model),
            "drafter": loading.shown_name(drafter),
            "drafter_weights": self._drafter_weights(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "batch_size": self._decoder.most_rows,
        }
        hardware = loading.hardware(self.device)
        if self.world_size > 1:
            hardware["processes"] = self.world_size
        if given.vllm is not None:
            hardware["vllm_environment"] = vllm_environment()
        short = f"{Path(name).name}-{Path(drafter).name}"
        self._folder = RunFolder(
            given.records_dir,
            name=short,
            resume=given.resume,
            run={"settings": settings, "hardware": hardware},
            rank=self.rank,
            num_processes=self.world_size,
        )
        self.record_scores(self._folder, self._drafter_model)

    def _in_process(self) -> Decoder:
        target = CausalModel(self.model, role="target")
        drafter: Drafter
        if self._given.drafter == "none":
            drafter = NoDrafter(target.device)
        elif self._given.drafter == "prompt_lookup":
            drafter = PromptLookup(target.device)
        else:
            self._drafter_model = self._loaded_drafter()
            wrapped = CausalModel(self._drafter_model, role="drafter")
            drafter = ModelDrafter(wrapped, vocab_size=target.vocab_size)
        rows = self._rows_as_told() or self._rows_before()
        if rows is None:
            longest = max(1, self._policy.longest)
            rows = agreed(
                lambda: fastest_rows(target, drafter, longest), self._rank, self._world_size
            )
        return InProcess(target, drafter, rows=rows)

    def _on_vllm(self) -> Decoder:
        vllm = self._given.vllm
        assert vllm is not None
        if vllm.drafts_by_model:
            loading.check_same_tokenizer(self.tokenizer, str(self._given.drafter), **self._hub())
        scores = None
        if vllm.score_distributions:
            scores = TextScores(self._both_models, draws_drafts=vllm.draws_drafts)
        return VllmDecoder(
            vllm.engine
            | {
                "model": self._given.target,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "max_model_len": self.max_length,
            },
            vllm.speculation,
            # vLLM takes requests into its batch and holds them back by itself.
            rows=self._rows_as_told() or (256 if self.device.type == "cuda" else 8),
            longest=self._policy.longest,
            scores=scores,
        )

    def _hub(self) -> dict[str, Any]:
        names = ("trust_remote_code", "cache_dir", "token", "local_files_only")
        return {name: self._given.for_hf[name] for name in names if name in self._given.for_hf}

    def _loaded_drafter(self) -> PreTrainedModel:
        model: Any = self._given.drafter
        if isinstance(model, str):
            loading.check_same_tokenizer(self.tokenizer, model, **self._hub())
            kind = self.model.config.get_text_config(decoder=True)._attn_implementation
            model = loading.load_model(
                model, "drafter", dtype=self.model.dtype, attn_implementation=kind, **self._hub()
            )
            model = model.to(self.model.device)
        return model

    def _drafter_weights(self) -> str | None:
        """What tells the drafter's weights from others, whether they were loaded or not."""
        drafter = self._given.drafter
        if self._drafter_model is not None:
            return loading.weights_digest(drafter, self._drafter_model)
        if self._given.vllm is None or drafter in DRAFTERS_BY_NAME:
            return None
        return loading.digest_on_disk(str(drafter))

    def need_weights(self) -> None:
        """Have target and drafter in this process, to score texts with."""
        if not self.weights_come_late:
            return
        super().need_weights()
        vllm = self._given.vllm
        if self._drafter_model is None and vllm is not None and vllm.drafts_by_model:
            self._drafter_model = self._loaded_drafter()
            self.measure(self._drafter_model)

    def _both_models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        self.need_weights()
        assert self._drafter_model is not None
        return self.model, self._drafter_model

    # ------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode requests; texts come back in their order, one record each goes to the folder."""
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
        progress = tqdm(
            total=len(requests),
            initial=len(requests) - len(jobs),
            disable=disable_tqdm or self.rank != 0,
            desc="Decoding",
            unit="request",
        )
        self._totals.begin()
        with self._folder.interruptible():
            for job, done, plain in self._decoder.faults.single_faults(self._decoded(jobs)):
                text = self._text(job, done.token_ids)
                record = generation_record(job, done, text, plain, drafts=self._decoder.drafts)
                if job.name is not None:
                    self._folder.write(record)
                    self._totals.add(record)
                answers[job.place] = generated_text(record)
                progress.set_postfix(self._totals.speed(), refresh=False)
                progress.update()
        progress.close()
        return [answer for answer in answers if answer is not None]

    def _jobs(self, requests: list[Instance]) -> Iterator[Job]:
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        for place, (instance, name) in enumerate(zip(requests, request_ids(requests), strict=True)):
            context, gen_kwargs = instance.args
            wanted = read_settings(
                gen_kwargs,
                default_max_tokens=self.max_gen_toks,
                num_speculative_tokens=self._policy.longest,
                seed=self._seed,
            )
            room = self.max_length - wanted.max_new_tokens
            if room < 1:
                raise ConfigError(
                    f"max_gen_toks {wanted.max_new_tokens} leaves no room for the prompt in a "
                    f"context of {self.max_length} tokens; lower it with --gen_kwargs"
                )
            tokens, error = [], None
            try:
                encoded, _ = self.tok_batch_encode(
                    [context], left_truncate_len=room, truncation=self.truncation
                )
                tokens = encoded[0].tolist()
            except Exception as raised:  # a text that the tokenizer cannot read fails alone
                error = raised
            stopping = Stopping(
                max_new_tokens=wanted.max_new_tokens,
                eos_token_ids=self._eos,
                stop_strings=(*wanted.stop_strings, eos),
                decode=self._decode_all,
            )
            request = Request(
                request_id=name or f"padding/{place}",
                prompt=[int(token) for token in tokens] or [self.prefix_token_id],
                stopping=stopping,
                num_speculative_tokens=self._policy.tokens_for(instance),
            )
            yield Job(
                place=place,
                name=name,
                instance=instance,
                config=wanted.config,
                request=request,
                error=error,
            )

    def _decode_all(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _text(self, job: Job, tokens: list[int]) -> str:
        """The text as `--model hf` would hand it to lm-eval."""
        think_end = self.think_end_token
        if isinstance(think_end, int) and think_end in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(think_end) :]
            text = self.tok_decode(tokens).lstrip()
        else:
            text = self.tok_decode(tokens)
        return str(
            postprocess_generated_text(
                generation=text,
                stop=list(job.request.stopping.stop_strings),
                think_end_token=think_end if isinstance(think_end, str) else None,
            )
        )

    def _rows_as_told(self) -> int | None:
        """Rows decoded together, or None for `auto`."""
        return max(1, self.batch_size) if isinstance(self.batch_size, int) else None

    def _rows_before(self) -> int | None:
        """What `auto` came to in the run that is taken up: its requests ran so."""
        folder = self._given.records_dir
        if not self._given.resume or folder is None or not (Path(folder) / RUN_FILE).is_file():
            return None
        rows = read_run(Path(folder)).get("settings", {}).get("batch_size")
        return rows if isinstance(rows, int) and rows > 0 else None

    def _decoded(self, jobs: list[Job]) -> Iterator[Decoded[Job]]:
        """Decode jobs of any configurations."""
        good = [job for job in jobs if job.error is None]
        good.sort(key=lambda job: repr(job.config))
        for _, same in groupby(good, key=lambda job: job.config):
            yield from self._decode(list(same))
        for job in jobs:
            if job.error is not None:
                yield job, self._decoder.faults.give_up(job.request, job.error), None

    def _decode(self, jobs: list[Job]) -> Iterator[Decoded[Job]]:
        """Decode jobs of one configuration; those of the baseline twice, paired."""
        decoder, config = self._decoder, jobs[0].config
        if decoder.drafts and self._num_baseline:
            paired, rest = split_for_baseline(jobs, self._baseline_left, decoder.most_rows)
        else:
            paired, rest = [], list(jobs)
        if paired:
            self._warm_up(config, paired[0])
        for number, chunk in enumerate(paired):
            # Plain and speculative take turns in going first, so that a machine that gets slower
            # or faster favours neither.
            if number % 2:
                speculative = self._run(config, chunk)
                plain = self._run(config, chunk, plain=True)
            else:
                plain = self._run(config, chunk, plain=True)
                speculative = self._run(config, chunk)
            for job in chunk:
                yield job, speculative[job.place], plain[job.place]
        by_name = {job.request.request_id: job for job in rest}
        # The longest first: rows that start last are then short, and the batch empties evenly.
        rest.sort(key=lambda job: -len(job.request.prompt))
        requests = [job.request for job in rest]
        for done in decoder.completions(config, requests):
            yield by_name[done.request.request_id], done, None

    def _run(
        self, config: DecodeConfig, jobs: list[Job], *, plain: bool = False
    ) -> dict[int, Completion]:
        requests = [job.request for job in jobs]
        done = {
            each.request.request_id: each
            for each in self._decoder.completions(config, requests, plain=plain)
        }
        return {job.place: done[job.request.request_id] for job in jobs}

    def _baseline_left(self, task: str) -> int | None:
        """Requests of a task still to be paired (a resumed run has some already)."""
        if self._num_baseline == "all":
            return None
        earlier = self._folder.done.values()
        had = sum(each.task == task and each.baseline_seconds is not None for each in earlier)
        return own_share(max(0, self._num_baseline - had), self.rank, self.world_size)

    def _warm_up(self, config: DecodeConfig, chunk: list[Job]) -> None:
        """Let both ways of decoding meet their first-time costs before they are timed."""
        stopping = Stopping(max_new_tokens=WARM_UP_TOKENS)
        requests = [
            Request(request_id=f"warm-up/{job.place}", prompt=job.request.prompt, stopping=stopping)
            for job in chunk
        ]
        for plain in (True, False):
            for _ in self._decoder.completions(config, requests, plain=plain):
                pass

    # ------------------------------------------------------------------ lm-eval's other calls

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse `--use_cache`.

        Raises:
            ConfigError: Always, since lm-eval's cache does not know the drafter.
        """
        raise ConfigError(NO_RESPONSE_CACHE)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval's facts, and this run's totals; lm-eval asks for them when the run is done."""
        info: dict[str, Any] = super().get_model_info()
        if self.world_size > 1:  # lm-eval asks rank 0 alone, once all have come to their end
            for record in read_records(self._folder.path):
                if record.generated_text is not None:
                    self._totals.add(record)
        totals = self._totals.as_dict()
        self._folder.finish(totals)
        for name, reason in list(self._totals.failures.items())[:SHOWN_FAILURES]:
            logger.warning("failed, and left out of all figures: %s: %s", name, reason)
        if len(self._totals.failures) > SHOWN_FAILURES:
            logger.warning("failed in all: %d requests", len(self._totals.failures))
        if self._totals.failures:
            self.failed_runs.add(self._folder.path)
        if self.rank == 0:
            if self._folder.path not in self.finished_runs:
                self.finished_runs.append(self._folder.path)
            logger.warning("records: %s", self._folder.path)
            logger.warning("report:  specfair report %s", self._folder.path)
        return {**info, "specfair": {"records_dir": str(self._folder.path), **totals}}
