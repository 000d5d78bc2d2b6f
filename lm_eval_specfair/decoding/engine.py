"""The decoding loop: draft, verify, accept, roll back, for a batch of rows of different lengths.

Token ids in; token ids and counters out. A finished row's place is taken by a waiting request at
once, so that the batch stays full until the end. A request's outcome depends on the request alone:
its random numbers come from its own generator, never from the batch.

A row's last kept token has no cache entry yet: it is the first token of the next block, whose
scores then follow the kept text and each drafted token. So the prompt's pass emits nothing, and
every emitted token comes from a counted step.

A row whose logits are NaN or infinite fails alone: what it left in the caches could reach others
through a masked key (0 * NaN), so the caches are rebuilt from the tokens.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import (
    Verification,
    accept_block,
    accept_greedy,
    accept_sampled,
    log_distribution,
)
from lm_eval_specfair.decoding.clock import Clock
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.counters import (
    NAN_DRAFTER,
    NAN_TARGET,
    RequestCounters,
    add_divergences,
    add_untruncated,
)
from lm_eval_specfair.decoding.drafters import Draft, Drafter
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.records import FinishReason


def request_generator(seed: int, request_id: str) -> np.random.Generator:
    """The random numbers of one request: a counter-based generator keyed by seed and id."""
    digest = hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


_FAILURES = ("", NAN_TARGET, NAN_DRAFTER)


@dataclass(slots=True)
class _Row:
    """A request being decoded; `tokens` is the prompt and what was kept since."""

    request: Request
    tokens: list[int]
    generator: np.random.Generator
    counters: RequestCounters
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
        return self.request.stopping.max_new_tokens - len(self.generated)


class Engine:
    """Decodes with one target; the drafter comes with each call (`NoDrafter` is the baseline)."""

    def __init__(self, target: CausalModel, config: DecodeConfig) -> None:
        self._target = target
        self._config = config
        self._device = target.device
        # Greedy decoding draws nothing. Sampling needs, per step, one number to draw each drafted
        # token, one to accept it by, and one for the token that follows.
        self._num_uniforms = 0 if config.greedy else 2 * config.num_speculative_tokens + 1

    def decode(
        self, requests: Iterable[Request], drafter: Drafter, *, batch_size: int
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes; at most `batch_size` rows together."""
        waiting, rows = deque(requests), list[_Row]()
        self._target.reset()
        self._target.watch(drafter.feature_layers)
        drafter.reset()
        while waiting or rows:
            new = [waiting.popleft() for _ in range(min(batch_size - len(rows), len(waiting)))]
            if new:
                rows += self._admit(new, len(rows), drafter)
            self._step(rows, drafter)
            has_failed = any(row.failure for row in rows)
            for place in reversed(range(len(rows))):
                row = rows[place]
                if not row.is_done:
                    continue
                yield Completion(
                    row.request, row.generated, row.finish_reason, row.counters, row.failure
                )
                last = len(rows) - 1
                drafter.remove(place, last)
                if place < last:
                    self._target.cache.move(last, place)
                    rows[place] = rows[last]
                rows.pop()
            if has_failed:
                self._rebuild_caches(rows, drafter)

    def _rebuild_caches(self, rows: list[_Row], drafter: Drafter) -> None:
        self._target.reset()
        drafter.reset()
        if rows:
            self._read(
                list(range(len(rows))),
                [row.tokens for row in rows],
                [row.request for row in rows],
                drafter,
            )

    def _read(
        self, places: list[int], texts: list[list[int]], requests: list[Request], drafter: Drafter
    ) -> None:
        """Have both models read the kept tokens of rows that are empty."""
        self._target.read_prompts(places, [text[:-1] for text in texts])
        drafter.assign(places, [request.drafter for request in requests])
        drafter.admit(places, texts)
        if drafter.feature_layers:
            drafter.read_features(places, self._target.features)

    def _admit(self, requests: list[Request], first: int, drafter: Drafter) -> list[_Row]:
        clock = Clock(self._device)
        places = list(range(first, first + len(requests)))
        prompts = [request.prompt for request in requests]
        for request in requests:  # the last token of a text has no place to be read at
            self._target.refuse_beyond(len(request.prompt) + request.stopping.max_new_tokens - 1)
        self._read(places, prompts, requests, drafter)
        clock.mark()
        seconds = sum(clock.laps()) / len(requests)
        return [
            _Row(
                request=request,
                tokens=list(request.prompt),
                generator=request_generator(self._config.seed, request.request_id),
                counters=RequestCounters(prefill_seconds=seconds, discarded_per_step=[]),
            )
            for request in requests
        ]

    @torch.inference_mode()
    def _step(self, rows: list[_Row], drafter: Drafter) -> None:
        """One round: draft for all rows, verify in one target pass, keep what is accepted."""
        clock, config = Clock(self._device), self._config
        # The last of the `remaining` tokens follows anyway: to draft it too would be in vain.
        draft_lengths = [
            max(0, min(self._cap(row), row.remaining - 1, drafter.longest(place) - len(row.tokens)))
            for place, row in enumerate(rows)
        ]
        uniforms = None
        if self._num_uniforms:
            numbers = np.stack([row.generator.random(self._num_uniforms) for row in rows])
            uniforms = torch.from_numpy(numbers).to(self._device)
        for_drafts = config.with_own([row.request.drafter_temperature for row in rows])
        draft = drafter.propose([row.tokens for row in rows], draft_lengths, for_drafts, uniforms)
        clock.mark()

        pending = torch.tensor([[row.tokens[-1]] for row in rows], device=self._device)
        scores = self._target.score(torch.cat([pending, draft.tokens], 1))
        clock.mark()

        raw_scores = scores
        if uniforms is not None:
            scores = log_distribution(scores, config)
        num_drafted = torch.tensor(draft.num_drafted, device=self._device)
        verified = self._verify(draft, num_drafted, scores, uniforms)
        faults = self._faults(draft, num_drafted, scores, verified)
        # In one transfer, since each waits for the device.
        columns = torch.stack([faults, verified.num_accepted, verified.next_token], 1)
        outcome = torch.cat([columns, draft.tokens], 1).tolist()
        examined = [
            self._keep(row, draft, place, *outcome[place]) for place, row in enumerate(rows)
        ]
        num_accepted = [accepted for _, accepted, *_ in outcome]
        drafter.rolled_back(num_accepted)
        if drafter.feature_layers:
            read = zip(self._target.features, num_accepted, strict=True)
            kept = [features[: accepted + 1] for features, accepted in read]
            drafter.read_features(list(range(len(rows))), kept)
        clock.mark()
        drafting, verifying, deciding = (seconds / len(rows) for seconds in clock.laps())
        for row in rows:
            row.counters.draft_seconds += drafting
            row.counters.verify_seconds += verifying
            row.counters.decode_seconds += drafting + verifying + deciding
            row.counters.num_active_rows_sum += len(rows)
        # Measuring is not part of decoding: it runs after the clock was read.
        self._measure(rows, draft, scores, raw_scores, examined)

    def _cap(self, row: _Row) -> int:
        most, own = self._config.num_speculative_tokens, row.request.num_speculative_tokens
        return most if own is None else min(most, own)

    def _verify(
        self, draft: Draft, num_drafted: Tensor, scores: Tensor, uniforms: Tensor | None
    ) -> Verification:
        if uniforms is None:
            return accept_greedy(draft.tokens, num_drafted, scores)
        cap, width = self._config.num_speculative_tokens, draft.tokens.shape[1]
        to_accept, to_follow = uniforms[:, cap : cap + width], uniforms[:, -1]
        rule = accept_block if self._config.verification == "block" else accept_sampled
        return rule(draft.tokens, num_drafted, draft.scores, scores, to_accept, to_follow)

    def _faults(
        self, draft: Draft, num_drafted: Tensor, scores: Tensor, verified: Verification
    ) -> Tensor:
        """Each row's index into `_FAILURES`, 0 where all logits that it rests on are finite.

        What would have followed the first rejected draft does not matter, unless drafts were judged
        as a block.
        """
        offsets = torch.arange(scores.shape[1], device=self._device)
        is_whole = self._config.verification == "block" and not self._config.greedy
        is_used = offsets <= (num_drafted if is_whole else verified.num_accepted)[:, None]
        # The maximum of a position is NaN or infinite exactly where nothing can be chosen from.
        faults = (~scores.amax(-1).isfinite() & is_used).any(1).long()
        if draft.scores is not None and draft.scores.shape[1]:
            is_used = is_used[:, :-1] & (offsets[:-1] < num_drafted[:, None])
            bad = ~draft.scores.amax(-1).isfinite() & is_used
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
        """Add a step's tokens to a row, up to where it ends; return the number of drafts examined.

        `place` is the row's in the batch, `fault` an index into `_FAILURES`.
        """
        if fault:
            row.failure = f"{_FAILURES[fault]} after {len(row.generated)} generated tokens"
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
        row.counters.drafted_per_step.append(num_drafted)
        row.counters.accepted_per_step.append(min(accepted, num_kept))
        assert row.counters.discarded_per_step is not None
        row.counters.discarded_per_step.append(list(drafted[min(accepted, num_kept) : num_drafted]))
        row.counters.num_examined += examined
        return examined

    def _measure(
        self,
        rows: list[_Row],
        draft: Draft,
        target_scores: Tensor,
        raw_scores: Tensor,
        examined: list[int],
    ) -> None:
        places = [place for place, number in enumerate(examined) for _ in range(number)]
        if not places:
            return
        offsets = [offset for number in examined for offset in range(number)]
        index = tuple(torch.tensor(axis, device=self._device) for axis in (places, offsets))
        target = target_scores[index]
        if draft.scores is None:  # q is 1 for the drafted token
            drafter = torch.full_like(target, -torch.inf)
            drafter.scatter_(1, draft.tokens[index][:, None], 0.0)
        else:
            drafter = draft.scores[index]
        owners = [rows[place].counters for place in places]
        add_divergences(owners, target, drafter)
        if draft.raw_scores is not None:
            raw = torch.stack(list(draft.raw_scores), 1)[index]
            add_untruncated(owners, raw_scores[index] / self._config.temperature, raw)
