"""The protocol of a decoder under test, and the flags for what it can do.

The suite passes in tiny models made in memory, prompts as token ids and settings; it gets back
token ids, and counts where the decoder knows them. A capability that a decoder lacks makes the
checks that need it "not applicable", never passed.
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
    """One request.

    Attributes:
        name: Unique within a call; with the seed, the request's source of randomness.
        prompt: Token ids, at least one.
        max_new_tokens: Most tokens to generate.
        eos_token_ids: Tokens that end the text.
        stop_strings: Strings that end the text.
    """

    name: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AskSettings:
    """How requests are decoded.

    Attributes:
        num_speculative_tokens: Most tokens drafted per step.
        temperature: 0 is greedy.
        top_k: Number of tokens kept, or None.
        top_p: Probability mass kept, or None.
        repetition_penalty: 1 penalizes nothing.
        seed: With a request's name, its source of randomness.
        batch_size: Most requests decoded together.
    """

    num_speculative_tokens: int = 4
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    batch_size: int = 8


PROMPT_LOOKUP = "prompt lookup"
Drafting: TypeAlias = PreTrainedModel | Script | str | None
"""Who drafts: a model, a script, `PROMPT_LOOKUP`, or None for plain decoding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """A decoder's counts for one request.

    Attributes:
        drafted: Tokens proposed in each step.
        accepted: Tokens kept in each step.
        examined: Accepted and rejected tokens over all steps; None where it is not known.
    """

    drafted: list[int]
    accepted: list[int]
    examined: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a decoder returns for one request.

    Attributes:
        token_ids: Generated tokens, with the one that ended the text.
        finish_reason: `stop`, `eos` or `length`; None where the decoder does not say.
        counts: None where the decoder does not count.
        sums: Sums over examined positions by name, nats; empty where nothing is measured.
    """

    token_ids: list[int]
    finish_reason: str | None = None
    counts: AnswerCounts | None = None
    sums: dict[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """A decoder under test; one that inherits from this refuses what it does not define."""

    name: str
    capabilities: frozenset[Capability]
    num_samples: int
    """Texts drawn for one test of a distribution; fewer for slow decoders, at less power."""

    def versions(self) -> dict[str, str]:
        """Names and versions of the packages that decode."""

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        """Decode requests with a target in evaluation mode; answers in the order of the requests.

        Raises:
            RefusedError: Where it says that it cannot decode this.
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

        Args:
            draft_tokens: Shape (rows, drafted).
            draft_probs: q, shape (rows, drafted, vocab); None where q is all on the token.
            target_probs: p, shape (rows, drafted + 1, vocab).
            accept_uniforms: In [0, 1), shape (rows, drafted).
            next_uniforms: In [0, 1), shape (rows,).
        """
        raise RefusedError(f"the acceptance rule of {self.name} cannot be called by itself")

    def decode_pair(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
        asks: Sequence[Ask],
        settings: AskSettings,
    ) -> list[Answer]:
        """Decode with a pair whose tokenizers it must look at (capability TOKENIZERS).

        Raises:
            RefusedError: Where the drafter's tokens are not the target's.
        """
        raise RefusedError(f"{self.name} is not told the tokenizers of a pair")


# The names of version 0.1, which backends outside this package import.
Settings = AskSettings
Counts = AnswerCounts
