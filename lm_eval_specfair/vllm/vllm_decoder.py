"""vLLM's engines behind the protocol that `harness.model` decodes with.

An engine has one draft length; the plain baseline has an engine of its own, beside the speculative
one while pairs are decoded in turn. Both are started when they are first needed.
"""

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.engine import Completion, Request
from lm_eval_specfair.decoding.recovery import Faults
from lm_eval_specfair.vllm.text_distributions import TextScores
from lm_eval_specfair.vllm.vllm_engine import VllmEngine

# Where texts are scored, the engine is drained first: scoring beside it would be on its clock.
_SCORED_TOGETHER = 8


def vllm_environment() -> dict[str, str]:
    """The variables that steer vLLM, for `run.json`; keys and tokens are none of it."""
    secret = ("KEY", "TOKEN", "SECRET")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("VLLM_") and not any(word in name for word in secret)
    }


class VllmDecoder:
    """Decodes requests on vLLM.

    Attributes:
        faults: What is known of requests that vLLM refused.
        drafts: Whether there is a drafter.
        most_rows: Requests decoded together at most.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        speculation: Mapping[str, Any] | None,
        *,
        rows: int,
        longest: int,
        scores: TextScores | None,
    ) -> None:
        """Prepare engines; none is started yet.

        Args:
            arguments: vLLM's engine arguments, the model among them.
            speculation: Its speculative_config without a draft length; None to decode plainly.
            rows: Requests decoded together at most.
            longest: Draft length of requests that name none.
            scores: Fills in what vLLM does not measure, or None.
        """
        self.faults = Faults()
        self.drafts = speculation is not None
        self.most_rows = rows
        self._arguments = {**arguments, "max_num_seqs": rows}
        self._speculation, self._longest = speculation, longest
        self._scores = scores
        self._engines: dict[int, VllmEngine] = {}
        atexit.register(self.close)

    def completions(
        self, config: DecodeConfig, requests: Sequence[Request], *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes or is refused.

        Raises:
            ConfigError: If an engine does not start.
        """
        by_length: dict[int, list[Request]] = {}
        for request in requests:
            wanted = request.num_speculative_tokens
            length = 0 if plain or not self.drafts else self._longest if wanted is None else wanted
            by_length.setdefault(length, []).append(request)
        for length, same in sorted(by_length.items()):
            engine = self._engine(length)
            scores = self._scores if length else None
            size = len(same) if scores is None else _SCORED_TOGETHER * self.most_rows
            for first in range(0, len(same), size):
                part = same[first : first + size]
                done = engine.decode(part, config, refused=self.faults.give_up)
                if scores is None:
                    yield from done
                else:
                    finished = list(done)
                    scores.add([each for each in finished if each.failure is None], config)
                    yield from finished

    def _engine(self, length: int) -> VllmEngine:
        """The engine of a draft length; beside it at most the plain one runs."""
        if length not in self._engines:
            for other in [each for each in self._engines if each and length]:
                self._engines.pop(other).close()
            speculation = None
            if length:
                speculation = {**(self._speculation or {}), "num_speculative_tokens": length}
            self._engines[length] = VllmEngine(self._arguments, speculation)
        return self._engines[length]

    def close(self) -> None:
        """End all engines."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
