"""The arguments of `--model_args`, read and checked before anything is loaded."""

import difflib
import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from lm_eval_specfair.config import Verification
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTERS, EMBEDDED_TARGET, shown_name
from lm_eval_specfair.decoding.vocabularies.choice import METHODS
from lm_eval_specfair.decoding.weight_digests import loading_settings
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.argument_values import (
    BITSANDBYTES,
    check_batch_size,
    check_device,
    check_dtype,
    check_max_length,
    default_device,
    read_count,
    read_count_or_all,
    read_drafter,
    read_flag,
    read_judging,
    read_quantization,
)
from lm_eval_specfair.harness.draft_policy import DraftPolicy, read_policy_argument
from lm_eval_specfair.vllm.engine_arguments import (
    FOR_TOKENISING,
    IN_SHARES,
    VllmArguments,
    read_vllm,
)
from lm_eval_specfair.vllm.vllm_engine import engine_arguments

OWN_ARGUMENTS = [
    "pretrained", "drafter", "num_speculative_tokens", "backend", "baseline", "records_dir",
    "resume", "seed", "lossless_checks", "drafter_vocabulary", "drafter_gguf_file", "drafter_peft",
    "speculative_config", "score_distributions", "verification", "drafter_temperature",
]  # fmt: skip
# Further arguments of `from_pretrained`, which `--model hf` passes on.
LOADING = [
    "attn_implementation", "cache_dir", "device_map", "force_download", "local_files_only",
    "low_cpu_mem_usage", "max_memory", "offload_state_dict", "proxies", "quantization_config",
    "token", "use_safetensors", "variant", "weights_only", *BITSANDBYTES,
]  # fmt: skip
VLLM_ONLY = ("speculative_config", "score_distributions")


def _known() -> list[str]:
    for_hf = inspect.signature(HFLM.__init__).parameters
    passed_on = (name for name in for_hf if name not in ("self", "kwargs", *OWN_ARGUMENTS))
    return [*OWN_ARGUMENTS, *passed_on, *LOADING]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """The arguments of a run.

    Attributes:
        target: Folder, hub id or loaded model.
        drafter: Loaded model, a policy's file, or a name (`decoding.composed.named_drafters`).
        policy: Tokens drafted per step, one number or one for each group.
        baseline: Requests per task also decoded without the drafter; `all`, or 0 for none.
        lossless_checks: Greedy requests per task held against the target's own plain pass; `all`,
            or 0 for none.
        records_dir: The run's folder; None for a new one under `results/`.
        resume: Whether to reuse what a killed run left there.
        verification: How sampled drafts are judged: by `token` or by `block`.
        drafter_temperature: The drafter's own where texts are sampled; None: the texts'.
        seed: Each request's own generator is derived from it and the request.
        for_hf: Everything else, for lm-eval's Hugging Face model.
        vllm: The arguments of `backend=vllm`, else None.
        drafter_vocabulary: How a drafter with another tokenizer drafts: `auto`, `intersection`
            (through the tokens that both have) or `text`.
        for_drafter: How the drafter's weights are loaded: `gguf_file`, `peft`.
    """

    target: str | PreTrainedModel
    drafter: str | PreTrainedModel
    policy: DraftPolicy
    baseline: int | Literal["all"]
    lossless_checks: int | Literal["all"]
    records_dir: str | None
    resume: bool
    seed: int
    for_hf: dict[str, Any]
    vllm: VllmArguments | None = None
    drafter_vocabulary: str = "auto"
    for_drafter: dict[str, str] = field(default_factory=dict)
    verification: Verification = "token"
    drafter_temperature: float | None = None

    @classmethod
    def read(cls, pretrained: str | PreTrainedModel | None, given: dict[str, Any]) -> "Arguments":
        """Read and check the target (None: the embedded one) and what else lm-eval parsed.

        Raises:
            ConfigError: If one is unknown, missing or wrong.
        """
        backend = given.get("backend", "hf")
        if backend not in ("hf", "vllm"):
            raise ConfigError(
                f"backend must be hf (in this process), vllm or server, got {backend!r}"
            )
        on_vllm = backend == "vllm"
        known = [*_known(), *(sorted(engine_arguments()) if on_vllm else ())]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                own = f"of this package are {', '.join(OWN_ARGUMENTS)}."
                hint = f"did you mean {close[0]}?" if close else own
                raise ConfigError(f"unknown model argument {name!r}; {hint}")
        rest = {name: value for name, value in given.items() if name not in OWN_ARGUMENTS}
        if on_vllm:
            _refuse_what_vllm_cannot(pretrained, given)
        elif wrong := [name for name in VLLM_ONLY if name in given]:
            raise ConfigError(f"{wrong[0]} is for backend=vllm only")
        if rest.get("mixed_precision_dtype") is not None:
            raise ConfigError(
                "mixed_precision_dtype is not supported; load the models in one type with "
                "dtype=bfloat16 (or float16, float32)"
            )
        if rest.get("tp_plan") is not None:
            raise ConfigError(
                "tp_plan is not supported; a model that needs several devices is loaded with "
                "parallelize=True, and processes that share a run each hold all of it"
            )
        if rest.get("device") is not None:
            check_device(rest["device"])
        check_dtype(rest.get("dtype"))
        check_batch_size(rest.get("batch_size"))
        check_max_length(rest.get("max_length"))
        target = str(EMBEDDED_TARGET) if pretrained in (None, "", "embedded") else pretrained
        is_embedded = target == str(EMBEDDED_TARGET)
        drafter = given.get("drafter")
        if drafter is None and is_embedded:
            drafter = "embedded"
        extra = given.get("speculative_config")
        if drafter is None and not (isinstance(extra, dict) and {"model", "method"} & set(extra)):
            raise ConfigError(
                "a drafter is required with this target: pass drafter=PATH_OR_HUB_ID (a small "
                "model with the target's tokenizer), drafter=prompt_lookup or drafter=none"
            )
        if isinstance(drafter, str) and drafter in EMBEDDED_DRAFTERS:
            drafter = str(EMBEDDED_DRAFTERS[drafter])
        kinds = (str, type(None)) if on_vllm else (str, PreTrainedModel)
        if not isinstance(drafter, kinds):
            raise ConfigError(f"drafter must be a path, a hub id or a name, got {drafter!r}")
        vocabulary = str(given.get("drafter_vocabulary", "auto"))
        if vocabulary not in METHODS:
            raise ConfigError(
                f"drafter_vocabulary must be one of {', '.join(METHODS)}, got {vocabulary!r}"
            )
        named = read_drafter(drafter, on_vllm=on_vllm)
        is_model = named is None or named.model is not None
        if vocabulary != "auto" and (on_vllm or not is_model):
            raise ConfigError(
                f"drafter_vocabulary={vocabulary} is for a drafting model decoded in this process "
                "(backend=hf); leave it out"
            )
        for_drafter = {
            name: str(given[f"drafter_{name}"])
            for name in ("gguf_file", "peft")
            if given.get(f"drafter_{name}")
        }
        if for_drafter and (on_vllm or not isinstance(drafter, str) or not is_model):
            raise ConfigError(
                f"drafter_{next(iter(for_drafter))} is for a drafting model that is loaded into "
                "this process (backend=hf) from a folder or hub id; leave it out"
            )
        policy = read_policy_argument(given, drafter)
        seed = read_count("seed", given.get("seed", 0))
        records_dir = given.get("records_dir")
        vllm = None
        if on_vllm:
            scored = read_flag("score_distributions", given.get("score_distributions", False))
            if extra is not None:
                rest["speculative_config"] = extra
            vllm, rest = read_vllm(rest, drafter, score_distributions=scored, seed=seed)
            drafter = drafter or str((extra or {}).get("model") or (extra or {}).get("method"))
        return cls(
            target=target,
            drafter=drafter,
            policy=policy,
            baseline=read_count_or_all("baseline", given.get("baseline", 8)),
            lossless_checks=read_count_or_all("lossless_checks", given.get("lossless_checks", 2)),
            records_dir=None if records_dir is None else str(records_dir),
            resume=read_flag("resume", given.get("resume", False)),
            seed=seed,
            for_hf=rest,
            vllm=vllm,
            drafter_vocabulary=vocabulary,
            for_drafter=for_drafter,
            **read_judging(given, named, on_vllm=on_vllm),
        )

    @property
    def target_name(self) -> str:
        """Folder or hub id, as far as it is known."""
        target = self.target
        return target if isinstance(target, str) else getattr(target, "name_or_path", "") or "model"

    @property
    def drafter_name(self) -> str:
        """The drafter's name, or those of a policy's drafters."""
        if self.policy.routes:
            names = self.policy.drafter_names
            return f"{Path(str(self.drafter)).name} ({', '.join(map(shown_name, names))})"
        if not isinstance(self.drafter, str) or self.vllm is not None:
            return self.drafter if isinstance(self.drafter, str) else "model"
        return DrafterName.read(self.drafter).shown

    @property
    def named_drafters(self) -> dict[str, DrafterName]:
        """The drafters that have a name, by it; the default's first."""
        if self.policy.routes:
            file, names = str(self.drafter), self.policy.drafter_names
            return {name: DrafterName.read(name, beside=file) for name in names}
        if not isinstance(self.drafter, str):
            return {}
        return {self.drafter: DrafterName.read(self.drafter)}

    @property
    def drafting_models(self) -> dict[str, str | PreTrainedModel]:
        """The drafters that are models: what to load, by name; the default's first."""
        if not isinstance(self.drafter, str):
            return {"model": self.drafter}
        named = self.named_drafters.items()
        return {name: drafter.model for name, drafter in named if drafter.model is not None}

    def for_target(self) -> dict[str, Any]:
        """Arguments of lm-eval's Hugging Face model; weights from safetensors unless told."""
        elsewhere = ("device", "quantization_config", *BITSANDBYTES)
        given = {name: value for name, value in self.for_hf.items() if name not in elsewhere}
        given |= default_device(self.for_hf.get("device"))
        if not isinstance(self.target, str) or self.for_hf.get("gguf_file"):
            return given
        return {"use_safetensors": True} | given

    @property
    def quantization(self) -> Any:
        """How the target is quantised as it is loaded: an object of transformers', or None."""
        return read_quantization(self.for_hf)

    def for_hub(self) -> dict[str, Any]:
        """Arguments with which all of the run's models and tokenizers are found."""
        names = ("trust_remote_code", "cache_dir", "token", "local_files_only")
        return {name: self.for_hf[name] for name in names if name in self.for_hf}

    def loading_settings(self) -> dict[str, Any]:
        """How the models' weights are loaded, where that is not the plain way; for `run.json`."""
        found = {
            "target_loading": loading_settings(self.for_hf),
            "drafter_loading": loading_settings(self.for_drafter),
        }
        return {name: settings for name, settings in found.items() if settings}

    def settings(self) -> dict[str, Any]:
        """Settings that must be the same in a run that is resumed, besides the models'."""
        common = {
            "backend": "hf" if self.vllm is None else "vllm",
            "num_speculative_tokens": self.policy.settings(),
            "baseline": self.baseline,
            "seed": self.seed,
        }
        if self.policy.routes:
            common["routes"] = self.policy.drafter_settings()
        for name, usual in (("verification", "token"), ("drafter_temperature", None)):
            if (value := getattr(self, name)) != usual:
                common[name] = value
        return common if self.vllm is None else common | self.vllm.settings()


def _refuse_what_vllm_cannot(pretrained: object, given: dict[str, Any]) -> None:
    """Refuse arguments about models loaded into this process."""
    for role, model in (("pretrained", pretrained), ("drafter", given.get("drafter"))):
        if isinstance(model, PreTrainedModel):
            raise ConfigError(
                f"backend=vllm reads models from disk: {role} must be a folder or a hub id, not a "
                "loaded model"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "backend=vllm is one process that starts its own (tensor_parallel_size): instead of "
            f"torchrun or accelerate launch, {IN_SHARES}"
        )
    known = engine_arguments()
    for name in given:
        if name not in (*OWN_ARGUMENTS, *FOR_TOKENISING) and name not in known:
            raise ConfigError(
                f"{name} loads a model into this process; with backend=vllm use vLLM's arguments "
                "(quantization, tensor_parallel_size, load_format, ...), which are passed on"
            )
