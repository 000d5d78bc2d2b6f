"""A check of greedy texts that does not rest on the engine: the target's own plain pass.

The baseline is decoded by the same engine as the drafted texts, so a fault of its cache or masks is
in both, and they agree. Here the model itself reads prompt and text at once.
"""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from lm_eval_specfair.decoding.plain_pass import check_greedy, margin_after
from lm_eval_specfair.harness.jobs.group_draw import drawn
from lm_eval_specfair.harness.jobs.paired_decoder import Decoded
from lm_eval_specfair.harness.requests import Job

logger = logging.getLogger(__name__)


class LosslessCheck:
    """Checks some of a run's greedy texts, and every difference from the baseline."""

    def __init__(
        self,
        model: PreTrainedModel | None,
        num_checks: Callable[[str], int | None],
        *,
        seed: int,
    ) -> None:
        """Check with a target that is loaded here; None checks nothing.

        `num_checks` is of a task, None for all its requests.
        """
        self._model, self._num_checks, self._seed = model, num_checks, seed
        self._chosen: set[str] = set()

    def choose(self, jobs: Sequence[Job]) -> None:
        """Choose what is checked: of each task the longest request, and others drawn by group."""
        by_task: dict[str, list[Job]] = {}
        for job in jobs:
            if job.config.greedy and job.error is None and not job.is_padding:
                by_task.setdefault(job.task, []).append(job)
        self._chosen = set()
        for task, same in by_task.items() if self._model is not None else ():
            longest = max(same, key=_longest)
            others = (job for job in drawn(same, self._seed) if job is not longest)
            chosen = itertools.islice((longest, *others), self._num_checks(task))
            self._chosen.update(job.request.request_id for job in chosen)

    def fields(self, decoded: Decoded) -> dict[str, Any]:
        """What a request's record says of its check, and of where its baseline parts from it."""
        done, plain = decoded.completion, decoded.baseline
        if done.failure or not done.token_ids or not decoded.job.config.greedy:
            return {}
        found: dict[str, Any] = {}
        if plain is not None and not plain.failure and plain.token_ids != done.token_ids:
            found |= self._difference(done.request.prompt, done.token_ids, plain.token_ids)
        if done.request.request_id in self._chosen and self._model is not None:
            try:
                check = check_greedy(self._model, done.request.prompt, done.token_ids)
            except Exception as error:  # memory, most likely; the record must not be lost
                _warn_unchecked(done.request.request_id, error)
                return found
            found |= {
                "plain_pass_tokens": check.num_tokens,
                "plain_pass_ties": check.num_ties,
                "plain_pass_differing": len(check.differing),
                "plain_pass_differs_at": check.differing[0] if check.differing else None,
            }
        return found

    def _difference(self, prompt: list[int], one: list[int], other: list[int]) -> dict[str, Any]:
        """Where two texts part, and whether that is a tie; a text that only ends early is none."""
        pairs = enumerate(zip(one, other, strict=False))
        shortest = min(len(one), len(other))
        place = next((place for place, (a, b) in pairs if a != b), shortest)
        found: dict[str, Any] = {"baseline_differs_at": place}
        if self._model is None:
            return found
        if place == shortest:
            return found | {"baseline_is_tie": False}
        try:
            choices = one[place], other[place]
            margin, bound = margin_after(self._model, [*prompt, *one[:place]], choices)
        except Exception as error:  # as above
            _warn_unchecked("a difference from the baseline", error)
            return found
        known = {"baseline_margin": margin} if math.isfinite(margin) else {}
        return found | known | {"baseline_is_tie": margin <= bound}


def _longest(job: Job) -> int:
    return len(job.request.prompt) + job.request.stopping.max_new_tokens


def _warn_unchecked(what: str, error: Exception) -> None:
    reason = next(iter(str(error).splitlines()), "")[:200]
    logger.warning(
        "not checked against the target's own pass: %s (%s: %s)", what, type(error).__name__, reason
    )
