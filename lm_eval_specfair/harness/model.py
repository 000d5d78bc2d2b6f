"""`--model specfair`: lm-eval's Hugging Face model, decoding speculatively and on record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from transformers import PreTrainedModel

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.decoder import Decoder
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.distributed import agreed, let_cpus_share, own_place
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness import backends
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.harness.drafters.loaded_drafters import (
    LoadedDrafters,
    covered,
    drafter_weights,
    fitted_requests,
    load_drafters,
    vocabulary_settings,
)
from lm_eval_specfair.harness.generation import read_settings
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.loglikelihood.scoring_model import ScoringLM
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.harness.recording.auto_length import fastest_length
from lm_eval_specfair.harness.recording.recorded_model import RecordedLM
from lm_eval_specfair.harness.requests import Job, request_ids
from lm_eval_specfair.harness.run_folder import RunFolder, settled_length
from lm_eval_specfair.harness.served.served_model import ServedLM
from lm_eval_specfair.vllm.vllm_decoder import vllm_environment


@register_model("specfair")
class SpecFairLM(RecordedLM, ScoringLM):
    """A target decoded with a drafter; see `Arguments` for what `--model_args` may hold.

    Loading the target, tokenizing, chat templates and log-likelihoods are lm-eval's own (`HFLM`).
    """

    def __new__(cls, *_: Any, **arguments: Any) -> Any:
        """A `ServedLM` with `backend=server`: nothing of that model is in this process."""
        if arguments.get("backend") == "server":
            return ServedLM(**arguments)
        return super().__new__(cls)

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
        self._drafters: LoadedDrafters = {}
        self._decoder = self._make_decoder()
        has_no_own_pass = self.weights_come_late or self._decoder.steps_differ
        own_pass = None if has_no_own_pass else self.model
        self.record_texts(self._decoder, self._open_folder(), given, own_pass=own_pass)
        self.record_scores(self._folder, self._scorer)

    # ------------------------------------------------------------------ loading

    def _make_decoder(self) -> Decoder:
        given = self._arguments
        max_rows = max(1, self.batch_size) if isinstance(self.batch_size, int) else None
        if given.vllm is not None:
            return backends.on_vllm(
                given, self.model, self.tokenizer, max_rows=max_rows, max_length=self.max_length,
                device=self.device.type, load_models=self._both_models,
            )  # fmt: skip
        self._drafters = load_drafters(given, self.model, self.tokenizer)
        return backends.in_process(
            given, self.model, self.tokenizer, self._drafters,
            max_rows=max_rows, rank=self.rank, num_processes=self.world_size,
        )  # fmt: skip

    def _open_folder(self) -> RunFolder:
        given = self._arguments
        is_open = given.policy.is_auto and given.resume
        settled = settled_length(given.records_dir) if is_open else {}
        if settled:
            policy = DraftPolicy(default=settled["num_speculative_tokens"])
            self._arguments = given = replace(given, policy=policy)
        drafter = given.drafter_name
        target_weights = weights_digest(given.target, self.model, given.for_hf)
        given.policy.refuse_other_target(target_weights)
        settings = {
            **given.settings(),
            "target": loading.shown_name(given.target_name),
            "target_weights": target_weights,
            "drafter": loading.shown_name(drafter),
            "drafter_weights": drafter_weights(given, self._drafters),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "batch_size": self._decoder.max_rows,
            **given.loading_settings(),
            **settled,
        }
        settings |= vocabulary_settings(self._drafters)
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
        if not self._drafters and vllm is not None and vllm.drafts_by_model:
            self._drafters = load_drafters(self._arguments, self.model, self.tokenizer)
            self.measure(self._scorer)

    @property
    def _scorer(self) -> PreTrainedModel | None:
        """The drafter that scores texts beside the target: the default one of several."""
        first = next(iter(self._drafters.values()), None)
        return None if first is None else first.as_scorer

    def _both_models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        self.need_weights()
        [drafter] = self._drafters.values()
        return self.model, drafter.model

    # ------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode requests; where the draft length is `auto`, the first ones decide it."""
        if self._arguments.policy.is_auto and requests:
            self._settle_length(requests)
        return super().generate_until(requests, disable_tqdm)

    def _settle_length(self, requests: list[Instance]) -> None:
        given = self._arguments
        choice = agreed(
            lambda: fastest_length(self._decoder, list(self._jobs(requests)), seed=given.seed),
            self.rank,
            self.world_size,
        )
        choice.log()
        self._arguments = replace(given, policy=DraftPolicy(default=choice.length))
        self._run_arguments = self._arguments
        self._folder.settle(num_speculative_tokens=choice.length, auto_length=choice.to_json())

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
                drafter_temperature=self._arguments.drafter_temperature,
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
            num_drafted, drafter = policy.drafting_for(instance)
            request = Request(
                request_id=name or f"padding/{place}",
                prompt=prompt or [self.prefix_token_id],
                stopping=Stopping(
                    max_new_tokens=settings.max_new_tokens,
                    eos_token_ids=self._eos,
                    stop_strings=(*settings.stop_strings, eos),
                    decode=self._decode_all,
                ),
                num_speculative_tokens=num_drafted,
                drafter=drafter,
                drafter_temperature=policy.temperature_for(instance, settings.config),
            )
            yield Job(
                place=place, instance=instance, request=request, config=settings.config,
                is_padding=name is None, error=error,
            )  # fmt: skip

    def _decode_all(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _text(self, job: Job, completion: Completion) -> str:
        """The text as `--model hf` would hand it to lm-eval."""
        tokens, think_end = completion.token_ids, self.think_end_token
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

    def _further_fields(self, decoded: Decoded) -> dict[str, Any]:
        return covered(self._drafters, decoded)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval's facts, and this run's totals; lm-eval asks for them when the run is done."""
        named = list(self._arguments.named_drafters.values())
        fitted = fitted_requests(named, self._folder.path)
        return {**super().get_model_info(), **self.finish_run(**fitted)}
