"""Heads as drafters, and a pair that agrees about half of the time."""

import copy
import functools

from lm_eval_specfair.conformance.tiny_heads import features_of, tiny_head, trained_head
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.heads.head_drafter import Eagle3Chain, HeadDrafter

__all__ = ["features_of", "tiny_head"]  # and what is defined here

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 64}


def head_drafter(head, target) -> Drafter:
    """A drafter of a head that shares its target's embedding unless it has one."""
    if head.embed_tokens is None:
        head.read_embedding_of(target.get_input_embeddings().weight)
    return HeadDrafter(Eagle3Chain(head))


@functools.cache
def trained_pair(vocab_size=16, drafted=None, layers=(0, 1, 2), steps=150, num_layers=3, **shape):
    """A target, and a head that learned a little of it."""
    target = llama(7, layers=num_layers, vocab_size=vocab_size, **(SMALL | shape))
    # transformers leaves hooks behind where it gave hidden states; a model with hooks is not fused.
    twin = copy.deepcopy(target)
    return target, trained_head(twin, layers, steps=steps, drafted=drafted)
