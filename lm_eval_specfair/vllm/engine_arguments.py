"""The arguments of `backend=vllm`: which go to vLLM, which to lm-eval, which are flagged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_specfair.decoding.heads.head_config import KIND, head_settings
from lm_eval_specfair.decoding.loading import shown_name
from lm_eval_specfair.errors import ConfigError

# Arguments with which lm-eval tokenizes as for `--model hf`; the others of HFLM are about loading a
# model into this process.
_NAMES = """
add_bos_token batch_size chat_template_args device dtype enable_thinking logits_cache max_batch_size
max_length prefix_token_id revision softmax_dtype think_end_token tokenizer truncation
trust_remote_code use_fast_tokenizer
"""
FOR_TOKENISING = frozenset(_NAMES.split())
FOR_BOTH = frozenset({"revision", "tokenizer", "trust_remote_code"})
# Arguments that this backend sets itself, and what to use instead.
OWN = {
    "model": "pretrained",
    "max_num_seqs": "--batch_size",
    "generation_config": "the task's generation_kwargs",
    "per_request_spec_decode_metrics": "nothing: it is always on",
    "scheduler_cls": "nothing: this backend needs a scheduler of its own",
    "skip_tokenizer_init": "nothing: stops need the tokenizer",
    "disable_log_stats": "nothing: counts come with each request",
}
# The way to share one run among several processes.
IN_SHARES = (
    "start a command for each share of the tasks, with a records_dir of its own, and read them "
    "together: specfair report RUN_A RUN_B"
)
NGRAM = {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}
# Ways to accept, or to choose draft lengths, other than those that this package's metrics describe.
_LOSSY = {"rejection_sample_method": ("synthetic",)}
_OTHER_RULE = {"rejection_sample_method": ("block",), "draft_sample_method": ("greedy",)}
_ADAPTIVE = ("num_speculative_tokens_per_batch_size", "enable_adaptive_verification")
_DOUBTFUL_WORDS = ("accept", "threshold", "typical", "synthetic")


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmArguments:
    """Arguments of a run on vLLM, besides the contract's.

    Attributes:
        engine: vLLM's engine arguments, as given.
        speculation: Its `speculative_config` without the draft length; None without a drafter.
        score_distributions: Whether target and drafter score the finished texts here.
    """

    engine: dict[str, Any]
    speculation: dict[str, Any] | None
    score_distributions: bool

    @property
    def draws_drafts(self) -> bool:
        """Whether a drafting model draws its tokens when the target samples."""
        return (self.speculation or {}).get("draft_sample_method") == "probabilistic"

    @property
    def drafts_by_model(self) -> bool:
        """Whether a causal LM with the target's tokens drafts."""
        speculation = self.speculation or {}
        return speculation.get("method") == "draft_model" and not speculation.get(
            "use_heterogeneous_vocab"
        )

    def settings(self) -> dict[str, Any]:
        speculation = self.speculation
        if speculation and isinstance(speculation.get("model"), str):
            speculation = speculation | {"model": shown_name(speculation["model"])}
        return {
            "vllm": {"engine": self.engine, "speculative_config": speculation},
            "flags": self.flags(),
            "score_distributions": self.score_distributions,
        }

    def flags(self) -> dict[str, list[str]]:
        """Settings that change what the metrics mean, by kind, for run.json and reports.

        Returns:
            `lossy`: the output does not have the target's distribution; `adaptive`: the draft
            length follows the load or the drafter's confidence; `other_rule`: lossless, but drafts
            are chosen or accepted by another rule.
        """
        given = {key: value for key, value in (self.speculation or {}).items() if value}
        flags: dict[str, list[str]] = {"lossy": [], "adaptive": [], "other_rule": []}
        for key, value in given.items():
            setting = f"{key}={value}"
            if value in _LOSSY.get(key, ()):
                flags["lossy"].append(setting)
            elif value in _OTHER_RULE.get(key, ()) or key == "use_heterogeneous_vocab":
                flags["other_rule"].append(setting)
            elif key in _ADAPTIVE or "confidence" in key:
                flags["adaptive"].append(setting)
            elif any(word in key for word in _DOUBTFUL_WORDS):
                flags["lossy"].append(setting)
        return {kind: settings for kind, settings in flags.items() if settings}


def read_vllm(
    given: dict[str, Any], drafter: str | None, *, score_distributions: bool, seed: int
) -> tuple[VllmArguments, dict[str, Any]]:
    """Separate vLLM's arguments from those of lm-eval's Hugging Face model.

    Args:
        given: All arguments that are not the contract's, with `speculative_config`.
        drafter: Folder, hub id, `prompt_lookup`, `none`; None where speculative_config names it.
        score_distributions: As given.
        seed: Of the run.

    Raises:
        ConfigError: If one is set by this backend, or is for the in-process backend only.
    """
    given = dict(given)
    extra = given.pop("speculative_config", None)
    for name in given:
        if name in OWN:
            raise ConfigError(f"{name} is set by backend=vllm; use {OWN[name]}")
    size = given.get("data_parallel_size", 1)
    if size not in (1, None) and given.get("distributed_executor_backend") != "external_launcher":
        # `vllm.LLM` refuses it too: the engine would wait for its peers forever.
        raise ConfigError(
            f"data_parallel_size={size}: vLLM's engine would wait in this process for {size} that "
            f"were started together. Instead, {IN_SHARES}"
        )
    for_hf = {name: value for name, value in given.items() if name in FOR_TOKENISING}
    only_hf = FOR_TOKENISING - FOR_BOTH
    engine = {name: value for name, value in given.items() if name not in only_hf}
    lengths = [given[name] for name in ("max_length", "max_model_len") if name in given]
    if len(set(lengths)) == 2:
        raise ConfigError(
            f"max_length {lengths[0]} and max_model_len {lengths[1]} are the same setting with "
            "backend=vllm; give one of them"
        )
    if lengths:
        for_hf["max_length"] = engine["max_model_len"] = lengths[0]
    engine["seed"] = seed
    speculation = _speculation(drafter, extra)
    arguments = VllmArguments(
        engine=engine, speculation=speculation, score_distributions=score_distributions
    )
    if score_distributions and not arguments.drafts_by_model:
        raise ConfigError(
            "score_distributions=true needs a drafter that is a causal LM with the target's "
            "tokenizer: of other drafters the rejected tokens and distributions are not known"
        )
    return arguments, for_hf


def _speculation(drafter: str | None, extra: object) -> dict[str, Any] | None:
    """The `speculative_config` without its draft length."""
    if extra is not None and not isinstance(extra, dict):
        raise ConfigError(
            f"speculative_config must be a dictionary of vLLM's settings, got {extra!r}"
        )
    extra = dict(extra or {})
    if "num_speculative_tokens" in extra:
        raise ConfigError(
            "the draft length is the argument num_speculative_tokens, not one of speculative_config"
        )
    if drafter == "none":
        if extra:
            raise ConfigError("with drafter=none, leave speculative_config out")
        return None
    if drafter == "prompt_lookup":
        return NGRAM | extra
    if drafter is None:
        return extra
    if extra.get("model", drafter) != drafter:
        raise ConfigError(
            f"drafter {drafter!r} and speculative_config's model {extra['model']!r} differ; "
            "name one"
        )
    settings = head_settings(Path(drafter)) or {}
    method = str(settings.get(KIND, "draft_model"))  # a head's folder says which kind it is
    speculation = {"method": method, "model": drafter} | extra
    if speculation["method"] == "draft_model" and not speculation.get("use_heterogeneous_vocab"):
        # vLLM's default drafts the most likely token also where the target samples: acceptance is
        # then p(argmax q), not the overlap of p and q.
        speculation.setdefault("draft_sample_method", "probabilistic")
    return speculation
