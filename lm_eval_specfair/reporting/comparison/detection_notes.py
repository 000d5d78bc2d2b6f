"""The sentences on what a comparison's documents can show, and what a family-wise rate costs."""

from collections.abc import Iterable, Mapping
from statistics import median_low

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.detection import Detection, Detections
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.metrics.statistics.power import POWER
from lm_eval_specfair.reporting.claims import noun_of
from lm_eval_specfair.reporting.format import isolated, listed, prose

_MOST_GROUPS = 8


def detection_notes(
    group_by: str, by_candidate: Mapping[str, Detections], *, family_wise: bool
) -> list[str]:
    """For each candidate the loss that is found in 80% of cases, and groups that are too small."""
    notes, few = [], dict[str, int]()
    for name, found in by_candidate.items():
        lead = f"{name}: with" if len(by_candidate) > 1 else "With"
        if (sentence := found_in_groups(found.groups, group_by)) is not None:
            notes.append(f"{lead} {sentence}")
        few |= {
            group: each.documents
            for group, each in found.groups.items()
            if each.documents < MIN_DOCUMENTS
        }
    if few:
        small = [f"{isolated(display_name(g, group_by))} ({n})" for g, n in few.items()]
        notes.append(
            f"Too few documents for intervals, p-values and verdicts, which need {MIN_DOCUMENTS} "
            f"(n): {listed(small, _MOST_GROUPS)}."
        )
    if family_wise and len(by_candidate) > 1:
        notes.append(_price(by_candidate))
    return notes


def found_in_groups(groups: Mapping[str, Detection], group_by: str) -> str | None:
    """`10 documents a language, a loss of 7% in one language is found ...`; None if none is."""
    losses = {group: each.loss for group, each in groups.items() if each.loss is not None}
    if not losses:
        return None
    noun = noun_of(group_by)
    documents = documents_text((groups[group].documents for group in losses), noun)
    ordered = sorted(losses, key=losses.__getitem__)
    text = f"{documents}, a loss of {percent(median_low(losses.values()))} "
    if len(ordered) == 1:
        return f"{text}is found in {POWER:.0%} of cases."
    least, most = (
        f"{percent(losses[group])} in {isolated(display_name(group, group_by))}"
        for group in (ordered[0], ordered[-1])
    )
    return (
        f"{text}in one {noun} (the median; from {least} to {most}) is found in {POWER:.0%} of "
        "cases."
    )


def documents_text(numbers: Iterable[int], noun: str) -> str:
    """`10 documents a language`, or `8 to 20 documents a language`."""
    least, *others = sorted(set(numbers))
    span = f"{least:,} to {others[-1]:,}" if others else f"{least:,}"
    return f"{span} document{'' if span == '1' else 's'} a {noun}"


def percent(share: float) -> str:
    """A share with two digits.

    Example:
        >>> percent(0.0714), percent(0.00321), percent(1.234)
        ('7.1%', '0.32%', '123%')
    """
    digits = 0 if share >= 0.1 else 1 if share >= 0.01 else 2
    return f"{share:.{digits}%}"


def _price(by_candidate: Mapping[str, Detections]) -> str:
    """What one rate over all candidates costs: how much more must be lost to be found."""
    sentence = (
        f"One rate of false alarms over all {len(by_candidate)} candidates, as asked for: each is "
        "judged the more cautiously the more there are"
    )
    for found in by_candidate.values():
        for each in (*found.limits.values(), *found.groups.values()):
            if each.loss is not None and each.alone is not None:
                what = next((name for name, one in found.limits.items() if one is each), None)
                where = f"of {prose(what)}" if what else "in a group"
                return (
                    f"{sentence}. A loss {where} is found in {POWER:.0%} of cases from "
                    f"{percent(each.loss)} on; of one candidate alone it would be from "
                    f"{percent(each.alone)} on."
                )
    return f"{sentence}."
