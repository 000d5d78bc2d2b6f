"""Acceptance statistics of loglikelihood requests, taken from the passes that lm-eval makes anyway.

lm-eval scores given text with the target; its results are left exactly as they are. Each row that
its model call sees is compared with the texts still wanted: scores at a prefix depend on the
prefix alone, so whichever row starts with a wanted text has its scores. Only the drafter's pass
is added. Results are heard one by one where lm-eval would put them into a response cache, so that
a record is written as soon as its text was scored.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.counters import Statistics, divergences
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.records import Record


@dataclass(slots=True)
class Score:
    """What is known of one request: sums over its scored tokens, and lm-eval's results.

    Attributes:
        name: Its request_id, or None for a padding request that is not recorded.
        instance: lm-eval's request.
        text: What is scored.
        results: lm-eval's result of each part (a text longer than the context has several):
            log-likelihood in nats and whether it is greedy; None before it came.
        statistics: Overlap, KL, cross-entropy and target entropy.
        drafter_nll_sum: `-log q` of the text, nats.
        target_probability_sum: `p(token)` of its tokens.
        drafter_probability_sum: `q(token)` of its tokens.
        num_tokens: Scored tokens that lm-eval asked for.
        num_context_tokens: Tokens before them.
        num_measured: Scored tokens that were met in a model call.
    """

    name: str | None
    instance: Instance
    text: str
    results: list[tuple[float, bool] | None]
    statistics: Statistics = field(default_factory=Statistics)
    drafter_nll_sum: float = 0.0
    target_probability_sum: float = 0.0
    drafter_probability_sum: float = 0.0
    num_tokens: int = 0
    num_context_tokens: int = 0
    num_measured: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether lm-eval has the results of all parts."""
        return None not in self.results

    def record(self) -> Record:
        """The record of a text that is scored; one that the drafter missed is not measured."""
        sums, measured = self.statistics, 0 < self.num_measured == self.num_tokens
        parts = [result for result in self.results if result is not None]
        is_whole = self.instance.request_type == "loglikelihood_rolling"
        # As lm-eval sums them, in the order of the text: equal to the last bit.
        target_nll_sum = -float(sum(log_likelihood for log_likelihood, _ in parts))
        failure = None
        if not math.isfinite(target_nll_sum):
            failure, measured = "the target's scores are no numbers", False
        elif measured and not math.isfinite(self.drafter_nll_sum + sums.kl_sum):
            failure, measured = "the drafter's scores are no numbers", False
        return Record(
            request_id=self.name or "",
            task=self.instance.task_name or "",
            doc_id=int(self.instance.doc_id or 0),
            request_type="loglikelihood_rolling" if is_whole else "loglikelihood",
            group_fields=group_fields(self.instance.doc),
            num_prompt_tokens=self.num_context_tokens,
            **sums.distribution_fields(measured=measured),
            target_nll_sum=target_nll_sum if math.isfinite(target_nll_sum) else None,
            drafter_nll_sum=self.drafter_nll_sum if measured else None,
            num_scored_tokens=self.num_tokens,
            num_scored_bytes=len(self.text.encode("utf-8", errors="replace")),
            target_reference_probability_sum=self.target_probability_sum if measured else None,
            drafter_reference_probability_sum=self.drafter_probability_sum if measured else None,
            is_greedy=None if is_whole else parts[0][1],
            failure=failure,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a request's text: what stands where lm-eval keeps a request's cache key."""

    score: Score
    number: int


class ResultHook:
    """Stands in for lm-eval's response cache and hears each result as it comes."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        """Hand the record of each scored request to `write`."""
        self._write = write

    def add_partial(self, _attribute: str, request: object, result: Any) -> None:
        """What lm-eval calls with each result; those of other kinds are passed over."""
        if isinstance(request, Part):
            request.score.results[request.number] = result
            if request.score.is_scored:
                self.scored(request.score)

    def scored(self, score: Score) -> None:
        """Write the record of a request whose parts are all scored."""
        if score.name is not None:
            self._write(score.record())


@dataclass(frozen=True, slots=True)
class _Wanted:
    score: Score
    tokens: list[int]
    continuation: list[int]


class ScoreTap:
    """Watches model calls for the texts of requests and measures the drafter on them."""

    def __init__(self, drafter: PreTrainedModel | None, max_length: int) -> None:
        """Measure with a drafter.

        Args:
            drafter: None to count the texts' tokens only.
            max_length: Longest text that it can read.
        """
        self._drafter = drafter
        self._max_length = max_length if drafter is not None else 0
        # By a running hash of the tokens, so that a row is looked through in one pass, however
        # many texts of different lengths are wanted.
        self._wanted: dict[int, list[_Wanted]] = {}

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
            if tokens and len(tokens) <= self._max_length:
                self._expect(_Wanted(owner, tokens, continuation))

    def _expect(self, wanted: _Wanted) -> None:
        *_, key = prefix_hashes(wanted.tokens)
        self._wanted.setdefault(key, []).append(wanted)

    @torch.inference_mode()
    def see(self, tokens: Tensor, target_scores: Tensor) -> None:
        """Look through one model call.

        Args:
            tokens: Shape (rows, width), padded on the right.
            target_scores: Shape (rows, width, vocab).
        """
        if self._drafter is None or not self._wanted:
            return
        hits = [
            (row, wanted)
            for row, line in enumerate(tokens.tolist())
            for wanted in self._taken(line)
        ]
        if not hits:
            return
        num_measured = 0
        try:
            for _ in self._measure(hits, tokens, target_scores):
                num_measured += 1
        except Exception:
            # Where memory ran out, they come again in a smaller call.
            for _, wanted in hits[num_measured:]:
                self._expect(wanted)
            raise

    def _measure(
        self, hits: list[tuple[int, _Wanted]], tokens: Tensor, target_scores: Tensor
    ) -> Iterator[None]:
        """Add up what the drafter says of each text, as a whole or not at all."""
        assert self._drafter is not None
        rows = sorted({row for row, _ in hits})
        width = max(len(wanted.tokens) for _, wanted in hits)
        # An id that only the target has is read as another token: it has no embedding.
        last_id = int(self._drafter.config.get_text_config(decoder=True).vocab_size) - 1
        known = tokens[rows, :width].clamp(max=last_id)
        drafter_scores = self._drafter(input_ids=known, use_cache=False).logits
        for row, wanted in hits:
            length = len(wanted.tokens)
            first = length - len(wanted.continuation)
            target = target_scores[row, first:length].float()
            drafter = drafter_scores[rows.index(row), first:length].float()
            drafter = fit_vocabulary(drafter, target.shape[-1])
            chosen = torch.tensor(wanted.continuation, device=drafter.device)[:, None]
            log_q = torch.log_softmax(drafter, -1).gather(1, chosen)
            log_p = torch.log_softmax(target, -1).gather(1, chosen)
            terms = divergences(target, drafter)
            wanted.score.drafter_nll_sum -= float(log_q.double().sum())
            wanted.score.drafter_probability_sum += float(log_q.double().exp().sum())
            wanted.score.target_probability_sum += float(log_p.double().exp().sum())
            wanted.score.num_measured += length - first
            terms.add_to([wanted.score.statistics] * (length - first))
            yield

    def _taken(self, line: list[int]) -> list[_Wanted]:
        """The wanted texts that a row starts with; they are wanted no more."""
        found: list[_Wanted] = []
        for length, key in enumerate(prefix_hashes(line), start=1):
            if key in self._wanted:
                here = self._wanted.pop(key)
                same = [each for each in here if each.tokens == line[:length]]
                found.extend(same)
                if len(same) < len(here):  # another text with the same hash
                    self._wanted[key] = [each for each in here if each not in same]
        return found


def prefix_hashes(tokens: Sequence[int]) -> Iterator[int]:
    """A hash of each prefix, the shortest first."""
    key = 0
    for token in tokens:
        key = hash((key, token))
        yield key
