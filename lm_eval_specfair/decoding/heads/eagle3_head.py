"""An EAGLE-3 head: a decoder layer over the target's hidden states that drafts a chain of tokens.

Entry t of a text is made of the target's hidden states after token t (its *features*) and of token
t + 1, and scores token t + 2; it has the position t. The next step reads the drafted token and the
hidden state that the step before left, in place of features that nobody has yet.

Source:
    Li et al. 2025, EAGLE-3 (arXiv:2503.01840); the form of vLLM's speculators.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from lm_eval_specfair.decoding.heads.head_config import HeadConfig
from lm_eval_specfair.decoding.heads.head_memory import Memory, UnrolledMemory
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import vocabulary_maps


class Eagle3Head(nn.Module):
    """The head; its tensors have the names of speculators' files.

    Attributes:
        embed_tokens: None where it reads the target's embedding; see `read_embedding_of`.
        d2t: For each drafted id, what to add to have the target's; None if it drafts all tokens.
        t2d: Whether each of the target's tokens is drafted.
    """

    d2t: Tensor | None
    t2d: Tensor | None

    def __init__(self, config: HeadConfig, *, own_embedding: bool = True) -> None:
        super().__init__()
        self.config, layer = config, config.layer
        hidden, num_features = config.hidden_size, len(config.feature_layers)
        width, eps = num_features * config.target_hidden_size, layer.rms_norm_eps
        self.embed_tokens = nn.Embedding(config.vocab_size, hidden) if own_embedding else None
        self._embedding: list[Tensor] = []  # the target's weight; in a list, to be no parameter
        self.input_norm = LlamaRMSNorm(width, eps) if config.norm_before_fc else None
        self.fc_norm = (
            nn.ModuleList(
                LlamaRMSNorm(config.target_hidden_size, eps) for _ in config.feature_layers
            )
            if config.fc_norm
            else None
        )
        self.fc = nn.Linear(width, hidden, bias=False)
        self.layers = nn.ModuleList(
            _Layer(config, is_first=number == 0) for number in range(layer.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(hidden, eps)
        self.lm_head = nn.Linear(hidden, config.draft_vocab_size, bias=False)
        self.rotary = LlamaRotaryEmbedding(layer)
        pruned = config.is_pruned
        drafted, known = config.draft_vocab_size, config.vocab_size
        self.register_buffer("d2t", torch.zeros(drafted, dtype=torch.long) if pruned else None)
        self.register_buffer("t2d", torch.zeros(known, dtype=torch.bool) if pruned else None)

    @property
    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    @property
    def target_ids(self) -> Tensor:
        """The target's id of each drafted one, shape (draft_vocab,), ascending."""
        numbers = torch.arange(self.config.draft_vocab_size, device=self.lm_head.weight.device)
        return numbers if self.d2t is None else numbers + self.d2t

    def draft_only(self, target_ids: Sequence[int]) -> None:
        """Draft these tokens of the target's, and no others; sorted, as many as configured."""
        ids = torch.tensor(target_ids, dtype=torch.long, device=self.lm_head.weight.device)
        assert self.d2t is not None
        assert self.t2d is not None
        assert len(ids) == len(self.d2t)
        assert bool((ids[1:] > ids[:-1]).all())
        maps = vocabulary_maps(ids, len(self.t2d))
        self.d2t.copy_(maps["d2t"])
        self.t2d.copy_(maps["t2d"])

    def read_embedding_of(self, weight: Tensor) -> None:
        """Read the target's embedding, shape (vocab, hidden), in place of one of its own.

        The bare weight: what a target does with it besides (Gemma's scale) is not the head's.
        """
        self.embed_tokens = None
        self._embedding = [weight.detach()]

    @property
    def embedding(self) -> Tensor | None:
        """The weight that it reads tokens by, its own or the target's; None before it has one."""
        if self.embed_tokens is not None:
            return self.embed_tokens.weight
        return self._embedding[0] if self._embedding else None

    def embed(self, tokens: Tensor) -> Tensor:
        weight = self.embedding
        assert weight is not None
        return functional.embedding(tokens, weight)

    def combine(self, features: Tensor) -> Tensor:
        """Features of all layers, shape (..., layers * target_hidden), as one hidden state."""
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.fc_norm is not None:
            parts = features.chunk(len(self.fc_norm), -1)
            normed = [norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)]
            features = torch.cat(normed, -1)
        combined: Tensor = self.fc(features)
        return combined

    def step(
        self, tokens: Tensor, hidden: Tensor, positions: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor]:
        """One pass over entries.

        Args:
            tokens: The target's ids, shape (rows, width).
            hidden: Combined features, or what the step before left, (rows, width, hidden).
            positions: Of each entry, shape (rows, width).
            memory: What came before.

        Returns:
            The hidden states that `lm_head` scores, and those that the next step reads.
        """
        embedded = self.embed(tokens)
        rotation = self.rotary(hidden, positions)
        for number, layer in enumerate(self.layers):
            hidden = layer(number, embedded, hidden, rotation, memory)
        normed = self.norm(hidden)
        return normed, normed if self.config.norm_output else hidden

    def forward(self, tokens: Tensor, features: Tensor, num_steps: int = 1) -> list[Tensor]:
        """Unrolled steps over whole rows, as in drafting but from every place of a text at once.

        Step k (from 0) at index t reads token t + 1 + k, as if the k tokens before had been
        drafted and kept, and scores token t + 2 + k; it sees the entries up to t, which hold
        features, and its own chain's k entries.

        Args:
            tokens: Shape (rows, length); padding at the end has no effect on what comes before.
            features: The target's at these tokens, (rows, length, layers * target_hidden).
            num_steps: Tokens drafted from each place, less than `length`.

        Returns:
            For each step the hidden states that `lm_head` scores, (rows, length - 1 - k, hidden).
        """
        memory = UnrolledMemory()
        length = tokens.shape[1]
        first = torch.arange(length - 1, device=tokens.device).expand(len(tokens), -1)
        hidden = self.combine(features[:, :-1])
        scored = []
        for step in range(num_steps):
            size = length - 1 - step
            read = tokens[:, 1 + step :]
            normed, hidden = self.step(read, hidden[:, :size], first[:, :size] + step, memory)
            scored.append(normed)
            memory.next_step()
        return scored


class _Layer(nn.Module):
    """A decoder layer; the first reads embedding and hidden state side by side."""

    def __init__(self, config: HeadConfig, *, is_first: bool) -> None:
        super().__init__()
        layer = config.layer
        self._norms_residual = config.norm_before_residual
        size, eps = config.hidden_size, layer.rms_norm_eps
        self.input_layernorm = LlamaRMSNorm(size, eps)
        self.hidden_norm = LlamaRMSNorm(size, eps) if is_first else None
        self.self_attn = _Attention(layer, 2 * size if is_first else size)
        self.post_attention_layernorm = LlamaRMSNorm(size, eps)
        self.mlp = _FeedForward(layer)

    def forward(
        self,
        number: int,
        embedded: Tensor,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        memory: Memory,
    ) -> Tensor:
        residual = hidden
        if self.hidden_norm is None:
            read = self.input_layernorm(hidden)
        else:
            normed = self.hidden_norm(hidden)
            if self._norms_residual:
                residual = normed
            read = torch.cat([self.input_layernorm(embedded), normed], -1)
        hidden = residual + self.self_attn(number, read, rotation, memory)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class _Attention(nn.Module):
    def __init__(self, layer: Any, width: int) -> None:
        super().__init__()
        self._head_dim = layer.head_dim
        bias, size = bool(layer.attention_bias), layer.hidden_size
        num_queries = layer.num_attention_heads * layer.head_dim
        num_keys = layer.num_key_value_heads * layer.head_dim
        self.q_proj = nn.Linear(width, num_queries, bias=bias)
        self.k_proj = nn.Linear(width, num_keys, bias=bias)
        self.v_proj = nn.Linear(width, num_keys, bias=bias)
        self.o_proj = nn.Linear(num_queries, size, bias=bias)
        has_norms = layer.model_type == "qwen3"
        self.q_norm = LlamaRMSNorm(layer.head_dim, layer.rms_norm_eps) if has_norms else None
        self.k_norm = LlamaRMSNorm(layer.head_dim, layer.rms_norm_eps) if has_norms else None

    def forward(
        self, number: int, read: Tensor, rotation: tuple[Tensor, Tensor], memory: Memory
    ) -> Tensor:
        query, key, value = (
            part(read).unflatten(-1, (-1, self._head_dim))
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        query, key = apply_rotary_pos_emb(query, key, *rotation)
        attended = memory.attend(number, query, key, value)
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return output


class _FeedForward(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        bias = bool(getattr(layer, "mlp_bias", False))
        self.gate_proj = nn.Linear(layer.hidden_size, layer.intermediate_size, bias=bias)
        self.up_proj = nn.Linear(layer.hidden_size, layer.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(layer.intermediate_size, layer.hidden_size, bias=bias)
        self.act_fn = ACT2FN[layer.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output
