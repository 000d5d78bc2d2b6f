"""Divergences on the texts of loglikelihood requests, from the passes that lm-eval makes anyway.

lm-eval's results stay exactly as they are. Each row of its model calls is compared with the texts
still expected: scores depend on the prefix alone, so any row that starts with an expected text has
its scores. Only the drafter's pass is added. Results arrive one by one where lm-eval would put them
into a response cache, so that a record is written as soon as its text is scored.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.acceptance import most_likely
from lm_eval_specfair.decoding.counters import (
    NAN_DRAFTER,
    NAN_TARGET,
    RequestCounters,
    add_divergences,
)
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.records import Record


@dataclass(slots=True)
class Score:
    """One request: sums over its scored tokens, and lm-eval's results.

    Attributes:
        name: Its request_id, or None for a padding request that is not recorded.
        instance: lm-eval's request.
        results: lm-eval's result of each part (a text longer than the context has several):
            log-likelihood in nats and whether it is greedy; None until it arrives.
        drafter_nll_sum: `-log q` of the text, nats.
        target_probability_sum: `p(token)` of its tokens.
        drafter_probability_sum: `q(token)` of its tokens.
        num_agreeing: Tokens before which both models' most likely token is the same.
        num_tokens: Scored tokens that lm-eval asked for.
        num_context_tokens: Tokens before them.
        num_measured: Scored tokens that were seen in a model call.
    """

    name: str | None
    instance: Instance
    text: str
    results: list[tuple[float, bool] | None]
    counters: RequestCounters = field(default_factory=RequestCounters)
    drafter_nll_sum: float = 0.0
    target_probability_sum: float = 0.0
    drafter_probability_sum: float = 0.0
    num_agreeing: int = 0
    num_tokens: int = 0
    num_context_tokens: int = 0
    num_measured: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether lm-eval has the results of all parts."""
        return None not in self.results

    def record(self) -> Record:
        """The record, once all parts are scored; without divergences if the drafter missed one."""
        sums, measured = self.counters, 0 < self.num_measured == self.num_tokens
        parts = [result for result in self.results if result is not None]
        is_whole = self.instance.request_type == "loglikelihood_rolling"
        # As lm-eval sums them, in the order of the text: equal to the last bit.
        target_nll_sum = -float(sum(log_likelihood for log_likelihood, _ in parts))
        failure = None
        if not math.isfinite(target_nll_sum):
            failure, measured = NAN_TARGET, False
        elif measured and not math.isfinite(self.drafter_nll_sum + sums.kl_sum):
            failure, measured = NAN_DRAFTER, False
        return Record(
            request_id=self.name or "",
            task=self.instance.task_name or "",
            doc_id=int(self.instance.doc_id or 0),
            request_type="loglikelihood_rolling" if is_whole else "loglikelihood",
            group_fields=group_fields(self.instance.doc),
            num_prompt_tokens=self.num_context_tokens,
            # Parts are scored in any order, so single positions are not told.
            **(sums.distribution_fields(measured=measured) | {"overlap_per_position": None}),
            target_nll_sum=target_nll_sum if math.isfinite(target_nll_sum) else None,
            drafter_nll_sum=self.drafter_nll_sum if measured else None,
            num_scored_tokens=self.num_tokens,
            num_scored_bytes=len(self.text.encode("utf-8", errors="replace")),
            target_reference_probability_sum=self.target_probability_sum if measured else None,
            drafter_reference_probability_sum=self.drafter_probability_sum if measured else None,
            num_agreeing_positions=self.num_agreeing if measured else None,
            is_greedy=None if is_whole else parts[0][1],
            is_right_choice=getattr(self.instance, "is_right_choice", None),
            failure=failure,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a request's text; it takes the place of lm-eval's cache key of the request."""

    score: Score
    number: int


class ResultHook:
    """Receives each result as it comes, in the place of lm-eval's response cache."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        """Pass the record of each scored request to `write`."""
        self._write = write

    def add_partial(self, _attribute: str, request: object, result: Any) -> None:
        """Called by lm-eval with each result; those of other kinds are ignored."""
        if isinstance(request, Part):
            request.score.results[request.number] = result
            if request.score.is_scored:
                self.scored(request.score)

    def scored(self, score: Score) -> None:
        """Write the record of a request whose parts are all scored."""
        if score.name is not None:
            self._write(score.record())


@dataclass(frozen=True, slots=True)
class _Expected:
    score: Score
    tokens: list[int]
    continuation: list[int]


class ScoreTap:
    """Watches model calls for the texts of requests, and measures the drafter on them."""

    def __init__(self, drafter: PreTrainedModel | None, max_length: int) -> None:
        """Measure a drafter on texts that it can read; None counts the texts' tokens only."""
        self._drafter = drafter
        self._max_length = max_length if drafter is not None else 0
        # By a running hash of the tokens, so that a row is searched in one pass, however many texts
        # of different lengths are expected.
        self._expected: dict[int, list[_Expected]] = {}

    def expect(
        self, owners: Sequence[Score], texts: Sequence[tuple[list[int], list[int]]], max_length: int
    ) -> None:
        """Expect texts (context, continuation) in coming calls.

        Args:
            owners: Where each text's sums go.
            texts: As token ids.
            max_length: Where lm-eval cuts off the left.
        """
        for owner, (context, continuation) in zip(owners, texts, strict=True):
            tokens = (context + continuation)[-(max_length + 1) :][:-1]
            owner.num_tokens += len(continuation)
            owner.num_context_tokens += len(tokens) + 1 - len(continuation)
            if tokens and len(tokens) <= self._max_length:
                self._add(_Expected(owner, tokens, continuation))

    def _add(self, text: _Expected) -> None:
        *_, key = prefix_hashes(text.tokens)
        self._expected.setdefault(key, []).append(text)

    @torch.inference_mode()
    def see(self, tokens: Tensor, target_scores: Tensor) -> None:
        """Search one model call for expected texts.

        Args:
            tokens: Shape (rows, width), padded on the right.
            target_scores: Shape (rows, width, vocab).
        """
        if self._drafter is None or not self._expected:
            return
        hits = [
            (row, text) for row, line in enumerate(tokens.tolist()) for text in self._taken(line)
        ]
        if not hits:
            return
        num_measured = 0
        try:
            for _ in self._measure(hits, tokens, target_scores):
                num_measured += 1
        except Exception:
            # Where memory ran out, they come again in a smaller call.
            for _, text in hits[num_measured:]:
                self._add(text)
            raise

    def _measure(
        self, hits: list[tuple[int, _Expected]], tokens: Tensor, target_scores: Tensor
    ) -> Iterator[None]:
        """Add the sums of each text to its score, all or none; yield after each."""
        assert self._drafter is not None
        rows = sorted({row for row, _ in hits})
        width = max(len(text.tokens) for _, text in hits)
        # An id that only the target has is read as another token: it has no embedding.
        last_id = int(self._drafter.config.get_text_config(decoder=True).vocab_size) - 1
        known = tokens[rows, :width].clamp(max=last_id)
        drafter_scores = self._drafter(input_ids=known, use_cache=False).logits
        for row, text in hits:
            score, length = text.score, len(text.tokens)
            first = length - len(text.continuation)
            target = target_scores[row, first:length].float()
            drafter = drafter_scores[rows.index(row), first:length].float()
            drafter = fit_vocabulary(drafter, target.shape[-1])
            chosen = torch.tensor(text.continuation, device=drafter.device)[:, None]
            log_q = torch.log_softmax(drafter, -1).gather(1, chosen)
            log_p = torch.log_softmax(target, -1).gather(1, chosen)
            agreeing = int((most_likely(target) == most_likely(drafter)).sum())
            nll = -float(log_q.double().sum())
            probability = float(log_q.double().exp().sum())
            target_probability = float(log_p.double().exp().sum())
            add_divergences([score.counters] * (length - first), target, drafter)
            score.drafter_nll_sum += nll
            score.drafter_probability_sum += probability
            score.target_probability_sum += target_probability
            score.num_agreeing += agreeing
            score.num_measured += length - first
            yield

    def _taken(self, line: list[int]) -> list[_Expected]:
        """The expected texts that a row starts with; they are expected no more."""
        taken: list[_Expected] = []
        for length, key in enumerate(prefix_hashes(line), start=1):
            if key in self._expected:
                texts = self._expected.pop(key)
                same = [text for text in texts if text.tokens == line[:length]]
                taken.extend(same)
                if len(same) < len(texts):  # another text with the same hash
                    self._expected[key] = [text for text in texts if text not in same]
        return taken


def prefix_hashes(tokens: Sequence[int]) -> Iterator[int]:
    """A hash of each prefix, the shortest first."""
    key = 0
    for token in tokens:
        key = hash((key, token))
        yield key
