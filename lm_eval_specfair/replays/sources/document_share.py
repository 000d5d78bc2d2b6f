"""A share of the documents, by their numbers: what is fitted on one is measured on another.

Translations of a document have one number, so they are all in the share or none is.
"""

import hashlib
import re
from dataclasses import dataclass

from lm_eval_specfair.errors import ConfigError

_NAMED = {"all": (0, 1), "even": (0, 2), "odd": (1, 2)}


@dataclass(frozen=True, slots=True)
class DocumentShare:
    """Documents whose number leaves a remainder when it is divided.

    Attributes:
        text: As it was asked for.
        remainder: Which one.
        divisor: By what.
    """

    text: str = "all"
    remainder: int = 0
    divisor: int = 1

    @classmethod
    def read(cls, text: str) -> "DocumentShare":
        """Read `all`, `even`, `odd`, or `K/N` for those that leave K when divided by N.

        Raises:
            ConfigError: If it is none of these.
        """
        if text in _NAMED:
            return cls(text, *_NAMED[text])
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ConfigError(
                "expected documents as all, even, odd, or K/N with K below N (those whose number "
                f"leaves K when divided by N), got {text!r:.60}"
            )
        return cls(text, int(match[1]), int(match[2]))

    def has(self, document: int | str) -> bool:
        """Whether a document is in it: by its number, else by a hash of its name."""
        name = str(document).removeprefix("#")
        if not name.isdecimal():
            digest = hashlib.sha256(name.encode()).digest()
            return int.from_bytes(digest[:8], "big") % self.divisor == self.remainder
        return int(name) % self.divisor == self.remainder
