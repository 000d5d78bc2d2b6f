"""Loaded drafters: the models that a run drafts with, by name, and what drafts with them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName, fitted_prompts
from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.families.cut_head import draft_ids
from lm_eval_specfair.decoding.fitted.fitted_folder import prompt_digest
from lm_eval_specfair.decoding.heads.head_folder import found_head
from lm_eval_specfair.decoding.heads.mtp_chain import MTP
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.choice import (
    ForeignVocabulary,
    foreign_drafter,
    foreign_vocabulary,
)
from lm_eval_specfair.decoding.vocabularies.draft_vocabulary_file import cut_to_draft_vocabulary
from lm_eval_specfair.decoding.weight_digests import digest_on_disk, weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.drafters.loaded_heads import (
    LoadedHead,
    LoadedMtp,
    load_head,
    load_own_module,
)
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records.requests_file import read_requests

logger = logging.getLogger(__name__)

Loaded: TypeAlias = "LoadedDrafter | LoadedHead | LoadedMtp"
LoadedDrafters = Mapping[str, "Loaded"]
"""The drafting models of a run by name; empty where no model drafts."""


@dataclass(frozen=True)
class LoadedDrafter:
    """A drafting model; with a vocabulary of its own where its tokenizer is not the target's."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    vocabulary: ForeignVocabulary | None = None

    @cached_property
    def covered(self) -> frozenset[int] | None:
        """The target's tokens that its own vocabulary has; None where it has the target's."""
        return None if self.vocabulary is None else self.vocabulary.shared.covered

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        return int(self.model.get_memory_footprint())

    @property
    def as_scorer(self) -> PreTrainedModel | None:
        """The model where it can score all of the target's tokens."""
        has_all = self.vocabulary is None and draft_ids(self.model) is None
        return self.model if has_all else None


def covered(drafters: LoadedDrafters, decoded: Decoded) -> dict[str, int]:
    """A record's field on the text's tokens that a drafter with fewer of them has."""
    named = decoded.job.request.drafter
    drafter = next(iter(drafters.values()), None) if named is None else drafters.get(named)
    if drafter is None or drafter.covered is None:
        return {}
    known, tokens = drafter.covered, decoded.completion.token_ids
    return {"num_covered_tokens": sum(token in known for token in tokens)}


def load_drafters(
    arguments: Arguments, target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LoadedDrafters:
    """The models that draft, on the target's device and in its type; the default's first.

    Raises:
        ConfigError: If one cannot be loaded, or its tokens cannot be matched with the target's.
    """
    models = arguments.drafting_models
    by_source: dict[Any, Loaded] = {}  # drafters that look up first may share a model
    for model in models.values():
        if model not in by_source:
            by_source[model] = _load_drafter(model, arguments, target, tokenizer)
    loaded = {name: by_source[model] for name, model in models.items()}
    if arguments.policy.routes:
        held = {name: each.num_bytes / 1e6 for name, each in loaded.items()}
        in_all = sum(each.num_bytes / 1e6 for each in by_source.values())
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
) -> "Loaded":
    if model == MTP:
        return load_own_module(arguments.target_name, target)
    if (folder := found_head(model, **arguments.for_hub())) is not None:
        return load_head(folder, str(model), arguments, target)
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
        model = cut_to_draft_vocabulary(model, str(name))
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
        # Those of the target's own module are in the target's files.
        name: weights_digest(
            None if models[name] == MTP else models[name], drafter.model, arguments.for_drafter
        )
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
    """How heads, and drafters with a tokenizer of their own, draft: for `run.json`.

    By name, where there are several.
    """
    vocabularies, heads = {}, {}
    for name, each in loaded.items():
        if isinstance(each, (LoadedHead, LoadedMtp)):
            heads[name] = each.settings()
        elif each.vocabulary:
            vocabularies[name] = each.vocabulary.settings()
    return {
        key: found if len(loaded) > 1 else next(iter(found.values()))
        for key, found in (("drafter_vocabulary", vocabularies), ("drafter_head", heads))
        if found
    }


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
    loaded: "Loaded | None", target: CausalModel, tokenizer: PreTrainedTokenizerBase
) -> Drafter | None:
    if loaded is None:
        return None
    if isinstance(loaded, (LoadedHead, LoadedMtp)):
        return loaded.drafter(target)
    model = CausalModel(loaded.model, role="drafter")
    if loaded.vocabulary is not None and loaded.tokenizer is not None:
        return foreign_drafter(model, loaded.vocabulary, tokenizer, loaded.tokenizer)
    return ModelDrafter(model, vocab_size=target.vocab_size)
