"""The tokens that end a text at a stop string, where a server counts only texts ended by tokens."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Of a request; more would make its body megabytes.
_MOST = 5_000


class StopTokens:
    """The tokens of a vocabulary by the stop strings that their texts hold.

    A stop string that several tokens spell is found by none of them alone: such texts run on to
    their length limit, and are cut where they are read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read nothing yet."""
        self._tokenizer = tokenizer
        self._texts: list[str] = []
        self._known: dict[tuple[str, ...], list[int]] = {}

    def of(self, stop_strings: Sequence[str]) -> list[int]:
        """Ids of tokens in which one of the strings is whole, in order."""
        key = tuple(stop_strings)
        if key not in self._known:
            if not self._texts:
                ids = [[number] for number in range(len(self._tokenizer))]
                self._texts = self._tokenizer.batch_decode(ids)
            found = [n for n, text in enumerate(self._texts) if any(stop in text for stop in key)]
            self._known[key] = found[:_MOST]
        return self._known[key]
