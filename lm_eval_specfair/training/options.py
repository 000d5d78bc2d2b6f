"""How a drafter is trained: settings with their types, ranges and defaults. No torch, no numpy."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from lm_eval_specfair.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]

WeightingName = Literal[
    "s-cdf", "s-cdf-literal", "clip", "signed", "balanced", "mix", "worst-only", "cvar", "dro",
    "class-balanced", "focal", "temperature", "variance", "constrained",
]  # fmt: skip
DivergenceName = Literal["forward-kl", "reverse-kl", "js", "tv", "neg-log-overlap", "lk"]
Quantization = Literal["8bit", "4bit", "int8", "int4"]


def convert(name: str, value: object, kind: Any, *, from_text: bool = False) -> Any:
    """A value as its type and range allow.

    Args:
        name: What messages call it.
        value: What was given.
        kind: A type, with `msgspec.Meta` for its range.
        from_text: Whether numbers may be spelled as text.

    Raises:
        ConfigError: If it does not fit.

    Example:
        >>> convert("floor", "0.3", Share, from_text=True)
        0.3
    """
    try:
        converted = msgspec.convert(value, kind, strict=not from_text)
    except msgspec.ValidationError as error:
        # As in "Expected `float` >= 0.0", "Expected `int`, got `str`".
        reason = str(error).split(", got")[0].replace("Expected ", "must be ")
        for theirs, ours in (("`float`", "a number"), ("`int`", "a whole number")):
            reason = reason.replace(theirs, ours)
        if get_origin(kind) is Literal:
            reason = f"must be one of {', '.join(get_args(kind))}"
        raise ConfigError(f"{name} {reason}, got {value!r}") from None
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and math.isinf(number) for number in numbers):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return converted


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a drafter is trained.

    Attributes:
        weighting: Name and settings of the group weighting (`weighting.parse`).
        divergence: What the gradient descends on.
        tokens: Budget: rows times length of every batch, whether or not its rows are full.
        seed: Of splits, order and responses.
        rows: Rows of a batch, over all processes.
        micro_rows: Rows that a process holds at once; a batch is made of as many passes as needed.
        length: Tokens of a row at most.
        learning_rate: Its peak.
        optimizer: `adamw`, or `muon` for the hidden matrices and AdamW for the rest.
        warmup: Share of the steps over which the learning rate rises.
        decay: Share of the steps, at the end, over which it falls.
        max_grad_norm: Gradients are scaled down to this norm.
        mixed_precision: `no`, or `bf16` for matrix products.
        gradient_checkpointing: Whether hidden states are recomputed rather than kept.
        num_probes: Times that the probe split is measured between start and end.
        split_share: Share of the items in the probe split, and of those in the test split.
        probe_rows: Rows of each group that a split is measured on at most.
        tolerance: epsilon: the mean speed-up may fall to (1 - epsilon) of its start.
        num_speculative_tokens: Tokens drafted per step in the textbook speed-up.
        cost_ratio: A draft pass over a target pass there; None for that of the parameters.
        responses: `given`, `target` (written once, also where given), or `drafter` (on-policy,
            written anew at each probe). Prompts without response are the target's in any case.
        temperatures: Responses are written at these in turns.
        max_response_tokens: Tokens of a response at most.
        cache_top_k: Keep the target's k most likely tokens and the rest's mass instead of running
            it at each step; None to run it.
        checkpoint_seconds: Seconds between checkpoints at most.

    Raises:
        ConfigError: If a value is out of its range.
    """

    weighting: str = "s-cdf"
    divergence: DivergenceName = "forward-kl"
    tokens: Count = 2_000_000
    seed: Annotated[int, Meta(ge=0)] = 0
    rows: Count = 32
    micro_rows: Count = 32
    length: Annotated[int, Meta(ge=2)] = 256
    learning_rate: Positive = 3e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: Share = 0.05
    decay: Share = 0.5
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    num_probes: Count = 8
    split_share: Annotated[float, Meta(ge=1e-6, le=1 / 3)] = 0.05
    probe_rows: Count = 8
    tolerance: Share = 0.01
    num_speculative_tokens: Count = 4
    cost_ratio: NonNegative | None = None
    responses: Literal["given", "target", "drafter"] = "given"
    temperatures: Annotated[tuple[NonNegative, ...], Meta(min_length=1)] = (0.0, 0.3, 0.7, 1.0)
    max_response_tokens: Count = 128
    cache_top_k: Count | None = None
    checkpoint_seconds: NonNegative = 60.0

    def __post_init__(self) -> None:
        for name, kind in types_of(TrainConfig).items():
            convert(name, getattr(self, name), kind)
        if self.cache_top_k is not None and self.responses == "drafter":
            raise ConfigError(
                "cache_top_k and responses=drafter exclude each other: on-policy texts change, so "
                "nothing about them can be kept"
            )

    @property
    def probe_every(self) -> int:
        """Steps between two probes; the last step is probed in any case."""
        return math.ceil(self.num_steps / self.num_probes)

    @property
    def num_steps(self) -> int:
        """Batches that the budget pays for, at least 1."""
        return max(1, self.tokens // (self.rows * self.length))


def types_of(settings: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Types of the fields, with their ranges."""
    return get_type_hints(settings, include_extras=True)
