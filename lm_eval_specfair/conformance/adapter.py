"""The protocol of a decoder under test, and the flags for what it can do.

A capability that a decoder lacks makes the checks that need it "not applicable", never passed.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.decoding.acceptance import Verification


class Capability(enum.Enum):
    """Something that a decoder can do, or lets be seen."""

    SCRIPTED = "takes drafts from outside (a script)"
    BATCHES = "decodes several requests together"
    SAMPLING = "decodes at a temperature above 0"
    COUNTS = "counts drafted and accepted tokens of each step"
    SEEDS = "gives each request randomness of its own"
    FINISH_REASONS = "says why a text ended"
    STOP_STRINGS = "stops at strings"
    SUMS = "sums distances of the two distributions"
    RULE = "lets its acceptance rule be called with given random numbers"
    REPETITION_PENALTY = "applies a repetition penalty"
    TOKENIZERS = "is told both models' tokenizers"
    PREFILL_TOKEN = "emits its first token from the prompt's pass, in a step without drafts"


class RefusedError(Exception):
    """A decoder said in words that it does not decode this; no text came out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request."""

    name: str  # unique within a call; with the seed, the request's source of randomness
    prompt: tuple[int, ...]  # token ids, at least one
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()  # tokens that end the text
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AskSettings:
    """How requests are decoded."""

    num_speculative_tokens: int = 4  # most tokens drafted per step
    temperature: float = 0.0  # 0 is greedy
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0  # 1 penalizes nothing
    seed: int = 0
    batch_size: int = 8  # most requests decoded together


PROMPT_LOOKUP = "prompt lookup"
Drafting: TypeAlias = PreTrainedModel | Script | str | None
"""Who drafts: a model, a script, `PROMPT_LOOKUP`, or None for plain decoding."""
TokenizerPair: TypeAlias = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
"""The target's tokenizer and the drafter's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """A decoder's counts for one request, per step."""

    drafted: list[int]  # tokens proposed
    accepted: list[int]  # drafts kept
    examined: int | None = None  # accepted and rejected drafts over all steps; None if unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a decoder returns for one request."""

    token_ids: list[int]  # generated tokens, with the one that ended the text
    finish_reason: str | None = None  # `stop`, `eos` or `length`; None if the decoder has none
    counts: AnswerCounts | None = None  # None if the decoder does not count
    sums: dict[str, float] = field(default_factory=dict)  # over examined positions by name, nats


class Backend(Protocol):
    """A decoder under test; one that inherits from this refuses what it does not define."""

    name: str
    capabilities: frozenset[Capability]
    num_samples: int
    """Texts drawn for one test of a distribution; fewer for slow decoders, at less power."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decode, by name."""

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        """The answers to requests, in their order; the target is in evaluation mode.

        Raises:
            RefusedError: If it cannot decode this, and says so.
        """

    def rule(
        self,
        draft_tokens: Tensor,
        draft_probs: Tensor | None,
        target_probs: Tensor,
        accept_uniforms: Tensor,
        next_uniforms: Tensor,
    ) -> Verification:
        """The acceptance rule under given random numbers (capability RULE).

        Shapes: draft tokens (rows, drafted); q (rows, drafted, vocab), or None where it is all on
        the token; p (rows, drafted + 1, vocab); numbers in [0, 1), (rows, drafted) and (rows,).
        """
        raise RefusedError(f"the acceptance rule of {self.name} cannot be called by itself")

    def decode_pair(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        tokenizers: TokenizerPair,
        asks: Sequence[Ask],
        settings: AskSettings,
    ) -> list[Answer]:
        """`decode` for a pair whose tokenizers it must compare (capability TOKENIZERS).

        Raises:
            RefusedError: If the drafter's tokens are not the target's.
        """
        raise RefusedError(f"{self.name} is not told the tokenizers of a pair")


# The names of version 0.1, which backends outside this package import.
Settings = AskSettings
Counts = AnswerCounts
