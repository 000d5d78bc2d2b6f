"""A running server as a `Decoder`, and beside it the same model served without a drafter."""

import asyncio
import atexit
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request, Told
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.serving.answer import ServedAnswer
from lm_eval_specfair.serving.client import ServedRequestError, ServerClient
from lm_eval_specfair.serving.count_fields import COUNT_FIELDS, CutText, cut_text
from lm_eval_specfair.serving.event_loop import LoopThread
from lm_eval_specfair.serving.probe import ServerFacts, server_facts
from lm_eval_specfair.serving.prometheus import DraftCounters, read_counters
from lm_eval_specfair.serving.protocols import ServedRequest

_CHECKED_EVERY = 30.0  # seconds, that the model is still the same
_COUNTERS_SETTLE = 0.05  # seconds between two looks at counters that lag behind the answer
_MOST_LOOKS = 40
_NOT_TOLD = (
    "draft_seconds", "verify_seconds", "num_active_rows_sum", "overlap_sum", "kl_sum",
    "cross_entropy_sum", "target_entropy_sum", "num_distribution_positions",
    "num_infinite_positions",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that was found."""

    client: ServerClient
    facts: ServerFacts


@dataclass(slots=True)
class Counting:
    """How a run's counts came about, for `run.json`.

    Attributes:
        without_counts: Texts of which the server gave no counts that are theirs alone.
        contradictory: Texts whose counts contradict themselves; theirs are not recorded.
        example: What the first of these contradicts itself in.
        behind_stops: Tokens that were generated behind a stop string, and thrown away.
    """

    without_counts: int = 0
    contradictory: int = 0
    example: str = ""
    behind_stops: int = 0


class ServerDecoder:
    """Decodes requests on a server; see `Decoder`."""

    def __init__(
        self,
        loop: LoopThread,
        server: Server,
        baseline: Server | None,
        *,
        drafts: bool,
        by_metrics: bool = False,
        num_speculative_tokens: int = 0,
        decode: Callable[[list[int]], str] | None = None,
        stop_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            loop: Where the clients live.
            server: What is measured.
            baseline: The same model without a drafter.
            drafts: Whether the first has a drafter.
            by_metrics: Whether counts are differences of its `/metrics`.
            num_speculative_tokens: The most that it drafts in a step, where it does not say.
            decode: Token ids to text, special tokens kept; None without a tokenizer.
            stop_tokens: Stop strings to tokens; None where stop strings go to the server.
        """
        self.drafts = drafts
        self.max_rows = server.client.connection.num_concurrent
        self.states: dict[str, str] = {}
        self.steps_differ = False
        self.counting = Counting()
        self._loop, self._servers = loop, {False: server, True: baseline or server}
        self._by_metrics, self._longest = by_metrics, num_speculative_tokens
        self._decode, self._stop_tokens = decode, stop_tokens
        self._checked = {plain: (time.monotonic(), 0) for plain in self._servers}
        self._lock = asyncio.Lock()
        atexit.register(self.close)

    def decode(
        self, requests: Sequence[Request], config: DecodeConfig, *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes or fails.

        Raises:
            ConfigError: If the server is gone, or serves another model than it did.
        """
        work = partial(self._completion, config=config, plain=plain)
        yield from self._loop.each(work, requests, at_once=self.max_rows)

    def check(self) -> None:
        """Ask the servers again who they are.

        Raises:
            ConfigError: If one is gone, or serves another model than it did.
        """
        for plain in self._servers:
            self._loop.run(self._same_model(plain, now=True))

    def disconnect(self) -> None:
        """Close all connections; a further request opens them again."""
        for server in self._servers.values():
            self._loop.run(server.client.close())

    def close(self) -> None:
        """Close everything."""
        self.disconnect()
        self._loop.close()
        atexit.unregister(self.close)

    async def _completion(
        self, request: Request, *, config: DecodeConfig, plain: bool
    ) -> Completion:
        server = self._servers[plain]
        asked = self._asked(server, request, config)
        protocol = server.facts.protocol
        before = await self._counters(server) if self._by_metrics and not plain else None
        try:
            answer = await server.client.post(
                protocol.path(asked),
                protocol.body(asked),
                lambda: ServedAnswer(protocol, asked.max_new_tokens),
            )
        except ServedRequestError as error:
            return Completion.failed(request, error)
        if before is not None:
            await self._count_by_metrics(server, answer, before)
        await self._same_model(plain)
        return self._told(server, request, asked, answer, plain=plain or not self.drafts)

    def _asked(self, server: Server, request: Request, config: DecodeConfig) -> ServedRequest:
        stops = request.stopping.stop_strings
        by_tokens = bool(stops) and self._stop_tokens is not None
        by_tokens = by_tokens and not server.facts.protocol.counts_at_stop_strings
        digest = hashlib.sha256(f"{config.seed}\0{request.request_id}".encode()).digest()
        return ServedRequest(
            model=server.facts.model,
            prompt=request.prompt if request.asked is None else request.asked,
            max_new_tokens=request.stopping.max_new_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            seed=int.from_bytes(digest[:4], "little") >> 1,
            stop_strings=() if by_tokens else stops,
            stop_token_ids=self._stop_tokens(stops) if by_tokens and self._stop_tokens else (),
        )

    def _told(
        self,
        server: Server,
        request: Request,
        asked: ServedRequest,
        answer: ServedAnswer,
        *,
        plain: bool,
    ) -> Completion:
        """The completion: the answer cut by our stops, counted by our convention."""
        text = answer.served_text()
        if plain:
            text = replace(text, counts=None)
        cut = cut_text(
            text,
            max_new_tokens=request.stopping.max_new_tokens,
            stop_strings=() if asked.stop_strings else request.stopping.stop_strings,
            decode=self._decode,
            num_speculative_tokens=self._longest,
        )
        counts = _plain_counts(cut.num_tokens) if plain else self._counts(answer, cut)
        histogram = counts["acceptance_histogram"]
        if not plain and not cut.contradiction:
            said = answer.counts.num_spec_tokens if answer.counts else None
            self._longest = max(self._longest, said or 0, len(histogram or [0]) - 1)
        first = answer.arrivals[0].seconds if answer.arrivals else 0.0
        last = answer.arrival_of(cut.num_tokens) or first
        ids = answer.token_ids[: cut.num_tokens] if answer.has_token_ids else []
        known = len(request.prompt) if request.asked is None else answer.num_prompt_tokens
        fields: dict[str, Any] = dict.fromkeys(_NOT_TOLD) | counts
        fields |= {
            "num_prompt_tokens": known or 0,
            "num_generated_tokens": cut.num_tokens,
            "prefill_seconds": first,
            "decode_seconds": last - first,
            "first_token_seconds": first,
        }
        if not answer.has_token_ids:
            fields |= dict.fromkeys(("generated_token_ids", "num_4grams", "num_repeated_4grams"))
        return Completion(
            request,
            ids,
            cut.finish_reason,
            RequestCounters(prefill_seconds=first, decode_seconds=last - first),
            told=Told(
                text=server.client.hidden(answer.text),
                num_tokens=cut.num_tokens,
                prompt_token_ids=answer.prompt_token_ids,
                num_speculative_tokens=0 if plain else self._longest,
                fields=fields,
            ),
        )

    def _counts(self, answer: ServedAnswer, cut: CutText) -> dict[str, Any]:
        self.counting.behind_stops += answer.num_tokens - cut.num_tokens
        if cut.contradiction:
            self.counting.contradictory += 1
            self.counting.example = self.counting.example or cut.contradiction
        elif answer.counts is None or cut.fields["num_spec_steps"] is None:
            self.counting.without_counts += 1
        return cut.fields

    # ------------------------------------------------------------------ counts by /metrics

    async def _counters(self, server: Server) -> DraftCounters:
        page = await server.client.get("/metrics")
        found = None if page is None else read_counters(page.decode("utf-8", "replace"))
        if found is None:
            raise ConfigError(
                f"{server.client.connection.base_url}/metrics has no counters of speculative "
                "decoding; counts=metrics needs a vLLM server with a drafter, or llama.cpp's "
                "started with --metrics"
            )
        return found

    async def _count_by_metrics(
        self, server: Server, answer: ServedAnswer, before: DraftCounters
    ) -> None:
        """Fill in an answer's counts, if no other request was counted meanwhile."""
        answer.counts = None
        for _ in range(_MOST_LOOKS):
            after = await self._counters(server)
            answer.counts = after.since(before, answer.num_tokens)
            if answer.counts is not None or after.tokens - before.tokens > answer.num_tokens:
                return
            await asyncio.sleep(_COUNTERS_SETTLE)

    # ------------------------------------------------------------------ the model stays the same

    async def _same_model(self, plain: bool, *, now: bool = False) -> None:
        """Look whether the server still serves what it did, after it was away and now and then."""
        server = self._servers[plain]
        async with self._lock:
            checked, restarts = self._checked[plain]
            is_due = time.monotonic() - checked > _CHECKED_EVERY
            if not (now or is_due or restarts != server.client.restarts):
                return
            was = server.facts
            found = await server_facts(server.client, api=was.protocol.name, model=was.model)
            # What a busy server did not tell this time is no other model.
            differing = [
                f"{name} was {was.identity[name]!r}, is {found.identity[name]!r}"
                for name in sorted(was.identity.keys() & found.identity.keys())
                if was.identity[name] != found.identity[name]
            ]
            if differing:
                raise ConfigError(
                    f"{server.client.connection.base_url} serves another model than when the run "
                    f"began ({'; '.join(differing)}); have it serve the old one and resume, or "
                    "start anew with another records_dir"
                )
            self._checked[plain] = time.monotonic(), server.client.restarts


def _plain_counts(num_tokens: int) -> dict[str, Any]:
    """The counts of a text without drafts: a step for each token."""
    zeros = [0] * num_tokens
    values = (num_tokens, 0, 0, 0, [num_tokens], zeros, zeros)
    return dict(zip(COUNT_FIELDS, values, strict=True))
