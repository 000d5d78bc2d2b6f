"""A new head for a target and a corpus, and what training of heads refuses."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_config import HeadConfig, default_layers
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.rows import Corpus, Row
from lm_eval_specfair.training.heads.draft_vocabulary import DraftIds, choose_ids, token_counts
from lm_eval_specfair.training.options import HEAD_SETTINGS, TrainConfig

_DEVIATION = 0.02
"""Of a new head's matrices, as transformers begins with."""


def refuse_unfit(config: TrainConfig, **others: object) -> None:
    """Refuse settings that a kind of drafter does not take; `others` are arguments of the verb.

    Raises:
        ConfigError: Naming the option.
    """
    if config.kind == "model":
        defaults = TrainConfig()
        for name in HEAD_SETTINGS:
            if getattr(config, name) != getattr(defaults, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} is of heads: pass --kind eagle3, or leave it out"
                )
        return
    given = [name for name, value in others.items() if value is not None]
    given += ["gradient_checkpointing"] if config.gradient_checkpointing else []
    given += ["cache_top_k"] if config.cache_top_k is not None else []
    if given:
        raise ConfigError(
            f"--kind eagle3 takes no --{given[0].replace('_', '-')}: a head is made anew, is small "
            "and reads the target's hidden states in each batch; leave it out"
        )
    if config.responses == "drafter":
        raise ConfigError(
            "--kind eagle3 takes no --responses drafter: a head cannot write without its target; "
            "use --responses target"
        )
    if config.coverage_floor is not None and config.draft_vocabulary is None:
        raise ConfigError(
            "--coverage-floor is of a draft vocabulary: name its size with --draft-vocabulary"
        )


def head_rows(corpus: Corpus) -> Corpus:
    """The corpus, without the first prediction of a text: a head needs two tokens before it.

    Raises:
        ConfigError: If a group is left without a row.
    """
    splits = {
        name: [cut for row in getattr(corpus, name) if (cut := _cut(row)) is not None]
        for name in ("train", "probe", "test")
    }
    for split, rows in splits.items():
        present = sum((row.membership for row in rows), 0 * corpus.num_tokens)
        for name, share in zip(corpus.names, present, strict=True):
            if not share:
                raise ConfigError(
                    f"group {name!r} has no text of three tokens in the {split} split, which a "
                    "head needs; add longer texts"
                )
    return Corpus(names=corpus.names, **splits)


def _cut(row: Row) -> Row | None:
    first = max(row.first, 2)
    kept = len(row.tokens) - first
    if kept < 1:
        return None
    share = kept / row.num_learnt
    return dataclasses.replace(row, first=first, num_bytes=row.num_bytes * share)


def draft_ids(corpus: Corpus, config: TrainConfig, vocab_size: int) -> DraftIds | None:
    """The tokens that the head is to draft among; None for all of the target's.

    Raises:
        ConfigError: If there are not as many, or they cannot cover every group as asked.
    """
    size = config.draft_vocabulary
    if size is None:
        return None
    if size > vocab_size:
        raise ConfigError(
            f"--draft-vocabulary must be at most the target's {vocab_size}, got {size}"
        )
    counts = token_counts(corpus.train, len(corpus.names), vocab_size)
    return choose_ids(counts, size, floor=config.coverage_floor or 0.0, names=corpus.names)


def new_head(
    target: PreTrainedModel, ids: Sequence[int] | None, *, name: str, num_steps: int, seed: int
) -> Eagle3Head:
    """A head of one layer, fp32, which scores with the target's own head to begin with.

    It reads the target's embedding, which stays as it is.

    Args:
        target: The target.
        ids: Tokens that it drafts, ascending; None for all.
        name: The target's, for the head's configuration.
        num_steps: Tokens that it is to draft a step.
        seed: Of its weights.

    Raises:
        ConfigError: If the target is too shallow.
    """
    config = HeadConfig.for_target(
        target.config,
        draft_vocab_size=None if ids is None else len(ids),
        feature_layers=_layers(target),
        num_speculative_tokens=num_steps,
        norm_before_residual=True,
    )
    head = Eagle3Head(dataclasses.replace(config, target_name=name), own_embedding=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in head.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, _DEVIATION, generator=generator)
        if head.config.is_pruned and ids is not None:
            head.draft_only(ids)
        scoring = target.get_output_embeddings()
        if type(scoring) is nn.Linear and scoring.in_features == head.lm_head.in_features:
            head.lm_head.weight.copy_(scoring.weight.detach()[head.target_ids].float())
            last = getattr(target.get_decoder(), "norm", None)
            norm = getattr(last, "weight", None)
            if norm is not None and norm.shape == head.norm.weight.shape:
                head.norm.weight.copy_(norm.detach().float())
    embedding = target.get_input_embeddings().weight
    head.read_embedding_of(embedding.float())
    return head


def _layers(target: PreTrainedModel) -> tuple[int, ...]:
    size = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    try:
        return default_layers(size)
    except ConfigError:
        if size < 2:
            raise
        return (0, size // 2, max(size - 1, size // 2 + 1))
