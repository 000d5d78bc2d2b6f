"""Small EAGLE-3 heads for tiny targets: with random weights, or trained for a moment."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_config import HeadConfig


def tiny_head(
    target: PretrainedConfig,
    *,
    seed: int = 0,
    drafted: Sequence[int] | None = None,
    own_embedding: bool = False,
    spread: float = 0.3,
    **settings: Any,
) -> Eagle3Head:
    """A random head for a target; `drafted` are the target's tokens that it drafts."""
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


def features_of(target: PreTrainedModel, tokens: Tensor, layers: Sequence[int]) -> Tensor:
    """The target's hidden states by its own plain pass, (rows, length, layers * hidden).

    Not of its last layer: transformers gives that after the final norm.
    """
    with torch.no_grad():
        output = target(input_ids=tokens, output_hidden_states=True, use_cache=False)
    return torch.cat([output.hidden_states[layer] for layer in layers], -1)


def trained_head(
    target: PreTrainedModel,
    layers: Sequence[int],
    *,
    steps: int = 150,
    texts: Tensor | None = None,
    **settings: Any,
) -> Eagle3Head:
    """A head that learned a little of its target, on texts of it, and shares its embedding.

    `texts` are tokens of shape (texts, length); None for some that are drawn from the target.
    """
    head = tiny_head(target.config, feature_layers=tuple(layers), **settings).train()
    head.to(target.dtype).read_embedding_of(target.get_input_embeddings().weight)
    chance = torch.Generator().manual_seed(1)
    texts = _texts_of(target, chance) if texts is None else texts
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(steps):
        tokens = texts[torch.randint(len(texts), (16,), generator=chance)]
        features = features_of(target, tokens, layers)
        with torch.no_grad():
            scores = target(input_ids=tokens).logits[..., head.target_ids]
        loss = torch.zeros(())
        for number, step in enumerate(head(tokens, features, num_steps=2)):
            p = scores[:, 1 + number : 1 + number + step.shape[1]].softmax(-1)
            loss = loss - (p * head.lm_head(step).log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def _texts_of(target: PreTrainedModel, chance: torch.Generator) -> Tensor:
    """Short texts that begin with two tokens drawn evenly, shape (texts, length)."""
    size = int(target.config.get_text_config(decoder=True).vocab_size)
    tokens = torch.randint(size, (128, 2), generator=chance)
    for _ in range(16):
        scores = target(input_ids=tokens, use_cache=False).logits[:, -1].float()
        drawn = torch.multinomial((scores / 0.5).softmax(-1), 1, generator=chance)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens
