"""lm-eval's Hugging Face model, with a record of each log-likelihood request."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval import utils as lm_eval_utils
from lm_eval.api.instance import Instance
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.harness.loglikelihood.late_weights import LateWeightsLM
from lm_eval_specfair.harness.loglikelihood.scoring import Part, ResultHook, Score, ScoreTap
from lm_eval_specfair.harness.requests import request_ids
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.records import Record

logger = logging.getLogger(__name__)


def _result(key: object) -> tuple[float, bool] | None:
    """lm-eval's result of one part of a request; None of padding, which no request owns."""
    return key.score.results[key.number] if isinstance(key, Part) else None


class ScoringLM(LateWeightsLM):
    """`HFLM` whose results stay as they are, while a drafter is measured on the same texts."""

    def record_scores(self, records: RunFolder, drafter: PreTrainedModel | None) -> None:
        """Record what is scored from now on; without a drafter, the target's results only."""
        self._records = records
        self._parts: Iterator[Part] = iter(())
        # lm-eval hands each result to its response cache; --use_cache is refused, so its place is
        # free.
        self._hook = self.cache_hook = ResultHook(records.write)
        self._most_texts: int | None = None  # scored together, once memory has run out
        self.measure(drafter)

    def measure(self, drafter: PreTrainedModel | None) -> None:
        """Measure a drafter on each text that is scored from now on."""
        length = 0 if drafter is None else longest_text(drafter.config)
        self._tap = ScoreTap(drafter, length)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """lm-eval's own results; the drafter is measured on the continuations."""
        _, earlier = self._scores(requests, [1] * len(requests))
        new = [place for place in range(len(requests)) if place not in earlier]
        results = super().loglikelihood([requests[place] for place in new], disable_tqdm)
        values = {
            i: (-(old.target_nll_sum or 0.0), bool(old.is_greedy)) for i, old in earlier.items()
        }
        values |= dict(zip(new, results, strict=True))
        return [values[place] for place in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """lm-eval's own results; the drafter is measured on the whole texts."""
        num_windows = [len(self._windows(request.args[0])) for request in requests]
        scores, earlier = self._scores(requests, num_windows)
        for score in scores:
            if score.is_scored:  # an empty text, which lm-eval never scores
                self._hook.scored(score)
        new = [place for place in range(len(requests)) if place not in earlier]
        if self.world_size > 1:
            # Between processes lm-eval repeats the first window as padding: there has to be one.
            new = new or list(range(len(requests)))[:1]
        results = super().loglikelihood_rolling([requests[place] for place in new], disable_tqdm)
        values = {place: -(old.target_nll_sum or 0.0) for place, old in earlier.items()}
        values |= dict(zip(new, results, strict=True))
        return [values[place] for place in range(len(requests))]

    def _windows(self, text: str) -> list[Any]:
        """The parts that lm-eval scores a whole text in."""
        windows = lm_eval_utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return list(windows)

    def _scores(
        self, requests: list[Instance], num_parts: list[int]
    ) -> tuple[list[Score], dict[int, Record]]:
        """Scores to be filled in, and by place the records of what a killed run had scored."""
        self.need_weights()
        scores: list[Score] = []
        earlier: dict[int, Record] = {}
        rows = zip(requests, request_ids(requests), num_parts, strict=True)
        for place, (instance, name, parts) in enumerate(rows):
            old = self._records.done.get(name) if name else None
            if old is not None and old.target_nll_sum is not None:
                earlier[place] = old
            else:
                scores.append(Score(name, instance, instance.args[-1], [None] * parts))
        self._records.begin(requests)
        self._parts = iter([Part(score, n) for score in scores for n in range(len(score.results))])
        return scores, earlier

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """lm-eval's own, with the texts announced to the tap that watches its model calls."""
        # Between processes, padding repeats a window that no request owns: it keeps lm-eval's key.
        parts = list(islice(self._parts, len(requests)))
        texts = [(context, continuation) for _, context, continuation in requests[: len(parts)]]
        self._tap.expect([part.score for part in parts], texts, self.max_length)
        owned = [(part, *text) for part, text in zip(parts, texts, strict=True)]
        requests = [*owned, *requests[len(parts) :]]
        while True:
            # Parts whose results came before memory ran out are not scored again.
            places = [n for n, each in enumerate(requests) if _result(each[0]) is None]
            if self._most_texts is not None:
                override_bs = self._most_texts
            try:
                new = super()._loglikelihood_tokens(
                    [requests[place] for place in places],
                    disable_tqdm=disable_tqdm,
                    override_bs=override_bs,
                )
            except Exception as error:
                texts_together = self._texts_together(override_bs)
                if texts_together <= 1 or not should_reduce_batch_size(error):
                    raise
                error.__traceback__ = None  # it keeps the pass's tensors alive
            else:
                results = dict(zip(places, new, strict=True))
                return [
                    results.get(n) or cast(tuple[float, bool], _result(each[0]))
                    for n, each in enumerate(requests)
                ]
            clear_device_cache(garbage_collection=True)
            self._halve(texts_together)

    def _texts_together(self, override_bs: int | None) -> int:
        """Texts that lm-eval scores in one pass at most."""
        if isinstance(self.batch_size, int):
            return self.batch_size
        return override_bs or max(self.batch_sizes.values(), default=int(self.max_batch_size))

    def _halve(self, texts_together: int) -> None:
        self._most_texts = texts_together // 2
        if isinstance(self.batch_size, int):
            self.batch_size_per_gpu = self._most_texts  # what lm-eval's own scoring reads
        logger.warning(
            "out of memory with %d texts scored together; continuing with %d (--batch_size %d "
            "avoids this)",
            texts_together, self._most_texts, self._most_texts,
        )  # fmt: skip

    def _model_call(
        self,
        inps: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, attn_mask, labels)
        self._tap.see(inps, logits)
        return logits
