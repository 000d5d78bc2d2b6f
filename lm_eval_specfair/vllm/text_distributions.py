"""Overlap, KL and cross-entropy of finished texts, by a pass of target and drafter over each.

A draft was examined behind a prefix of the finished text, whose scores depend on that prefix
alone. So what the in-process engine sums while it decodes can be summed afterwards, at the same
positions, whoever decoded.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import log_distribution
from lm_eval_specfair.decoding.counters import divergences
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.decoding.engine import Completion
from lm_eval_specfair.vllm.step_counts import examined_places

_TOKENS_AT_ONCE = 4096


class TextScores:
    """Adds the sums of distributions to the statistics of finished requests."""

    def __init__(
        self,
        models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]],
        *,
        draws_drafts: bool,
    ) -> None:
        """Score with target and drafter.

        Args:
            models: Loads both; called when they are first needed.
            draws_drafts: Whether drafts are drawn when sampling (at the temperature alone, as vLLM
                does); else all of q lies on the drafter's likeliest token.
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
        for batch in _batches([each for each in done if examined_places(each.statistics)]):
            texts = [[*each.request.prompt, *each.token_ids[:-1]] for each in batch]
            width = max(map(len, texts))
            padded = [text + [0] * (width - len(text)) for text in texts]
            tokens = torch.tensor(padded, device=target.device)
            # Padding lies on the right, where no earlier position attends to it.
            p_scores = target(input_ids=tokens, use_cache=False).logits
            q_scores = drafter(input_ids=tokens.clamp(max=last_id), use_cache=False).logits
            for row, each in enumerate(batch):
                first = len(each.request.prompt) - 1
                places = [first + place for place in examined_places(each.statistics)]
                p, q = p_scores[row, places].float(), q_scores[row, places].float()
                q = fit_vocabulary(q, p.shape[-1])
                if not config.greedy:
                    p, q = log_distribution(p, config), self._drafted_by(q, config)
                divergences(p, q).add_to([each.statistics] * len(places))

    def _drafted_by(self, scores: Tensor, config: DecodeConfig) -> Tensor:
        if self._draws_drafts:
            return log_distribution(scores, dataclasses.replace(config, top_k=None, top_p=None))
        certain = torch.full_like(scores, -torch.inf)
        return certain.scatter_(1, scores.argmax(-1, keepdim=True), 0.0)


def _batches(done: Sequence[Completion]) -> Iterator[list[Completion]]:
    """Requests of like length together, within a bound on padded tokens."""
    batch: list[Completion] = []
    for each in sorted(done, key=lambda one: len(one.request.prompt) + len(one.token_ids)):
        width = len(each.request.prompt) + len(each.token_ids)
        if batch and width * (len(batch) + 1) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch
