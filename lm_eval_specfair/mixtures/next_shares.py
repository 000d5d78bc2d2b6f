"""From runs to shares of data: a weighting rule asked once a round, of what the round measured."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_specfair import __version__
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, canonical_key
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.mixtures.measured_misfit import (
    MeasuredMisfit,
    read_misfit,
    wide_intervals,
)
from lm_eval_specfair.mixtures.mixture_file import MixtureFile, RoundState
from lm_eval_specfair.mixtures.text_rows import TextRow
from lm_eval_specfair.mixtures.weighted_draw import (
    DataSizes,
    WeightedDraw,
    draw_rows,
    sizes_of,
)
from lm_eval_specfair.training.weighting import Weighting, parse

SMOOTHING = 0.5
"""Of the misfit from round to round.

A group that was given much text is served better in the next round and asks for less: by the last
round alone, shares swing. The mean of rounds has the same fixed point and settles there.
"""
DEFAULTS = {"apply": "sampling", "signal": "tv", "smoothing": SMOOTHING}
"""Of a rule that says nothing else: shares are drawn by, and every server measures acceptance."""
SETTLED = 0.02
"""The share of data, moved between groups, below which another round changes little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureGroup:
    """A measured group."""

    measured: Estimate
    misfit: float  # as the rule saw it: in the signal's unit, a mean over rounds
    before: float | None  # its share of the data until now; None where nobody said
    after: float


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Shares of data by group, and why.

    Attributes:
        figure: The metric that was measured of each group.
        groups: Measured groups, the worst served first.
        kept: Groups that were not measured and keep their share.
        unmeasured: Groups of the runs with too few requests, and how many.
        uncertain: Measured groups whose interval is too wide to place them among the others.
        data: Sizes of the training data, where it was named.
        restarted: Whether the former mixture's memory was of another rule or figure.
        file: What is written.
    """

    group_by: str
    weighting: str
    figure: str
    number: int
    groups: Mapping[str, MixtureGroup]
    kept: Mapping[str, float]
    unmeasured: Mapping[str, int]
    uncertain: Sequence[str]
    data: DataSizes | None
    restarted: bool
    file: MixtureFile

    @property
    def shares(self) -> Mapping[str, float]:
        """Of the training tokens, adding up to 1."""
        return self.file.shares

    @property
    def without_data(self) -> dict[str, float]:
        """Groups that have a share and no row of the data, and that share."""
        available = self.data.by_group if self.data else self.shares
        return {
            name: share for name, share in self.shares.items() if share and name not in available
        }

    @property
    def data_shares(self) -> dict[str, float]:
        """Shares of the groups that have data: those of the others go to them in proportion."""
        available = self.data.by_group if self.data else self.shares
        found = {name: share for name, share in self.shares.items() if name in available}
        total = sum(found.values())
        return {name: share / total for name, share in found.items()} if total else {}

    def draw(self, rows: Sequence[TextRow], *, size: float | None, seed: int) -> WeightedDraw:
        """A data set by these shares, of the data's rows and by default of its size.

        Raises:
            ConfigError: If no group with a share has data.
        """
        assert self.data is not None
        if not self.data_shares:
            raise ConfigError(
                f"--data has rows of {', '.join(list(self.data.by_group)[:6])}, and none of the "
                f"groups that were measured: {', '.join(list(self.shares)[:6])}"
            )
        size = size or sum(self.data.by_group.values())
        return draw_rows(rows, self.data.sizes, self.data_shares, size=size, seed=seed)

    @property
    def moved(self) -> float | None:
        """The share of the data that changes hands; None where nobody said the shares before."""
        changes = [
            abs(one.after - one.before) for one in self.groups.values() if one.before is not None
        ]
        return sum(changes) / 2 if len(changes) == len(self.groups) else None


def build_mixture(
    run_dirs: Sequence[Path],
    *,
    weighting: str = "s-cdf",
    former: MixtureFile | None = None,
    rows: Sequence[TextRow] = (),
    encode: Callable[[str], Sequence[int]] | None = None,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Mixture:
    """Weigh groups by what runs or replays measured of them.

    Args:
        run_dirs: Their folders, counted together.
        weighting: As `specfair train` takes it; groups are drawn by weights.
        former: The mixture that the measured drafter was trained on, for another round.
        rows: The training data: their shares are those before, where there is no former mixture,
            and rules of the data's size read theirs.
        encode: The target's tokenizer, which counts the data's tokens; without it they are
            estimated by bytes per token as measured.
        group_by: As in a report.
        mapping: The same.
        min_requests: The same; smaller groups are not measured.

    Raises:
        ConfigError: If runs or rule do not fit, or too little was measured.
    """
    key = canonical_key(group_by)
    if former is not None and former.group_by != key:
        raise ConfigError(
            f"the former mixture has groups by {former.group_by}, expected {key}: name the "
            "--group-by that it was made with"
        )
    rule = parse(weighting, **DEFAULTS)
    if rule.config.apply == "loss":
        raise ConfigError(
            f"weighting {weighting!r} weighs losses, and a mixture can only draw data: leave out "
            "apply=loss"
        )
    measured = read_misfit(
        run_dirs, rule.config, group_by=group_by, mapping=mapping, min_requests=min_requests
    )
    rule.refuse_unknown(measured.names)
    data = sizes_of(rows, measured.bytes_per_token, encode) if rows else None
    before = _shares_before(former, data.by_group if data else {})
    restarted = _observe(rule, measured, former, before, data.by_group if data else {})
    weights = rule.weights()
    if not np.isfinite(weights).all():
        raise ConfigError(
            f"weighting {weighting!r} needs what was not measured of all groups (the overlap, or "
            "bytes with unit=byte); choose another rule, such as s-cdf"
        )
    kept = {name: share for name, share in before.items() if name not in measured.estimates}
    after = (1 - sum(kept.values())) * weights
    numbers = zip(measured.names, rule.misfit.tolist(), after.tolist(), strict=True)
    groups = {
        name: MixtureGroup(
            measured=measured.estimates[name],
            misfit=misfit,
            before=before.get(name, 0.0) if before else None,
            after=share,
        )
        for name, misfit, share in numbers
    }
    groups = dict(sorted(groups.items(), key=lambda item: (-item[1].misfit, item[0])))
    number = 1 if former is None or former.weighting is None else former.number + 1
    made_from: dict[str, Any] = {
        "specfair_version": __version__,
        "runs": [run_dir.resolve().name for run_dir in run_dirs],
    }
    return Mixture(
        group_by=key,
        weighting=weighting,
        figure=measured.figure,
        number=number,
        groups=groups,
        kept=kept,
        unmeasured=measured.unmeasured,
        uncertain=wide_intervals(measured),
        data=data,
        restarted=restarted,
        file=MixtureFile(
            group_by=key,
            shares={**{name: one.after for name, one in groups.items()}, **kept},
            weighting=weighting,
            figure=measured.figure,
            number=number,
            state=_state(rule, measured.names),
            measured={name: dataclasses.asdict(one.measured) for name, one in groups.items()},
            made_from=made_from,
        ),
    )


def _shares_before(
    former: MixtureFile | None, data_tokens: Mapping[str, float]
) -> dict[str, float]:
    if former is not None:
        total = sum(former.shares.values())
        return {name: share / total for name, share in former.shares.items()}
    total = sum(data_tokens.values())
    return {name: tokens / total for name, tokens in data_tokens.items()}


def _observe(
    rule: Weighting,
    measured: MeasuredMisfit,
    former: MixtureFile | None,
    before: Mapping[str, float],
    data_tokens: Mapping[str, float],
) -> bool:
    """Show the rule this round, after what it remembers; whether it had to begin anew."""
    names = measured.names
    tokens: Array = np.ones(len(names))
    if rule.reads_tokens:
        missing = [name for name in names if not data_tokens.get(name)]
        if missing:
            raise ConfigError(
                f"weighting {rule.text!r} goes by the data's size, which is not known of "
                f"{', '.join(missing[:6])}: name --data with text of all measured groups"
            )
        tokens = np.array([data_tokens[name] for name in names])
    rule.start(names, tokens, measured.sums)
    restarted = former is not None and former.state is not None
    if former is not None and former.state is not None and _is_same(rule, former, measured.figure):
        known, now, restarted = former.state, rule.state(), False
        for key, values in (("misfit", known.misfit), ("overlap", known.overlap)):
            now[key] = [
                fresh if values.get(name) is None else values[name]
                for name, fresh in zip(names, now[key], strict=True)
            ]
        rule.restore({**now, "rule": {**now["rule"], **known.rule}})
        rule.observe(measured.sums)
    shares = np.array([before.get(name, 0.0) for name in names])
    if shares.any():
        rule.begin_from(shares / shares.sum())
    return restarted


def _is_same(rule: Weighting, former: MixtureFile, figure: str) -> bool:
    """Whether a former mixture's memory is of this rule's signal."""
    then = parse(former.weighting or "balanced", **DEFAULTS)
    name = (former.weighting or "").partition(":")[0]
    return (
        former.figure == figure
        and name == rule.text.partition(":")[0]
        and (then.config.signal, then.config.unit) == (rule.config.signal, rule.config.unit)
    )


def _state(rule: Weighting, names: Sequence[str]) -> RoundState:
    state = rule.state()
    overlap = [x if np.isfinite(x) else None for x in state["overlap"]]
    return RoundState(
        misfit=dict(zip(names, state["misfit"], strict=True)),
        overlap=dict(zip(names, overlap, strict=True)),
        rule=state["rule"],
    )
