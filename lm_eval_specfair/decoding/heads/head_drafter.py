"""Drafting with a head: a chain of tokens from the target's hidden states, row by row.

A head's cache has an entry for each kept token but the last (see `Eagle3Head`). Those of drafted
tokens are made of the head's own states; once a step was verified, the kept ones among them are
read anew with the target's, and the others are gone.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.drafters import Chain, Draft, Drafter, no_draft
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_memory import CachedMemory
from lm_eval_specfair.decoding.models import of_like_lengths
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap


class ChainHead(Protocol):
    """A head as the drafter uses it.

    Attributes:
        feature_layers: Layers of the target that it reads.
        max_length: Longest text that it was made for.
    """

    feature_layers: tuple[int, ...]
    max_length: int

    @property
    def device(self) -> torch.device: ...

    def combine(self, features: Tensor) -> Tensor:
        """Features as the hidden states that a first step reads."""

    def step(
        self,
        tokens: Tensor,
        hidden: Tensor,
        positions: Tensor,
        cache: RaggedCache,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Entries' hidden states to score, and those that the next step reads.

        The cache is aimed; `mask` has the shape (rows, 1, width, entries), None for a prompt.
        """

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores over the target's vocabulary, `-inf` where it drafts nothing; fp32 or wider."""


class Eagle3Chain:
    """An EAGLE-3 head, and the target whose embedding it may share."""

    def __init__(self, head: Eagle3Head) -> None:
        self._head = head
        self.feature_layers = head.config.feature_layers
        self.max_length = int(head.config.layer.max_position_embeddings)
        size, ids = head.config.vocab_size, head.target_ids
        numbers = torch.arange(len(ids), device=ids.device)
        pruned = VocabularyMap(ids, numbers, size, len(ids))
        self._vocabulary = pruned if head.config.is_pruned else None

    @property
    def device(self) -> torch.device:
        return self._head.fc.weight.device

    def combine(self, features: Tensor) -> Tensor:
        return self._head.combine(features)

    def step(
        self,
        tokens: Tensor,
        hidden: Tensor,
        positions: Tensor,
        cache: RaggedCache,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return self._head.step(tokens, hidden, positions, CachedMemory(cache, mask))

    def scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self._head.lm_head(hidden)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return scores if self._vocabulary is None else self._vocabulary.to_target(scores)


class HeadDrafter(Drafter):
    """A head with a ragged cache of its own."""

    def __init__(self, head: ChainHead) -> None:
        self._head = head
        self.feature_layers = head.feature_layers
        self.max_length = head.max_length
        self._cache = RaggedCache()
        self._prompts: dict[int, list[int]] = {}  # of rows that were admitted and not read
        self._unread: dict[int, Tensor] = {}  # features without an entry, by row

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Take the prompts; they are read once their features are there."""
        self._prompts |= dict(zip(rows, prompts, strict=True))

    @torch.inference_mode()
    def read_features(self, rows: list[int], features: Sequence[Tensor]) -> None:
        """Read prompts up to their last entry, and keep what the next step's first pass reads."""
        for row, own in zip(rows, features, strict=True):
            # Whoever looks up first does not ask for a draft in each step.
            waits = row not in self._prompts and len(self._unread[row])
            self._unread[row] = torch.cat([self._unread[row], own]) if waits else own
        new = [row for row in rows if row in self._prompts]
        if not new:
            return
        prompts = [self._prompts.pop(row) for row in new]
        read = [p[1:-1] if len(p) <= self.max_length else [] for p in prompts]
        self._cache.room = (max(new) + 1, max(map(len, read)))
        self._cache.lengths += [0] * (max(new) + 1 - len(self._cache.lengths))
        for group in of_like_lengths(read):
            if read[group[0]]:
                self._read_prompts([new[index] for index in group], [read[i] for i in group])
        for row, tokens in zip(new, read, strict=True):
            self._cache.lengths[row] = len(tokens)
            # A copy, or the whole prompt's features would stay.
            self._unread[row] = self._unread[row][len(tokens) :].clone()
        self._cache.give_back()

    def _read_prompts(self, rows: list[int], texts: list[list[int]]) -> None:
        device, width = self._head.device, len(texts[0])
        tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        features = pad_sequence(
            [self._unread[row][: len(text)] for row, text in zip(rows, texts, strict=True)],
            batch_first=True,
        )
        positions = torch.arange(width, device=device).expand(len(rows), -1)
        self._cache.aim(rows, positions, is_prompt=True)
        hidden = self._head.combine(features.to(device))
        self._head.step(tokens, hidden, positions, self._cache, None)

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Read the kept tokens that are new, then draft one token after the other.

        A row without features, of a prompt of one token, drafts from its second step on.
        """
        device = self._head.device
        for row, length in enumerate(lengths):
            if not length:  # it never drafts again
                self._unread[row] = self._unread[row][:0]
        counts = [len(self._unread[row]) for row in range(len(lengths))]
        drafted = [length if count else 0 for length, count in zip(lengths, counts, strict=True)]
        if not any(drafted):
            return no_draft(len(lengths), device)
        known, block = self._cache.lengths, max(counts)
        unread = [
            histories[row][known[row] + 1 : known[row] + 1 + count]
            for row, count in enumerate(counts)
        ]
        tokens = torch.tensor([each + [0] * (block - len(each)) for each in unread], device=device)
        features = pad_sequence([self._unread[row] for row in range(len(counts))], batch_first=True)
        normed, hidden = self._pass(tokens, self._head.combine(features.to(device)))
        for row, count in enumerate(counts):
            known[row] += count
            self._unread[row] = self._unread[row][:0]
        last = torch.tensor([max(0, count - 1) for count in counts], device=device)
        every = torch.arange(len(counts), device=device)
        normed, hidden = normed[every, last, None], hidden[every, last, None]
        chain = Chain(config, uniforms)
        before = list(known)
        for number in range(max(drafted)):
            token = chain.add(self._head.scores(normed[:, 0]))
            if number + 1 < max(drafted):
                normed, hidden = self._pass(token[:, None], hidden)
                known[:] = [length + 1 for length in known]
        known[:] = before  # entries of drafted tokens hold no features of the target
        return chain.draft(drafted)

    def _pass(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A pass over a block of each row's entries, written behind its valid ones."""
        count, width = tokens.shape
        starts = self._cache.lengths[:count]
        first = torch.tensor(starts, device=tokens.device)[:, None]
        positions = first + torch.arange(width, device=tokens.device)
        self._cache.aim(list(range(count)), positions, is_prompt=False)
        keys = torch.arange(max(starts) + width, device=tokens.device)
        mask = keys <= positions[:, None, :, None]
        return self._head.step(tokens, hidden, positions, self._cache, mask)

    def move(self, source: int, destination: int) -> None:
        self._cache.move(source, destination)
        self._unread[destination] = self._unread[source]

    def reset(self) -> None:
        self._cache, self._prompts, self._unread = RaggedCache(), {}, {}
