"""The models of a run beside lm-eval's target, and the decoder that its backend uses."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.decoder import InProcessDecoder
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.families.refusals import examine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.choice import (
    ForeignVocabulary,
    foreign_drafter,
    foreign_vocabulary,
)
from lm_eval_specfair.decoding.weight_digests import digest_on_disk, weights_digest
from lm_eval_specfair.distributed import agreed
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.batch_size import fastest_rows
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.model_arguments import DRAFTERS_BY_NAME, Arguments
from lm_eval_specfair.records import RUN_FILE, read_run
from lm_eval_specfair.vllm.text_distributions import TextScores
from lm_eval_specfair.vllm.vllm_decoder import VllmDecoder

logger = logging.getLogger(__name__)

ROWS_ON_VLLM = {"cuda": 256, "cpu": 8}
"""For `--batch_size auto`: vLLM takes requests into its batch, and holds them back, by itself."""


@dataclass(frozen=True)
class LoadedDrafter:
    """A drafting model; with a vocabulary of its own where its tokenizer is not the target's."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    vocabulary: ForeignVocabulary | None = None

    @cached_property
    def covered(self) -> frozenset[int]:
        """The target's tokens that its own vocabulary has."""
        return frozenset() if self.vocabulary is None else self.vocabulary.shared.covered

    @property
    def as_scorer(self) -> PreTrainedModel | None:
        """The model where it can score the target's tokens."""
        return self.model if self.vocabulary is None else None


def covered(drafter: LoadedDrafter | None, decoded: Decoded) -> dict[str, int]:
    """A record's field on the tokens that a drafter with another tokenizer has."""
    if drafter is None or drafter.vocabulary is None:
        return {}
    tokens = decoded.completion.token_ids
    return {"num_covered_tokens": sum(token in drafter.covered for token in tokens)}


def examined(arguments: Arguments) -> Any:
    """What reads the target's weights; before any are read, both configurations are examined.

    Raises:
        ConfigError: If one tells that its model cannot be decoded, or there is none.
    """
    if arguments.vllm is not None:
        return None
    drafter, target = arguments.drafter, arguments.target
    if isinstance(drafter, str) and arguments.drafts_by_model:
        examine(drafter, "drafter", **arguments.for_hub())
    names_code = arguments.for_hf.get("trust_remote_code")
    if not isinstance(target, str) or arguments.for_hf.get("gguf_file") or names_code:
        return None
    revision = arguments.for_hf.get("revision")
    return examine(target, "target", revision=revision, **arguments.for_hub())


def load_drafter(
    arguments: Arguments, target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LoadedDrafter:
    """The drafter's model, on the target's device and in its type.

    Raises:
        ConfigError: If it cannot be loaded, or its tokens cannot be matched with the target's.
    """
    model: Any = arguments.drafter
    own = difference = None
    if isinstance(model, str):
        own = loading.drafter_tokenizer(model, **arguments.for_hub())
        difference = loading.tokenizer_difference(tokenizer, own)
        attention = target.config.get_text_config(decoder=True)._attn_implementation
        # Where it is sdpa, so is a drafter's by itself, if its family has it: Mamba's has not.
        chosen = {} if attention == "sdpa" else {"attn_implementation": attention}
        model = loading.load_model(
            model, "drafter", dtype=target.dtype, **chosen,
            **arguments.for_hub(), **arguments.for_drafter,
        )  # fmt: skip
        if model.device != target.device:  # a quantised one is where it was loaded, and stays
            model = model.to(target.device)
    if own is None or difference is None:
        if arguments.drafter_vocabulary != "auto":
            raise ConfigError(
                f"drafter_vocabulary={arguments.drafter_vocabulary} is for a drafter with another "
                "tokenizer; this one has the target's. Leave it out"
            )
        return LoadedDrafter(model)
    sizes = [int(each.config.get_text_config(decoder=True).vocab_size) for each in (target, model)]
    vocabulary = foreign_vocabulary(
        tokenizer,
        own,
        str(arguments.drafter),
        target_size=sizes[0],
        drafter_size=sizes[1],
        method=arguments.drafter_vocabulary,
    )
    logger.warning("the drafter has a tokenizer of its own: it drafts %s", vocabulary)
    return LoadedDrafter(model, own, vocabulary)


def drafter_weights(arguments: Arguments, drafter: LoadedDrafter | None) -> str | None:
    """A digest of the drafter's weights, whether they were loaded or not; None if it has none."""
    if drafter is not None:
        return weights_digest(arguments.drafter, drafter.model, arguments.for_drafter)
    if arguments.vllm is None or arguments.drafter in DRAFTERS_BY_NAME:
        return None
    return digest_on_disk(str(arguments.drafter))


def in_process(
    arguments: Arguments,
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    drafter: LoadedDrafter | None,
    *,
    max_rows: int | None,
    rank: int,
    num_processes: int,
) -> InProcessDecoder:
    """This package's engine; all processes that share the run call this together.

    Args:
        arguments: Of the run.
        target: The loaded target.
        tokenizer: Its tokenizer.
        drafter: The loaded drafter, None where no model drafts.
        max_rows: Most rows decoded together; None for `auto`.
        rank: Of this process.
        num_processes: Number that share the run.

    Raises:
        ConfigError: If a model cannot be decoded with.
    """
    wrapped = CausalModel(target, role="target")
    if (longest := arguments.for_hf.get("max_length")) is not None:
        wrapped.refuse_beyond(int(longest))
    drafting: Drafter
    if drafter is not None:
        model = CausalModel(drafter.model, role="drafter")
        if drafter.vocabulary is not None and drafter.tokenizer is not None:
            drafting = foreign_drafter(model, drafter.vocabulary, tokenizer, drafter.tokenizer)
        else:
            drafting = ModelDrafter(model, vocab_size=wrapped.vocab_size)
    elif arguments.drafter == "prompt_lookup":
        drafting = PromptLookup(wrapped.device)
    else:
        drafting = NoDrafter(wrapped.device)
    most_drafted = max(1, arguments.policy.longest)
    max_rows = max_rows or _rows_of_the_run_resumed(arguments)
    if max_rows is None:
        max_rows = agreed(
            lambda: fastest_rows(wrapped, drafting, most_drafted), rank, num_processes
        )
    return InProcessDecoder(wrapped, drafting, max_rows=max_rows)


def _rows_of_the_run_resumed(arguments: Arguments) -> int | None:
    """What `--batch_size auto` chose in the run that is resumed."""
    folder = arguments.records_dir
    if not arguments.resume or folder is None or not (Path(folder) / RUN_FILE).is_file():
        return None
    rows = read_run(Path(folder)).get("settings", {}).get("batch_size")
    return rows if isinstance(rows, int) and rows > 0 else None


def on_vllm(
    arguments: Arguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_rows: int | None,
    max_length: int,
    device: str,
    load_models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]],
) -> VllmDecoder:
    """VLLM's engines.

    Args:
        arguments: Of the run, with `vllm`.
        target: The target, or what has its dtype.
        tokenizer: Its tokenizer.
        max_rows: Most requests decoded together; None for `auto`.
        max_length: Longest text, in tokens.
        device: Kind of device that vLLM runs on.
        load_models: Loads target and drafter into this process, to score texts.

    Raises:
        ConfigError: If the drafter has another tokenizer.
    """
    vllm = arguments.vllm
    assert vllm is not None
    if vllm.drafts_by_model:
        loading.check_same_tokenizer(
            tokenizer,
            str(arguments.drafter),
            instead="Use backend=hf, or vLLM's own intersection of vocabularies: "
            'speculative_config={"use_heterogeneous_vocab": true}',
            **arguments.for_hub(),
        )
    scores = None
    if vllm.score_distributions:
        scores = TextScores(load_models, draws_drafts=vllm.draws_drafts)
    dtype = str(target.dtype).removeprefix("torch.")
    return VllmDecoder(
        {**vllm.engine, "model": arguments.target, "dtype": dtype, "max_model_len": max_length},
        vllm.speculation,
        max_rows=max_rows or ROWS_ON_VLLM.get(device, 8),
        longest=arguments.policy.longest,
        scores=scores,
    )
