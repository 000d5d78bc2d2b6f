"""Group weighting: a rule, the signal that it reads, and how the weights are applied.

`parse("s-cdf:floor=0.1,unit=byte")` makes one; `RULES` lists the rules.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec
import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.group_sums import GroupSums
from lm_eval_specfair.training.options import BelowOne, Share, WeightingName, convert, types_of
from lm_eval_specfair.training.weighting import baselines, s_cdf
from lm_eval_specfair.training.weighting.base import GroupStates, Rule, normalised
from lm_eval_specfair.training.weighting.constrained import Constrained


class WeightingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How groups are weighed, by any rule."""

    # What e_T is; weights depend on it, the gradient of a group's own loss does not.
    signal: Literal["kl", "cross-entropy", "tv"] = "kl"
    # Scripts that fall to bytes fit well per token and badly per byte of text.
    unit: Literal["token", "byte"] = "token"
    # beta of the running mean `e <- beta e + (1 - beta) s` of earlier batches; 0 is the literal
    # form, which measures each batch once before it is learnt from.
    smoothing: BelowOne = 0.9
    floor: Share = 0.0  # rho, the share of equal weights mixed in
    # `loss` draws all groups alike and weighs their losses; `sampling` draws groups by their
    # weights, which spends no pass on a group of little weight.
    apply: Literal["loss", "sampling"] = "loss"


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """A rule, as a function or the class of a stateful one.

    Its keyword-only parameters, with their ranges, are its own settings.
    """

    make: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # in `WeightingConfig`, if others
    adapts: bool = True  # whether its weights change as the drafter learns
    reads_tokens: bool = False  # whether weights depend on the groups' tokens of training text

    def settings(self) -> dict[str, Any]:
        """Types of its own settings by name."""
        parameters = inspect.signature(self.make, eval_str=True).parameters.values()
        return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}

    def rule(self, **settings: Any) -> Rule:
        if inspect.isclass(self.make):
            return cast(Rule, self.make(**settings))
        return functools.partial(self.make, **settings)


_DRAWN = {"apply": "sampling"}
RULES: dict[WeightingName, RuleEntry] = {
    # What served the worst-served best in results/fair_drafters.
    "s-cdf": RuleEntry(s_cdf.shift, {"floor": 0.3, "signal": "tv", **_DRAWN}),
    "s-cdf-literal": RuleEntry(s_cdf.shift, {"signal": "cross-entropy", "smoothing": 0.0}),
    "clip": RuleEntry(s_cdf.clip),
    "signed": RuleEntry(s_cdf.signed),
    "balanced": RuleEntry(baselines.balanced, adapts=False),
    "mix": RuleEntry(baselines.mix, _DRAWN, adapts=False, reads_tokens=True),
    "worst-only": RuleEntry(baselines.worst_only),
    "cvar": RuleEntry(baselines.cvar, _DRAWN),
    "dro": RuleEntry(baselines.GroupDro),
    "class-balanced": RuleEntry(baselines.class_balanced, adapts=False, reads_tokens=True),
    "focal": RuleEntry(baselines.focal),
    "temperature": RuleEntry(baselines.temperature, _DRAWN, adapts=False, reads_tokens=True),
    "variance": RuleEntry(s_cdf.variance),
    "constrained": RuleEntry(Constrained),
}


class Weighting:
    """A rule with its signal: observes what batches measured, says what each group weighs.

    `text` is what the user wrote, `adapts` and `reads_tokens` as in `RuleEntry`.
    """

    def __init__(
        self,
        rule: Rule,
        config: WeightingConfig,
        text: str = "",
        *,
        adapts: bool = True,
        reads_tokens: bool = False,
    ) -> None:
        self.config, self.text = config, text
        self._rule, self._adapts, self._reads_tokens = rule, adapts, reads_tokens
        self._misfit = self._overlap = self._num_tokens = np.zeros(0)
        self._names: tuple[str, ...] = ()

    @property
    def measures_first(self) -> bool:
        """Whether a batch must be measured before its weights are known."""
        return self._adapts and self.config.smoothing == 0

    @property
    def reads_tokens(self) -> bool:
        """Whether weights depend on the groups' tokens of training text."""
        if isinstance(self._rule, Constrained):
            return self._rule.takes_largest
        return self._reads_tokens

    @property
    def misfit(self) -> Array:
        """The running mean of each group's signal, as the rule sees it, shape (m,)."""
        return self._misfit.copy()

    def begin_from(self, shares: Array) -> None:
        """Let a rule that moves shares step by step move these, shape (m,); after `start`."""
        if isinstance(self._rule, baselines.GroupDro):
            self._rule.begin(self._names, shares)

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Refuse a rule that names a group which the data lack."""
        if isinstance(self._rule, Constrained):
            self._rule.refuse_unknown(names)

    def start(self, names: tuple[str, ...], num_tokens: Array, probed: GroupSums) -> None:
        """Begin with each group's tokens of training text and its sums on the probe split."""
        self._names, self._num_tokens = names, num_tokens
        self._misfit = self._signal(probed)
        self._overlap = probed.per_token("overlap")

    def observe(self, batch: GroupSums) -> None:
        """Take in what a batch measured; groups without a token in it stay as they are."""
        seen = batch.column("num_tokens") > 0
        beta = self.config.smoothing
        now = (self._signal(batch), batch.per_token("overlap"))
        for mean, measured in zip((self._misfit, self._overlap), now, strict=True):
            mean[seen] = beta * mean[seen] + (1 - beta) * measured[seen]

    def weights(self) -> Array:
        """Weights of the groups, absolute values adding up to 1; asked once per step.

        Raises:
            ConfigError: If groups are drawn by weights and one is negative.
        """
        groups = GroupStates(
            names=self._names,
            misfit=self._misfit.copy(),
            overlap=self._overlap.copy(),
            num_tokens=self._num_tokens,
        )
        weights = normalised(self._rule(groups), self.config.floor)
        if self.config.apply == "sampling" and (weights < 0).any():
            problem = "groups cannot be drawn by a negative weight; train with apply=loss"
            raise ConfigError(f"weighting {self.text!r}: {problem}")
        return weights

    def sampling(self, weights: Array) -> Array:
        """Share of each group in the rows of a batch, shape (m,)."""
        is_drawn = self.config.apply == "sampling"
        return weights if is_drawn else np.full(len(weights), 1 / len(weights))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON; `restore` undoes it, after `start`."""
        state = {"misfit": self._misfit.tolist(), "overlap": self._overlap.tolist()}
        return state | {"rule": rule.state() if (rule := self._stateful) else {}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._misfit = np.array(state["misfit"])
        self._overlap = np.array(state["overlap"])
        if self._stateful:
            self._stateful.restore(state["rule"])

    @property
    def _stateful(self) -> baselines.GroupDro | Constrained | None:
        return self._rule if isinstance(self._rule, (baselines.GroupDro, Constrained)) else None

    def _signal(self, sums: GroupSums) -> Array:
        name = self.config.signal.replace("-", "_")
        return sums.per_byte(name) if self.config.unit == "byte" else sums.per_token(name)


def parse(text: str, **defaults: Any) -> Weighting:
    """A weighting from `NAME` or `NAME:key=value,...`.

    Names are those of `RULES`, keys those of `WeightingConfig` and the rule's own. `defaults` are
    fields of `WeightingConfig` that neither the text nor the rule names.

    Raises:
        ConfigError: If a name or a key is unknown, or a value is out of its range.

    Example:
        >>> parse("s-cdf:floor=0.1,unit=byte").config.floor
        0.1
    """
    name, _, rest = text.partition(":")
    entry = RULES[convert("weighting", name, WeightingName)]
    own = entry.settings()
    types = {**types_of(WeightingConfig), **own}
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in types:
            allowed = ", ".join(sorted(types))
            raise ConfigError(f"weighting {name} takes key=value with {allowed}; got {part!r}")
        given[key] = convert(f"weighting {name}: {key}", value, types[key], from_text=True)
    rule = entry.rule(**{key: value for key, value in given.items() if key in own})
    shared = {key: value for key, value in given.items() if key not in own}
    config = WeightingConfig(**{**defaults, **entry.defaults, **shared})
    return Weighting(rule, config, text, adapts=entry.adapts, reads_tokens=entry.reads_tokens)
