"""The end of a text: EOS, a stop string or its length, also inside a block of accepted tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lm_eval_specfair.records import FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """What ends a request.

    Attributes:
        max_new_tokens: At least 1.
        stop_strings: Strings that end the text, wherever they begin or end within tokens.
        decode: Token ids to text, special tokens kept; needed for stop strings only.
    """

    max_new_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] | None = None

    def cut(self, generated: Sequence[int], num_new: int) -> tuple[int, FinishReason | None]:
        """How many of the last `num_new` tokens are kept, and why the request ends, if it does.

        The token that completes a stop is kept (plain decoding emits it too); what a block has
        after it is dropped.
        """
        old = len(generated) - num_new
        keep = min(num_new, self.max_new_tokens - old)
        reason: FinishReason | None = "length" if old + keep >= self.max_new_tokens else None
        for number in range(keep):
            if generated[old + number] in self.eos_token_ids:
                keep, reason = number + 1, "eos"
                break
        stopped = self._first_stop(generated, old, keep)
        if stopped is not None and (stopped < keep or reason != "eos"):
            keep, reason = stopped, "stop"
        return keep, reason

    def _first_stop(self, generated: Sequence[int], old: int, keep: int) -> int | None:
        """New tokens up to the one that completes a stop string, or None."""
        if not self.stop_strings or self.decode is None:
            return None
        # A token holds at least one byte of text, so a stop that ends in a new token begins at
        # most its own length in bytes earlier; a few tokens more, for cut characters.
        reach = max(len(stop.encode()) for stop in self.stop_strings) + 4
        first = max(0, old - reach)
        text = self.decode(list(generated[first : old + keep]))
        if not any(stop in text for stop in self.stop_strings):
            return None
        for number in range(1, keep + 1):
            text = self.decode(list(generated[first : old + number]))
            if any(stop in text for stop in self.stop_strings):
                return number
        return None
