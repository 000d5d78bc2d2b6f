"""How a drafter is trained: one frozen dataclass, checked when it is made."""

import math
from dataclasses import dataclass, field

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.losses import DIVERGENCES

RESPONSES = ("given", "target", "drafter")
OPTIMIZERS = ("adamw", "muon")
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a drafter is trained.

    Attributes:
        weighting: Name and settings of the group weighting (`weighting.parse`).
        divergence: What the gradient descends on, one of `losses.DIVERGENCES`.
        tokens: Budget: rows times length of every batch, whether or not its rows are full.
        seed: Of splits, order and responses.
        rows: Rows of a batch, over all processes.
        micro_rows: Rows that a process holds at once; a batch is made of as many passes as needed.
        length: Tokens of a row at most.
        learning_rate: At its height.
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
        num_speculative_tokens: Tokens drafted a step in the modelled speed-up.
        cost_ratio: A draft pass over a target pass there; None for that of the parameters.
        responses: `given`, `target` (written once, also where given), or `drafter` (on-policy,
            written anew at each probe). Prompts without response are the target's in any case.
        temperatures: Responses are written at these in turns.
        max_response_tokens: Tokens of a response at most.
        cache_top_k: Keep the target's k likeliest tokens and the rest's mass instead of running
            it at each step; None to run it.
        checkpoint_seconds: Seconds between checkpoints at most.

    Raises:
        ConfigError: If a value is out of its range.
    """

    weighting: str = "s-cdf"
    divergence: str = "forward-kl"
    tokens: int = 2_000_000
    seed: int = 0
    rows: int = 32
    micro_rows: int = 32
    length: int = 256
    learning_rate: float = 3e-4
    optimizer: str = "adamw"
    warmup: float = 0.05
    decay: float = 0.5
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_probes: int = 8
    split_share: float = 0.05
    probe_rows: int = 8
    tolerance: float = 0.01
    num_speculative_tokens: int = 4
    cost_ratio: float | None = None
    responses: str = "given"
    temperatures: tuple[float, ...] = field(default=(0.0, 0.3, 0.7, 1.0))
    max_response_tokens: int = 128
    cache_top_k: int | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        self._check_names()
        self._check_counts()
        for name, low, high in (
            ("warmup", 0, 1),
            ("decay", 0, 1),
            ("split_share", 1e-6, 1 / 3),
            ("tolerance", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} must lie between {low:.3g} and {high:.3g}, got {getattr(self, name)}"
                )
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a number above 0, got {getattr(self, name)}")
        if not self.temperatures or not all(0 <= each < math.inf for each in self.temperatures):
            raise ConfigError(f"temperatures must be 0 or above, got {self.temperatures}")
        if self.cost_ratio is not None and not 0 <= self.cost_ratio < float("inf"):
            raise ConfigError(f"cost_ratio must be 0 or above, got {self.cost_ratio}")
        if self.cache_top_k is not None and self.responses == "drafter":
            raise ConfigError(
                "cache_top_k and responses=drafter exclude each other: on-policy texts change, so "
                "nothing about them can be kept"
            )

    def _check_names(self) -> None:
        for name, allowed in (
            ("divergence", tuple(DIVERGENCES)),
            ("optimizer", OPTIMIZERS),
            ("mixed_precision", PRECISIONS),
            ("responses", RESPONSES),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )

    def _check_counts(self) -> None:
        for name, least in (
            ("tokens", 1),
            ("seed", 0),
            ("rows", 1),
            ("micro_rows", 1),
            ("length", 2),
            ("num_probes", 1),
            ("probe_rows", 1),
            ("num_speculative_tokens", 1),
            ("max_response_tokens", 1),
            ("cache_top_k", 1),
        ):
            value = getattr(self, name)
            if value is None and name == "cache_top_k":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {value!r}"
                )

    @property
    def probe_every(self) -> int:
        """Steps between two probes; the last step is probed in any case."""
        return math.ceil(self.num_steps / self.num_probes)

    @property
    def num_steps(self) -> int:
        """Batches that the budget pays for, at least 1."""
        return max(1, self.tokens // (self.rows * self.length))
