"""The settings of training, with their types, ranges and defaults. No torch, no numpy."""

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
HEAD_SETTINGS = ("draft_vocabulary", "coverage_floor", "unrolled_steps", "cache_features")
"""Those of `TrainConfig` that drafting models do not have."""
Quantization = Literal["8bit", "4bit", "int8", "int4"]


def convert(name: str, value: object, kind: Any, *, from_text: bool = False) -> Any:
    """A value as a type allows, with `msgspec.Meta` for its range.

    Args:
        name: What messages call it.
        value: What was given.
        kind: The type.
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
        reason = reason.replace("`float`", "a number").replace("`int`", "a whole number")
        if get_origin(kind) is Literal:
            reason = f"must be one of {', '.join(get_args(kind))}"
        raise ConfigError(f"{name} {reason}, got {value!r}") from None
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and math.isinf(number) for number in numbers):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return converted


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a drafter is trained.

    Raises:
        ConfigError: If a value is out of its range.
    """

    weighting: str = "s-cdf"  # name and settings, as `weighting.parse` reads them
    divergence: DivergenceName = "forward-kl"  # what the gradient descends on
    tokens: Count = 2_000_000  # budget: rows times length of all batches, whether full or not
    seed: Annotated[int, Meta(ge=0)] = 0  # of splits, order and responses
    rows: Count = 32  # of a batch, over all processes
    micro_rows: Count = 32  # that a process holds at once; a batch takes as many passes as needed
    length: Annotated[int, Meta(ge=2)] = 256  # tokens of a row at most
    learning_rate: Positive = 3e-4  # its peak
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for hidden matrices, AdamW for the rest
    warmup: Share = 0.05  # of the steps, over which the learning rate rises
    decay: Share = 0.5  # of the steps, at the end, over which it falls
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"  # bf16: for matrix products only
    gradient_checkpointing: bool = False  # recompute hidden states instead of keeping them
    num_probes: Count = 8  # times that the probe split is measured between start and end
    split_share: Annotated[float, Meta(ge=1e-6, le=1 / 3)] = (
        0.05  # of items, for probe and for test
    )
    probe_rows: Count = 8  # of each group, that a split is measured on at most
    tolerance: Share = 0.01  # of its start, that the mean speed-up may lose
    num_speculative_tokens: Count = 4  # drafted per step in the textbook speed-up
    cost_ratio: NonNegative | None = None  # of a pass of drafter and target; None: of parameters
    # Written by the target where they are missing, by the target everywhere, or by the drafter
    # (on-policy, anew at each probe; those that are missing at the start are the target's).
    responses: Literal["given", "target", "drafter"] = "given"
    # Responses are written at these in rotation.
    temperatures: Annotated[tuple[NonNegative, ...], Meta(min_length=1)] = (0.0, 0.3, 0.7, 1.0)
    max_response_tokens: Count = 128
    cache_top_k: Count | None = None  # the target's tokens kept of each position; None: it runs
    checkpoint_seconds: NonNegative = 60.0  # between checkpoints, or more where they cost much
    kind: Literal["model", "eagle3"] = "model"  # a drafting model, or a head of the target
    draft_vocabulary: Count | None = None  # tokens that a head drafts among; None: the target's
    coverage_floor: Share | None = None  # of each group's tokens, that these must have
    cache_features: bool = False  # keep the target's hidden states at all rows on disk
    unrolled_steps: Count = 4  # tokens that a head drafts from each place while it learns

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


def described(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run, as `train.json` has them; those of heads only where it is one."""
    of_heads = () if config.kind != "model" else ("kind", *HEAD_SETTINGS)
    return {k: v for k, v in msgspec.structs.asdict(config).items() if k not in of_heads}


def types_of(settings: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Types of the fields, with their ranges."""
    return get_type_hints(settings, include_extras=True)
