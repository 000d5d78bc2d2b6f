"""Group weighting: a rule, the signal that it reads, and how the weights are applied.

`parse("s-cdf:floor=0.1,unit=byte")` makes one; `NAMES` lists the rules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.group_sums import Array, Sums
from lm_eval_specfair.training.weighting.base import Groups, Rule, normalised
from lm_eval_specfair.training.weighting.constrained import Constrained
from lm_eval_specfair.training.weighting.rivals import (
    Balanced,
    ClassBalanced,
    Cvar,
    Focal,
    GroupDro,
    Mix,
    Temperature,
    WorstOnly,
)
from lm_eval_specfair.training.weighting.shaping import Clip, Shift, Signed, VariancePenalty

SIGNALS = ("kl", "cross-entropy", "tv")
UNITS = ("token", "byte")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightingConfig:
    """How groups are weighed, whatever the rule.

    Attributes:
        signal: What e_T is: `kl`, `cross-entropy` or `tv`. Only the weights depend on it, never the
            gradient of a group's own loss.
        unit: `token`, or `byte` of text: scripts that fall to bytes fit well per token and badly
            per text.
        smoothing: beta of the running mean `e <- beta e + (1 - beta) s`, in [0, 1). Weights come
            from earlier batches, as those of the same batch are biased by its noise. 0 is the
            literal form: each batch is measured once before it is learnt from.
        floor: rho, the share of equal weights mixed in, in [0, 1].
        apply: `loss` draws all groups alike and weighs their losses; `sampling` draws groups by
            their weights, which spends no pass on a group of little weight.
    """

    signal: str = "kl"
    unit: str = "token"
    smoothing: float = 0.9
    floor: float = 0.0
    apply: str = "loss"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("signal", SIGNALS),
            ("unit", UNITS),
            ("apply", ("loss", "sampling")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"weighting: {name} must be one of {', '.join(allowed)}, got "
                    f"{getattr(self, name)!r}"
                )
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"weighting: smoothing must lie in [0, 1), got {self.smoothing}")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"weighting: floor must lie in [0, 1], got {self.floor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A rule by name: how it is made, its own arguments, and its defaults for the rest."""

    make: Callable[..., Rule]
    arguments: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _constrained(**arguments: Any) -> Rule:
    return Constrained(Shift(), **arguments)


_RULES: dict[str, _Known] = {
    "s-cdf": _Known(make=Shift, defaults={"floor": 0.3}),
    "s-cdf-literal": _Known(make=Shift, defaults={"signal": "cross-entropy", "smoothing": 0.0}),
    "clip": _Known(make=Clip),
    "signed": _Known(make=Signed),
    "balanced": _Known(make=Balanced),
    "mix": _Known(make=Mix, defaults={"apply": "sampling"}),
    "worst-only": _Known(make=WorstOnly),
    "cvar": _Known(make=Cvar, arguments=("share",), defaults={"apply": "sampling"}),
    "dro": _Known(make=GroupDro, arguments=("rate",)),
    "class-balanced": _Known(make=ClassBalanced, arguments=("beta",)),
    "focal": _Known(make=Focal, arguments=("gamma",)),
    "temperature": _Known(
        make=Temperature, arguments=("temperature",), defaults={"apply": "sampling"}
    ),
    "variance": _Known(make=VariancePenalty, arguments=("strength",)),
    "constrained": _Known(make=_constrained, arguments=("dominant", "epsilon", "rate", "floor")),
}
NAMES = tuple(_RULES)


class Weighting:
    """A rule with its signal: hears what batches measured, says what each group weighs.

    Attributes:
        config: How it weighs.
        spelled: What the user wrote.
    """

    def __init__(self, rule: Rule, config: WeightingConfig, spelled: str = "") -> None:
        """Weigh by a rule."""
        self.config, self.spelled = config, spelled
        self._rule = rule
        self._adapts = not isinstance(rule, (Balanced, Mix, Temperature, ClassBalanced))
        self._misfit = np.zeros(0)
        self._overlap = np.zeros(0)
        self._names: tuple[str, ...] = ()
        self._num_tokens = np.zeros(0)

    @property
    def measures_first(self) -> bool:
        """Whether a batch must be measured before its weights are known."""
        return self._adapts and self.config.smoothing == 0

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Make sure that a group which the rule names is one of the data's.

        Raises:
            ConfigError: If it is none of them.
        """
        if isinstance(self._rule, Constrained):
            self._rule.refuse_unknown(names)

    def start(self, names: tuple[str, ...], num_tokens: Array, probed: Sums) -> None:
        """Begin with what the probe split says.

        Args:
            names: The groups.
            num_tokens: Tokens of training text, shape (m,).
            probed: The groups' sums on the probe split, shape (m,).
        """
        self._names, self._num_tokens = names, num_tokens
        self._misfit = self._signal(probed)
        self._overlap = probed.per_token("overlap")

    def observe(self, batch: Sums) -> None:
        """Hear what a batch measured; groups without a token in it stay as they are."""
        seen = batch.column("num_tokens") > 0
        beta = self.config.smoothing
        for running, now in (
            (self._misfit, self._signal(batch)),
            (self._overlap, batch.per_token("overlap")),
        ):
            running[seen] = beta * running[seen] + (1 - beta) * now[seen]

    def weights(self) -> Array:
        """Weights of the groups, absolute values adding up to 1; asked once a step.

        Raises:
            ConfigError: If groups are drawn by weights and one is negative.
        """
        groups = Groups(
            names=self._names,
            misfit=self._misfit.copy(),
            overlap=self._overlap.copy(),
            num_tokens=self._num_tokens,
        )
        weights = normalised(self._rule.weights(groups), self.config.floor)
        if self.config.apply == "sampling" and (weights < 0).any():
            raise ConfigError(
                f"weighting {self.spelled!r}: groups cannot be drawn by a negative weight; use "
                "apply=loss"
            )
        return weights

    def sampling(self, weights: Array) -> Array:
        """Share of each group in the rows of a batch, shape (m,)."""
        if self.config.apply == "sampling":
            return weights
        return np.full(len(weights), 1 / len(weights))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {
            "misfit": self._misfit.tolist(),
            "overlap": self._overlap.tolist(),
            "rule": self._rule.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state; `start` was called before."""
        self._misfit = np.array(state["misfit"])
        self._overlap = np.array(state["overlap"])
        self._rule.restore(state["rule"])

    def _signal(self, sums: Sums) -> Array:
        name = self.config.signal.replace("-", "_")
        return sums.per_byte(name) if self.config.unit == "byte" else sums.per_token(name)


def parse(spelled: str) -> Weighting:
    """A weighting from `NAME` or `NAME:key=value,...`.

    Args:
        spelled: A name out of `NAMES`; keys are those of `WeightingConfig` and the rule's own.

    Raises:
        ConfigError: If a name or a key is unknown, or a value is out of its range.

    Example:
        >>> parse("s-cdf:floor=0.1,unit=byte").config.floor
        0.1
    """
    name, _, rest = spelled.partition(":")
    if name not in _RULES:
        raise ConfigError(f"weighting must be one of {', '.join(NAMES)}, got {name!r}")
    known = _RULES[name]
    common = {each.name for each in fields(WeightingConfig)} - set(known.arguments)
    settings, own = dict(known.defaults), dict[str, Any]()
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in (*common, *known.arguments):
            allowed = ", ".join(sorted((*common, *known.arguments)))
            raise ConfigError(f"weighting {name} takes key=value with {allowed}; got {part!r}")
        (own if key in known.arguments else settings)[key] = _value(key, value)
    for key, value in own.items():
        if not isinstance(value, str) and not _in_range(name, key, value):
            raise ConfigError(f"weighting {name}: {key} is out of its range, got {value}")
    return Weighting(known.make(**own), WeightingConfig(**settings), spelled)


def _value(key: str, text: str) -> float | str:
    if key in ("signal", "unit", "apply", "dominant"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"weighting: {key} must be a number, got {text!r}") from None


def _in_range(rule: str, key: str, value: float) -> bool:
    if not np.isfinite(value):
        return False
    if key in ("beta", "epsilon"):
        return 0 <= value < 1
    if key == "floor":
        return 0 <= value <= 1
    if key == "share":
        return 0 < value <= 1
    return value >= 0 if rule in ("focal", "variance") else value > 0
