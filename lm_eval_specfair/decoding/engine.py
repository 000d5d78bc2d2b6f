"""The decoding loop: draft, verify, accept, roll back, for a batch whose rows go at their own pace.

Token ids in; token ids and statistics out. A finished row's place is taken by a waiting request at
once, so that the batch stays full until the end. A request's outcome depends on the request alone:
its random numbers come from its own generator, never from the batch.

A row's last kept token has no cache entry yet: it is the first token of the next block, whose
scores are then behind the kept text and behind each drafted token. So the prompt's pass emits
nothing, and every emitted token comes from a counted step.

A row whose scores are no numbers (NaN, infinite) fails alone: what it left in the caches could
reach others through a masked key (0 * NaN), so these are read anew.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import (
    Verification,
    accept_greedy,
    accept_sampled,
    log_distribution,
)
from lm_eval_specfair.decoding.counters import Clock, Statistics, divergences
from lm_eval_specfair.decoding.drafters import Draft, Drafter
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records import FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be decoded.

    Attributes:
        request_id: Names the request; with the seed, its source of randomness.
        prompt: Token ids, at least one.
        stopping: What ends it.
        num_speculative_tokens: Tokens drafted per step, where fewer than the configuration's.
    """

    request_id: str
    prompt: list[int]
    stopping: Stopping
    num_speculative_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A decoded request.

    Attributes:
        request: What was asked for.
        token_ids: Generated tokens, with the one that ended the text.
        finish_reason: Why it ended; None where it failed.
        statistics: What was counted meanwhile.
        failure: Why it could not be decoded to its end, or None.
    """

    request: Request
    token_ids: list[int]
    finish_reason: FinishReason | None
    statistics: Statistics
    failure: str | None = None


def request_generator(seed: int, request_id: str) -> np.random.Generator:
    """The random numbers of one request: a counter-based generator keyed by seed and request."""
    digest = hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


_FAILURES = ("", "the target's scores are no numbers", "the drafter's scores are no numbers")


@dataclass(slots=True)
class _Row:
    """A request on its way. `tokens` is the prompt and what was kept since."""

    request: Request
    tokens: list[int]
    generator: np.random.Generator
    statistics: Statistics = field(default_factory=Statistics)
    finish_reason: FinishReason | None = None
    failure: str | None = None

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None or self.failure is not None

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def remaining(self) -> int:
        done = len(self.tokens) - len(self.request.prompt)
        return self.request.stopping.max_new_tokens - done


class Engine:
    """Decodes requests with a target and a drafter.

    The drafter may be exchanged between runs (`NoDrafter` is the plain baseline); target, settings
    and stopping stay the same, so the runs can be compared.
    """

    def __init__(self, target: CausalModel, config: DecodeConfig) -> None:
        """Decode with this target under these settings."""
        self._target = target
        self._config = config
        self._device = target.device
        # Greedy decoding draws nothing; sampling needs, a step, one number for each drafted token,
        # one to accept it by, and one for the token that follows.
        self._num_uniforms = 0 if config.greedy else 2 * config.num_speculative_tokens + 1

    def decode(
        self, requests: Iterable[Request], drafter: Drafter, *, batch_size: int
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes.

        Args:
            requests: Taken in order, when a row becomes free.
            drafter: Proposes the tokens; it is reset first.
            batch_size: Rows decoded together at most, at least 1.
        """
        waiting, rows = deque(requests), list[_Row]()
        self._target.reset()
        drafter.reset()
        while waiting or rows:
            new = [waiting.popleft() for _ in range(min(batch_size - len(rows), len(waiting)))]
            if new:
                rows.extend(self._admitted(new, len(rows), drafter))
            self._step(rows, drafter)
            has_failed = any(row.failure for row in rows)
            for place in reversed(range(len(rows))):
                row = rows[place]
                if not row.is_done:
                    continue
                yield Completion(
                    request=row.request,
                    token_ids=row.generated,
                    finish_reason=row.finish_reason,
                    statistics=row.statistics,
                    failure=row.failure,
                )
                last = len(rows) - 1
                if place < last:
                    self._target.cache.move(last, place)
                    drafter.move(last, place)
                    rows[place] = rows[last]
                rows.pop()
            if has_failed:
                self._read_anew(rows, drafter)

    def _read_anew(self, rows: list[_Row], drafter: Drafter) -> None:
        self._target.reset()
        drafter.reset()
        if rows:
            texts = [row.tokens for row in rows]
            self._target.read_prompts(list(range(len(rows))), [text[:-1] for text in texts])
            drafter.admit(list(range(len(rows))), texts)

    def _admitted(self, requests: list[Request], first: int, drafter: Drafter) -> list[_Row]:
        clock = Clock(self._device)
        places = list(range(first, first + len(requests)))
        prompts = [request.prompt for request in requests]
        self._target.read_prompts(places, [prompt[:-1] for prompt in prompts])
        drafter.admit(places, prompts)
        clock.mark()
        seconds = sum(clock.laps()) / len(requests)
        rows = []
        for request in requests:
            row = _Row(
                request=request,
                tokens=list(request.prompt),
                generator=request_generator(self._config.seed, request.request_id),
            )
            row.statistics.prefill_seconds = seconds
            rows.append(row)
        return rows

    @torch.inference_mode()
    def _step(self, rows: list[_Row], drafter: Drafter) -> None:
        """One round: draft for all rows, verify in one target pass, keep what is accepted."""
        clock, config = Clock(self._device), self._config
        # More than `remaining` minus the token that follows anyway would be drafted in vain.
        wanted = [
            max(0, min(self._cap(row), row.remaining - 1, drafter.max_length - len(row.tokens)))
            for row in rows
        ]
        uniforms = None
        if self._num_uniforms:
            numbers = np.stack([row.generator.random(self._num_uniforms) for row in rows])
            uniforms = torch.from_numpy(numbers).to(self._device)
        draft = drafter.propose([row.tokens for row in rows], wanted, config, uniforms)
        clock.mark()

        pending = torch.tensor([[row.tokens[-1]] for row in rows], device=self._device)
        scores = self._target.score(torch.cat([pending, draft.tokens], 1))
        clock.mark()

        if uniforms is not None:
            scores = log_distribution(scores, config)
        num_drafted = torch.tensor(draft.num_drafted, device=self._device)
        verdict = self._verdict(draft, num_drafted, scores, uniforms)
        faults = self._faults(draft, num_drafted, scores, verdict)
        outcome = torch.cat(
            [
                faults[:, None],
                verdict.num_accepted[:, None],
                verdict.next_token[:, None],
                draft.tokens,
            ],
            1,
        ).tolist()
        examined = [
            self._keep(row, draft, place, *outcome[place]) for place, row in enumerate(rows)
        ]
        drafter.rolled_back([line[1] for line in outcome])
        clock.mark()
        drafting, verifying, deciding = (seconds / len(rows) for seconds in clock.laps())
        for row in rows:
            row.statistics.draft_seconds += drafting
            row.statistics.verify_seconds += verifying
            row.statistics.decode_seconds += drafting + verifying + deciding
            row.statistics.num_active_rows_sum += len(rows)
        # Measuring is no part of decoding: it runs after the clock was read.
        self._measure(rows, draft, scores, examined)

    def _cap(self, row: _Row) -> int:
        most, wished = self._config.num_speculative_tokens, row.request.num_speculative_tokens
        return most if wished is None else min(most, wished)

    def _verdict(
        self, draft: Draft, num_drafted: Tensor, scores: Tensor, uniforms: Tensor | None
    ) -> Verification:
        if uniforms is None:
            return accept_greedy(draft.tokens, num_drafted, scores)
        cap, width = self._config.num_speculative_tokens, draft.tokens.shape[1]
        return accept_sampled(
            draft.tokens,
            num_drafted,
            draft.scores,
            scores,
            uniforms[:, cap : cap + width],
            uniforms[:, -1],
        )

    def _faults(
        self, draft: Draft, num_drafted: Tensor, scores: Tensor, verdict: Verification
    ) -> Tensor:
        """The index into `_FAILURES` of each row, 0 where all scores that it rests on are numbers.

        A row rests on the positions up to the first rejected draft; what a rejected one would have
        led to does not matter.
        """
        each = torch.arange(scores.shape[1], device=self._device)
        looked_at = each <= verdict.num_accepted[:, None]
        # The maximum of a position is NaN or infinite exactly where nothing can be chosen from.
        faults = (~scores.amax(-1).isfinite() & looked_at).any(1).long()
        if draft.scores is not None and draft.scores.shape[1]:
            looked_at = looked_at[:, :-1] & (each[:-1] < num_drafted[:, None])
            bad = ~draft.scores.amax(-1).isfinite() & looked_at
            faults = torch.where(bad.any(1), 2, faults)
        return faults

    def _keep(
        self,
        row: _Row,
        draft: Draft,
        place: int,
        fault: int,
        accepted: int,
        following: int,
        *drafted: int,
    ) -> int:
        """Add a step's tokens to a row, up to where it ends; the number of drafts examined."""
        if fault:
            row.failure = f"{_FAILURES[fault]} behind {len(row.generated)} generated tokens"
            return 0
        row.tokens.extend((*drafted[:accepted], following))
        num_kept, row.finish_reason = row.request.stopping.cut(row.generated, accepted + 1)
        surplus = accepted + 1 - num_kept
        if surplus:
            del row.tokens[-surplus:]
        self._target.cache.lengths[place] = len(row.tokens) - 1
        num_drafted = draft.num_drafted[place]
        # Where the text ended inside the accepted tokens, the rejected one was never looked at.
        rejected = num_kept > accepted and accepted < num_drafted
        examined = min(accepted, num_kept) + rejected
        row.statistics.drafted_per_step.append(num_drafted)
        row.statistics.accepted_per_step.append(min(accepted, num_kept))
        row.statistics.num_examined += examined
        return examined

    def _measure(
        self, rows: list[_Row], draft: Draft, target_scores: Tensor, examined: list[int]
    ) -> None:
        places = [place for place, number in enumerate(examined) for _ in range(number)]
        if not places:
            return
        offsets = [offset for number in examined for offset in range(number)]
        index = (
            torch.tensor(places, device=self._device),
            torch.tensor(offsets, device=self._device),
        )
        target = target_scores[index]
        if draft.scores is None:  # all of q lies on the drafted token
            drafter = torch.full_like(target, -torch.inf)
            drafter.scatter_(1, draft.tokens[index][:, None], 0.0)
        else:
            drafter = draft.scores[index]
        terms = divergences(target, drafter)
        terms.add_to([rows[place].statistics for place in places])
