"""Sentences about repetition: loops are easy to draft, so acceptance in them tells little."""

from collections.abc import Sequence

from lm_eval_specfair.groups.assign import NO_GROUP, display_name
from lm_eval_specfair.metrics.explained_spread import ExplainedSpread
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import isolated, listed, prose

HIGH_SHARE = 0.2
"""Of repeated 4-grams, from which a text counts as repetitive.

People's texts have less than 0.02, greedy texts of a language model that loops 0.4 and more
(Welleck et al. 2020, arXiv:1908.04319).
"""
_STRONG = 0.5  # a rank correlation
_MOST_NAMED = 5
_RATE, _REPEATED = "conditional_acceptance_rate", "repeated_4grams"


def repetition_verdict(summary: Summary) -> list[str]:
    """A warning where acceptance and repetition go together, or repetition is high."""
    repeated = {
        group: estimate.value
        for group, estimates in summary.groups.items()
        if group != NO_GROUP and (estimate := estimates.get(_REPEATED)) is not None
    }
    overall = summary.overall.get(_REPEATED)
    high = sorted((g for g in repeated if repeated[g] >= HIGH_SHARE), key=lambda g: -repeated[g])
    found = []
    if high:
        names = [
            f"{isolated(display_name(group, summary.group_by))} {repeated[group]:.2f}"
            for group in high
        ]
        found.append(
            f"texts repeat themselves in {len(high)} of {len(repeated)} groups (share of repeated "
            f"4-grams: {listed(names, _MOST_NAMED)})"
        )
    elif overall is not None and overall.value >= HIGH_SHARE:
        found.append(f"texts repeat themselves (share of repeated 4-grams {overall.value:.2f})")
    together = next(
        (each for each in summary.associations if (each.figure, each.other) == (_RATE, _REPEATED)),
        None,
    )
    if together is not None and together.spearman >= _STRONG and together.spearman_p < 0.05:
        found.append(
            f"acceptance is higher in groups that repeat themselves more (Spearman "
            f"{together.spearman:.2f}, p {together.spearman_p:.2g})"
        )
    if not found:
        return []
    text = "; ".join(found)
    return [
        f"{text[0].upper()}{text[1:]}. Loops are easy to draft: acceptance there says little about "
        "text that is worth having."
    ]


def explained_notes(summary: Summary) -> list[str]:
    """How much of the spread of acceptance goes with what the groups are otherwise."""
    notes = []
    for figure in dict.fromkeys(each.figure for each in summary.explained):
        same = [each for each in summary.explained if each.figure == figure]
        shares = [
            f"{each.r_squared:.0%}{_interval(each)} with {_covariates(each.by)} (adjusted "
            f"{each.r_squared_adjusted:.0%}, p {each.p_value:.2g})"
            for each in same
        ]
        notes.append(
            f"Of the variance of {prose(figure)} across {same[0].num_groups} groups go "
            f"{', '.join(shares)}; linear regressions, p by permutation, in brackets 95% over "
            "documents."
        )
    return notes


def _interval(each: ExplainedSpread) -> str:
    return "" if each.low is None else f" [{each.low:.0%}, {each.high:.0%}]"


def _covariates(by: Sequence[str]) -> str:
    *rest, last = map(prose, by)
    return f"{', '.join(rest)} and {last} together" if rest else last
