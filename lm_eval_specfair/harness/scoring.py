"""Acceptance statistics of loglikelihood requests, taken from the passes that lm-eval makes anyway.

lm-eval scores given text with the target; its results are left exactly as they are. Each row that
its model call sees is compared with the texts still wanted: scores at a prefix depend on the
prefix alone, so whichever row starts with a wanted text has its scores. Only the drafter's pass
is added.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from lm_eval.api.instance import Instance
from torch import Tensor

from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.decoding.statistics import Statistics, divergences
from lm_eval_specfair.harness.runs import group_fields
from lm_eval_specfair.records import Record


@dataclass(slots=True)
class Score:
    """Sums over the scored tokens of one request.

    Attributes:
        statistics: Overlap, KL, cross-entropy and target entropy.
        drafter_nll_sum: `-log q` of the text, nats.
        num_tokens: Scored tokens that lm-eval asked for.
        num_context_tokens: Tokens before them.
        num_measured: Scored tokens that were met in a model call.
    """

    statistics: Statistics = field(default_factory=Statistics)
    drafter_nll_sum: float = 0.0
    num_tokens: int = 0
    num_context_tokens: int = 0
    num_measured: int = 0

    @property
    def complete(self) -> bool:
        """Whether the drafter was measured on every scored token."""
        return self.num_measured == self.num_tokens


def score_record(
    name: str,
    instance: Instance,
    score: Score,
    text: str,
    log_likelihood: float,
    is_greedy: bool | None,
) -> Record:
    """The record of a scored text.

    Args:
        name: Its request_id.
        instance: lm-eval's request.
        score: The drafter's sums; a text that it could not read whole is not measured.
        text: What was scored.
        log_likelihood: lm-eval's result, nats.
        is_greedy: lm-eval's second result, None for rolling requests.
    """
    sums, measured = score.statistics, score.complete and score.num_tokens > 0
    return Record(
        request_id=name,
        task=instance.task_name or "",
        doc_id=int(instance.doc_id or 0),
        request_type="loglikelihood" if is_greedy is not None else "loglikelihood_rolling",
        group_fields=group_fields(instance.doc),
        num_prompt_tokens=score.num_context_tokens,
        **sums.distribution_fields(measured=measured),
        target_nll_sum=-float(log_likelihood),
        drafter_nll_sum=score.drafter_nll_sum if measured else None,
        num_scored_tokens=score.num_tokens,
        num_scored_bytes=len(text.encode("utf-8", errors="replace")),
        is_greedy=is_greedy,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    score: Score
    continuation: list[int]


class ScoreTap:
    """Watches model calls for the texts of requests and measures the drafter on them."""

    def __init__(self, drafter: Callable[[Tensor], Tensor], max_length: int) -> None:
        """Measure with a drafter.

        Args:
            drafter: Token ids of shape (rows, width) to scores of shape (rows, width, vocab).
            max_length: Longest text that it can read.
        """
        self._drafter = drafter
        self._max_length = max_length
        self._wanted: dict[tuple[int, ...], list[_Wanted]] = {}

    def want(
        self, owners: Sequence[Score], texts: Sequence[tuple[list[int], list[int]]], max_length: int
    ) -> None:
        """Expect these texts in coming calls.

        Args:
            owners: Where each text's sums go.
            texts: Context and continuation of each, as token ids.
            max_length: Where lm-eval cuts off the left.
        """
        for owner, (context, continuation) in zip(owners, texts, strict=True):
            tokens = (context + continuation)[-(max_length + 1) :][:-1]
            owner.num_tokens += len(continuation)
            owner.num_context_tokens += len(tokens) + 1 - len(continuation)
            if len(tokens) <= self._max_length:
                entry = _Wanted(owner, continuation)
                self._wanted.setdefault(tuple(tokens), []).append(entry)

    @torch.inference_mode()
    def see(self, tokens: Tensor, target_scores: Tensor) -> None:
        """Look through one model call.

        Args:
            tokens: Shape (rows, width), padded on the right.
            target_scores: Shape (rows, width, vocab).
        """
        lengths = sorted({len(text) for text in self._wanted if len(text) <= tokens.shape[1]})
        hits: list[tuple[int, int, _Wanted]] = []
        for row, line in enumerate(tokens.tolist()):
            for length in lengths:
                hits.extend((row, length, x) for x in self._wanted.pop(tuple(line[:length]), ()))
        if not hits:
            return
        rows = sorted({row for row, _, _ in hits})
        width = max(length for _, length, _ in hits)
        drafter_scores = self._drafter(tokens[rows, :width])
        for row, length, wanted in hits:
            first = length - len(wanted.continuation)
            target = target_scores[row, first:length].float()
            drafter = drafter_scores[rows.index(row), first:length].float()
            drafter = fit_vocabulary(drafter, target.shape[-1])
            chosen = torch.tensor(wanted.continuation, device=drafter.device)[:, None]
            log_q = torch.log_softmax(drafter, -1).gather(1, chosen)
            wanted.score.drafter_nll_sum -= float(log_q.double().sum())
            wanted.score.num_measured += length - first
            terms = divergences(target, drafter)
            terms.add_to([wanted.score.statistics] * (length - first))
