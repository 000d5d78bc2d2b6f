"""Loaded drafters: the models that a run drafts with, by name, and what drafts with them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName, fitted_prompts
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.fitted.fitted_folder import prompt_digest
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.choice import (
    ForeignVocabulary,
    foreign_drafter,
    foreign_vocabulary,
)
from lm_eval_specfair.decoding.weight_digests import digest_on_disk, weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records.requests_file import read_requests

logger = logging.getLogger(__name__)

LoadedDrafters = Mapping[str, "LoadedDrafter"]
"""The drafting models of a run by name; empty where no model drafts."""


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


def covered(drafters: LoadedDrafters, decoded: Decoded) -> dict[str, int]:
    """A record's field on the tokens that a drafter with another tokenizer has."""
    named = decoded.job.request.drafter
    drafter = next(iter(drafters.values()), None) if named is None else drafters.get(named)
    if drafter is None or drafter.vocabulary is None:
        return {}
    tokens = decoded.completion.token_ids
    return {"num_covered_tokens": sum(token in drafter.covered for token in tokens)}


def load_drafters(
    arguments: Arguments, target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LoadedDrafters:
    """The models that draft, on the target's device and in its type; the default's first.

    Raises:
        ConfigError: If one cannot be loaded, or its tokens cannot be matched with the target's.
    """
    models = arguments.drafting_models
    by_source: dict[Any, LoadedDrafter] = {}  # drafters that look up first may share a model
    for model in models.values():
        if model not in by_source:
            by_source[model] = _load_drafter(model, arguments, target, tokenizer)
    loaded = {name: by_source[model] for name, model in models.items()}
    if arguments.policy.routes:
        held = {name: each.model.get_memory_footprint() / 1e6 for name, each in loaded.items()}
        in_all = sum(each.model.get_memory_footprint() / 1e6 for each in by_source.values())
        logger.warning(
            "%s: %s; the drafters' models take %.1f MB beside the target's %.1f MB",
            arguments.drafter,
            ", ".join(
                f"{name} ({held[name]:.1f} MB)" if name in held else name
                for name in arguments.policy.drafter_names
            ),
            in_all, target.get_memory_footprint() / 1e6,
        )  # fmt: skip
    return loaded


def _load_drafter(
    model: Any,
    arguments: Arguments,
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> LoadedDrafter:
    name = model
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
        str(name),
        target_size=sizes[0],
        drafter_size=sizes[1],
        method=arguments.drafter_vocabulary,
    )
    logger.warning("the drafter has a tokenizer of its own: it drafts %s", vocabulary)
    return LoadedDrafter(model, own, vocabulary)


def drafter_weights(
    arguments: Arguments, loaded: LoadedDrafters
) -> str | dict[str, str | None] | None:
    """A digest of the drafter's weights, whether they were loaded or not; None if it has none.

    Where a policy names several, theirs by name.
    """
    models, named = arguments.drafting_models, arguments.named_drafters
    digests = {
        name: weights_digest(models[name], drafter.model, arguments.for_drafter)
        for name, drafter in loaded.items()
    }
    digests |= {name: drafter.weights(digests.get(name)) for name, drafter in named.items()}
    if arguments.policy.routes:
        return {name: digests.get(name) for name in arguments.policy.drafter_names}
    if arguments.vllm is not None and not loaded:
        return digest_on_disk(str(arguments.drafter)) if arguments.drafting_models else None
    return next(iter(digests.values()), None)


def fitted_requests(drafters: Sequence[DrafterName], folder: Path) -> dict[str, int]:
    """For a run's totals: its requests that any drafter was fitted on; empty of other drafters."""
    learnt = fitted_prompts(drafters)
    if not learnt:
        return {}
    asked = read_requests(folder).values()
    number = sum(prompt_digest(each.prompt_token_ids) in learnt for each in asked)
    if number:
        logger.warning(
            "the drafter was fitted on the texts of %d of these %d requests: expect less of new "
            "ones (specfair fit and replay take --documents)",
            number, len(asked),
        )  # fmt: skip
    return {"num_fitted_requests": number}


def vocabulary_settings(loaded: LoadedDrafters) -> dict[str, Any]:
    """How drafters with a tokenizer of their own draft, for `run.json`; by name, of several."""
    found = {name: each.vocabulary.settings() for name, each in loaded.items() if each.vocabulary}
    if not found:
        return {}
    return {"drafter_vocabulary": found if len(loaded) > 1 else next(iter(found.values()))}


def drafting_with(
    arguments: Arguments,
    loaded: LoadedDrafters,
    target: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
) -> Drafter:
    """The run's drafter: one, or those of a policy together.

    Raises:
        ConfigError: If a model cannot draft.
    """
    policy, named = arguments.policy, arguments.named_drafters
    for name in named.values():
        name.refuse_other_tokenizer(tokenizer, target.vocab_size)
    drafters = {
        name: drafter.made(
            _model_drafter(loaded.get(name), target, tokenizer),
            vocab_size=target.vocab_size,
            device=target.device,
        )
        for name, drafter in named.items()
    }
    if policy.routes:
        return RoutedDrafter(
            drafters,
            str(policy.default_drafter),
            vocab_size=target.vocab_size,
            device=target.device,
        )
    if drafters:
        return next(iter(drafters.values()))
    drafter = _model_drafter(next(iter(loaded.values()), None), target, tokenizer)
    return drafter or NoDrafter(target.device)


def _model_drafter(
    loaded: LoadedDrafter | None, target: CausalModel, tokenizer: PreTrainedTokenizerBase
) -> Drafter | None:
    if loaded is None:
        return None
    model = CausalModel(loaded.model, role="drafter")
    if loaded.vocabulary is not None and loaded.tokenizer is not None:
        return foreign_drafter(model, loaded.vocabulary, tokenizer, loaded.tokenizer)
    return ModelDrafter(model, vocab_size=target.vocab_size)
