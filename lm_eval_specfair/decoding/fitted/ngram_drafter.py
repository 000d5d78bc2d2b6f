"""Drafts from an n-gram model: no pass of a network, and q at every token."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Chain, Draft, Drafter, fit_vocabulary, no_draft
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel


class NgramDrafter(Drafter):
    """Draws (or takes the most likely) tokens one after the other; it keeps nothing of a row."""

    max_length = 1 << 30

    def __init__(self, model: NgramModel, *, vocab_size: int, device: torch.device) -> None:
        """Draft for a target whose scores have `vocab_size` entries."""
        self._model, self._vocab_size, self._device = model, vocab_size, device

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        width = max(lengths)
        if width == 0:
            return no_draft(len(lengths), self._device)
        reach = max(1, self._model.counts.order - 1)
        contexts = [history[-reach:] for history in histories]
        chain = Chain(config, uniforms)
        for _ in range(width):
            chances = np.stack([self._model.log_chances(context) for context in contexts])
            scores = torch.from_numpy(chances).to(self._device)
            token = chain.add(fit_vocabulary(scores, self._vocab_size))
            for context, chosen in zip(contexts, token.tolist(), strict=True):
                context.append(chosen)
        return chain.draft(list(lengths))
