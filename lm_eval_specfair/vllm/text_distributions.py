"""Overlap, KL and cross-entropy of finished texts, by a pass of target and drafter over each.

A draft was examined after a prefix of the finished text, and scores depend on that prefix alone. So
the in-process engine's sums can be made afterwards, at the same positions, whoever decoded.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import log_distribution
from lm_eval_specfair.decoding.completion import Completion
from lm_eval_specfair.decoding.counters import add_divergences, add_untruncated
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.vllm.step_counts import examined_places

_TOKENS_AT_ONCE = 4096


class TextScores:
    """Adds the sums of divergences to the counters of finished requests."""

    def __init__(
        self, models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]], *, draws_drafts: bool
    ) -> None:
        """Score with target and drafter, which are loaded when first needed.

        With `draws_drafts` drafts are drawn when sampling (at the temperature alone, as vLLM does);
        else q is 1 for the drafter's most likely token.
        """
        self._load = models
        self._models: tuple[PreTrainedModel, PreTrainedModel] | None = None
        self._draws_drafts = draws_drafts

    @torch.inference_mode()
    def add(self, done: Sequence[Completion], config: DecodeConfig) -> None:
        """Fill in the sums of requests that were decoded under one configuration."""
        if self._models is None:
            self._models = self._load()
        target, drafter = self._models
        last_id = int(drafter.config.get_text_config(decoder=True).vocab_size) - 1
        for batch in _batches([text for text in done if examined_places(text.counters)]):
            texts = [[*text.request.prompt, *text.token_ids[:-1]] for text in batch]
            width = max(map(len, texts))
            padded = [ids + [0] * (width - len(ids)) for ids in texts]
            tokens = torch.tensor(padded, device=target.device)
            # Padding is on the right, where no earlier position attends to it.
            p_scores = target(input_ids=tokens, use_cache=False).logits
            q_scores = drafter(input_ids=tokens.clamp(max=last_id), use_cache=False).logits
            for row, text in enumerate(batch):
                first = len(text.request.prompt) - 1
                places = [first + place for place in examined_places(text.counters)]
                p, q = p_scores[row, places].float(), q_scores[row, places].float()
                q = fit_vocabulary(q, p.shape[-1])
                owners = [text.counters] * len(places)
                if config.truncates and self._draws_drafts:
                    add_untruncated(owners, p / config.temperature, q / config.temperature)
                if not config.greedy:
                    p, q = log_distribution(p, config), self._drafted_by(q, config)
                add_divergences(owners, p, q)

    def _drafted_by(self, scores: Tensor, config: DecodeConfig) -> Tensor:
        """Log q of the distribution that drafts came from."""
        if self._draws_drafts:
            return log_distribution(scores, dataclasses.replace(config, top_k=None, top_p=None))
        one_hot = torch.full_like(scores, -torch.inf)
        return one_hot.scatter_(1, scores.argmax(-1, keepdim=True), 0.0)


def _batches(done: Sequence[Completion]) -> Iterator[list[Completion]]:
    """Requests of like length together, within a bound on padded tokens."""
    batch: list[Completion] = []
    lengths = [len(text.request.prompt) + len(text.token_ids) for text in done]
    for length, text in sorted(zip(lengths, done, strict=True), key=lambda pair: pair[0]):
        if batch and length * (len(batch) + 1) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
