"""A drafter that drafts some of its tokens only: its head cut to their rows.

The folder stays an ordinary model's, with `draft_vocabulary.safetensors` beside its weights, in
which `d2t` and `t2d` name the tokens as heads of the EAGLE-3 kind do. Another engine that takes the
folder drafts from the whole vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.cut_head import CutHead
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import (
    pruned_vocabulary,
    vocabulary_maps,
)
from lm_eval_specfair.errors import ConfigError

DRAFT_VOCABULARY = "draft_vocabulary.safetensors"


def cut_to_draft_vocabulary(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The model of a folder, its head cut where the folder names a draft vocabulary.

    Raises:
        ConfigError: If the file is not in order, or the model's scores are not its head's.
    """
    path = Path(folder) / DRAFT_VOCABULARY
    if not path.is_file():
        return model
    ids, size = pruned_vocabulary(path)
    head: Any = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"drafter {folder}: only a head that is one matrix can be cut to a draft vocabulary, "
            f"got {type(head).__name__}; remove {DRAFT_VOCABULARY}"
        )
    if size != head.out_features or max(ids) >= head.out_features:
        raise ConfigError(
            f"drafter {folder}: {DRAFT_VOCABULARY} is of {size} tokens, the model has "
            f"{head.out_features}; make it anew (`specfair prune`)"
        )
    cut: Any = CutHead(head, torch.tensor(sorted(ids)))
    model.set_output_embeddings(cut)
    with torch.inference_mode():
        scores = model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device)).logits
    outside = torch.ones(head.out_features, dtype=torch.bool, device=scores.device)
    outside[cut.draft_ids] = False
    if bool((scores[..., outside] != -torch.inf).any()):
        raise ConfigError(
            f"drafter {folder}: {type(model).__name__} changes its head's scores (a soft cap), so "
            f"a cut one would still draft the other tokens; remove {DRAFT_VOCABULARY}"
        )
    return model


def write_draft_vocabulary(folder: Path, ids: list[int], vocab_size: int) -> Path:
    """Write the tokens that the model of a folder is to draft, ascending ids below `vocab_size`."""
    path = folder / DRAFT_VOCABULARY
    save_file(vocabulary_maps(torch.tensor(ids), vocab_size), path)
    return path
