"""Small heads for any target: with random weights, or trained for a moment."""

import functools

import torch

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_config import HeadConfig
from lm_eval_specfair.decoding.heads.head_drafter import Eagle3Chain, HeadDrafter

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 64}


def tiny_head(target, *, seed=0, drafted=None, own_embedding=False, spread=0.3, **settings):
    """A head for a target's configuration; `drafted` are the target's tokens that it drafts."""
    config = HeadConfig.for_target(
        target, draft_vocab_size=None if drafted is None else len(drafted), **settings
    )
    head = Eagle3Head(config, own_embedding=own_embedding)
    chance = torch.Generator().manual_seed(seed)
    for name, weight in head.named_parameters():
        drawn = torch.randn(weight.shape, generator=chance) * spread
        weight.data.copy_(1 + drawn if "norm" in name else drawn)
    if drafted is not None:
        head.draft_only(sorted(drafted))
    return head.eval()


def head_drafter(head, target) -> Drafter:
    """A drafter of a head that shares its target's embedding unless it has one."""
    if head.embed_tokens is None:
        head.read_embedding_of(target.get_input_embeddings().weight)
    return HeadDrafter(Eagle3Chain(head))


def features_of(target, tokens, layers):
    """The target's hidden states by its own plain pass, (rows, length, layers * hidden)."""
    with torch.no_grad():
        output = target(input_ids=tokens, output_hidden_states=True, use_cache=False)
    return torch.cat([output.hidden_states[layer] for layer in layers], -1)


@functools.cache
def trained_pair(vocab_size=16, drafted=None, layers=(0, 1, 2), steps=150, num_layers=3):
    """A target, and a head that agrees with it about half of the time."""
    target = llama(7, layers=num_layers, vocab_size=vocab_size, **SMALL)
    head = tiny_head(target.config, drafted=drafted, feature_layers=layers).train()
    head.read_embedding_of(target.get_input_embeddings().weight)
    chance = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(steps):
        tokens = torch.randint(vocab_size, (16, 12), generator=chance)
        features = features_of(target, tokens, layers)
        with torch.no_grad():
            scores = target(input_ids=tokens).logits[..., head.target_ids]
        loss = torch.zeros(())
        for number, step in enumerate(head(tokens, features, num_steps=2)):
            p = scores[:, 1 + number : 1 + number + step.shape[1]].softmax(-1)
            loss = loss - (p * head.lm_head(step).log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return target, head.eval().requires_grad_(False)
