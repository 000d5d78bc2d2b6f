"""vLLM as a `Decoder`: an engine for each draft length, and a plain one for the baseline.

At most one of each runs; they are started when they are first needed.
"""

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.vllm.text_distributions import TextScores
from lm_eval_specfair.vllm.vllm_engine import VllmEngine

# Where texts are scored, the engine is drained first: scoring beside it would be on its clock.
_SCORED_TOGETHER = 8


def vllm_environment() -> dict[str, str]:
    """The environment variables that configure vLLM, for `run.json`; no keys and tokens."""
    secret = ("KEY", "TOKEN", "SECRET")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("VLLM_") and not any(word in name for word in secret)
    }


class VllmDecoder:
    """Decodes requests on vLLM."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        speculation: Mapping[str, Any] | None,
        *,
        max_rows: int,
        longest: int,
        scores: TextScores | None,
    ) -> None:
        """Start no engine yet.

        Args:
            arguments: vLLM's engine arguments, the model among them.
            speculation: Its speculative_config without a draft length; None without a drafter.
            max_rows: Most requests decoded together.
            longest: Draft length of requests that name none.
            scores: Fills in what vLLM does not measure, or None.
        """
        self.drafts = speculation is not None
        self.max_rows = max_rows
        self.states: dict[str, str] = {}  # vLLM keeps a state for each draft in its kernels
        self.steps_differ = False
        self._arguments = {**arguments, "max_num_seqs": max_rows}
        self._speculation, self._longest = speculation, longest
        self._scores = scores
        self._engines: dict[int, VllmEngine] = {}
        atexit.register(self.close)

    def decode(
        self, requests: Sequence[Request], config: DecodeConfig, *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests; see `Decoder`. A `ConfigError` if an engine does not start."""
        by_length: dict[int, list[Request]] = {}
        for request in requests:
            own = request.num_speculative_tokens
            length = 0 if plain or not self.drafts else self._longest if own is None else own
            by_length.setdefault(length, []).append(request)
        for length, same in sorted(by_length.items()):
            engine = self._engine(length)
            if self._scores is None or not length:
                yield from engine.decode(same, config)
                continue
            size = _SCORED_TOGETHER * self.max_rows
            for first in range(0, len(same), size):
                done = list(engine.decode(same[first : first + size], config))
                self._scores.add([text for text in done if text.failure is None], config)
                yield from done

    def _engine(self, length: int) -> VllmEngine:
        """The engine of a draft length; at most the plain one runs beside it."""
        if length not in self._engines:
            for other in [number for number in self._engines if number and length]:
                self._engines.pop(other).close()
            speculation = None
            if length:
                speculation = {**(self._speculation or {}), "num_speculative_tokens": length}
            self._engines[length] = VllmEngine(self._arguments, speculation)
        return self._engines[length]

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
