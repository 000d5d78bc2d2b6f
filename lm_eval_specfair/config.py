"""The settings of decoding: one frozen dataclass, checked when it is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lm_eval_specfair.errors import ConfigError

MAX_SPECULATIVE_TOKENS = 256
"""Far above what pays, far below what exhausts memory."""

Verification = Literal["token", "block"]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_temperature(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """How requests are decoded.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most (γ in the papers), from 1 to
            `MAX_SPECULATIVE_TOKENS`; a drafter that drafts nothing is `drafter=none`, not 0 tokens.
        temperature: 0 decodes greedily, above 0 samples.
        top_k: Keep the k most likely tokens, or None.
        top_p: Keep the most likely tokens up to this mass, in (0, 1], or None.
        seed: Each request's own generator is derived from it and the request.
        verification: How sampled drafts are judged: one `token` after the other, or as a `block`.
            Greedy decoding has one rule only.
        drafter_temperature: The drafter's own when texts are sampled, one or each row's of a batch;
            0 drafts its most likely tokens, None draws them at `temperature`.

    Raises:
        ConfigError: If a value is out of its range.
    """

    num_speculative_tokens: int = 4
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    verification: Verification = "token"
    drafter_temperature: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        tokens = self.num_speculative_tokens
        if not _is_count(tokens) or not 1 <= tokens <= MAX_SPECULATIVE_TOKENS:
            raise ConfigError(
                "num_speculative_tokens must be a whole number in 1 ... "
                f"{MAX_SPECULATIVE_TOKENS}, got {tokens!r:.60}. For plain decoding, pass "
                "drafter=none."
            )
        if not _is_temperature(self.temperature):
            raise ConfigError(
                f"temperature must be 0 (greedy) or a positive number, got {self.temperature!r}"
            )
        own = self.drafter_temperature
        if own is not None and not all(map(_is_temperature, own if type(own) is tuple else [own])):
            raise ConfigError(
                "drafter_temperature must be 0 (its most likely tokens) or a positive number, got "
                f"{own!r:.60}"
            )
        if self.top_k is not None and (not _is_count(self.top_k) or self.top_k < 1):
            raise ConfigError(f"top_k must be a whole number of at least 1, got {self.top_k!r}")
        if self.top_p is not None and (
            not isinstance(self.top_p, (int, float)) or not 0 < self.top_p <= 1
        ):
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p!r}")
        if not _is_count(self.seed) or self.seed < 0:
            raise ConfigError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        if self.verification not in get_args(Verification):
            raise ConfigError(
                f"verification must be {' or '.join(get_args(Verification))}, got "
                f"{self.verification!r:.60}"
            )

    def with_own(self, temperatures: Sequence[float | None]) -> "DecodeConfig":
        """For a batch in which some rows' drafters have a temperature of their own."""
        if self.greedy or not any(own is not None for own in temperatures):
            return self
        usual = self.drafter_temperature
        if usual is None or isinstance(usual, tuple):
            usual = self.temperature
        own = tuple(usual if own is None else own for own in temperatures)
        return replace(self, drafter_temperature=own)

    def of_rows(self, rows: Sequence[int]) -> "DecodeConfig":
        """For some of a batch's rows."""
        own = self.drafter_temperature
        if not isinstance(own, tuple):
            return self
        return replace(self, drafter_temperature=tuple(own[row] for row in rows))

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p takes tokens out of the distributions that are drawn from."""
        return not self.greedy and (self.top_k is not None or (self.top_p or 1) < 1)

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0
