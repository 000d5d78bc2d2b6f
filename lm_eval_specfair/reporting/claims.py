"""What an interval allows to be said, as parts of plain sentences.

The verdicts of reports, comparisons and trends are made of these parts, so that no sentence is
surer than its figure: "gains" and "loses", "more" and "fewer" are said only where the whole
interval is on one side of no change.
"""

import enum
import math
from collections.abc import Sequence

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import isolated, listed, prose, shortened

MOST_NAMED = 6
"""Groups that one sentence names."""

_TWICE = 2.0  # from here on people say how many times as fast


class Claim(enum.Enum):
    """On which side of no change a figure is."""

    ABOVE = enum.auto()
    BELOW = enum.auto()
    EITHER = enum.auto()  # the interval holds no change
    UNKNOWN = enum.auto()  # there is no interval


def claim(estimate: Estimate, no_change: float) -> Claim:
    """What a 95% interval says of a figure; the figure itself must agree.

    Example:
        >>> claim(Estimate(value=1.2, low=1.1, high=1.3, n=9), 1)
        <Claim.ABOVE: 1>
    """
    if estimate.low is None or estimate.high is None:
        return Claim.UNKNOWN
    if min(estimate.low, estimate.value) > no_change:
        return Claim.ABOVE
    if max(estimate.high, estimate.value) < no_change:
        return Claim.BELOW
    return Claim.EITHER


def gain(speedup: Estimate) -> str:
    """What a speed-up says of whoever has it, as a verb's part.

    Example:
        >>> gain(Estimate(value=1.41, low=1.31, high=1.51, n=20))
        'gains 41% (31% to 51%)'
        >>> gain(Estimate(value=0.95, low=0.9, high=1.02, n=20))
        'may gain or lose (10% slower to 2% faster)'
    """
    told = claim(speedup, 1)
    if told is Claim.UNKNOWN:
        return "has too few documents to tell a gain from a loss"
    assert speedup.low is not None
    assert speedup.high is not None
    if told is Claim.EITHER:
        return f"may gain or lose ({slower_to_faster(speedup)})"
    if told is Claim.BELOW:
        return f"loses {share(1 - speedup.value)} ({span(1 - speedup.high, 1 - speedup.low)})"
    if speedup.value >= _TWICE:
        return f"is {speedup.value:.1f} times as fast ({speedup.low:.1f} to {speedup.high:.1f})"
    return f"gains {share(speedup.value - 1)} ({span(speedup.low - 1, speedup.high - 1)})"


def slower_to_faster(speedup: Estimate) -> str:
    """Both ends of a speed-up's interval in words; the words are those of its sides of 1."""
    assert speedup.low is not None
    assert speedup.high is not None
    low, high = min(speedup.low, speedup.value), max(speedup.high, speedup.value)
    return f"{_pace(low)} to {_pace(high)}"


def _pace(speedup: float) -> str:
    if speedup == 1:
        return "no change"
    word = "faster" if speedup > 1 else "slower"
    return f"{share(abs(speedup - 1))} {word}"


def share(value: float) -> str:
    """A share of at least 0 as people say it; what is small is not rounded away.

    Example:
        >>> share(0.214), share(0.004), share(0.0002), share(0.0)
        ('21%', '0.4%', 'under 0.1%', '0%')
    """
    if not math.isfinite(value):
        return "any share"
    if value == 0 or value >= 0.0095:
        return f"{value:,.0%}"
    return f"{value:.1%}" if value >= 0.00095 else "under 0.1%"


def span(low: float, high: float) -> str:
    """An interval of shares."""
    return f"{share(low)} to {share(high)}"


def tokens(one: Estimate, digits: int = 1) -> str:
    """A number of tokens with its interval."""
    if one.low is None or one.high is None:
        return f"{one.value:.{digits}f}"
    return f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})"


def noun_of(group_by: str) -> str:
    """What a group is called in a sentence."""
    return "group" if "," in group_by else shortened(one_line(prose(group_by)))


def nouns_of(group_by: str) -> str:
    """What several groups are called.

    Example:
        >>> nouns_of("language"), nouns_of("family"), nouns_of("resource_class")
        ('languages', 'families', 'resource classes')
    """
    noun = noun_of(group_by)
    if noun.endswith("y") and not noun.endswith(("ay", "ey", "oy")):
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def name_of(group: str, group_by: str) -> str:
    """A group as people call it, without its code."""
    name = display_name(group, group_by).removesuffix(f" ({group})")
    return isolated(shortened(one_line(name)))


def names_of(groups: Sequence[str], group_by: str) -> str:
    """Some groups, as a list that can be read aloud.

    Example:
        >>> names_of(["sw"], "language"), names_of(["sw", "fr", "de"], "language")
        ('Swahili', 'Swahili, French and German')
    """
    return series([name_of(group, group_by) for group in groups])


def series(items: Sequence[str]) -> str:
    """Items with commas, and an "and" before the last; of many, how many more there are."""
    if len(items) > MOST_NAMED:
        return listed(items, MOST_NAMED - 1)
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def counted(number: int, total: int, nouns: str, singular: str) -> str:
    """How many of all, as a sentence's beginning with its verb.

    Example:
        >>> counted(8, 30, "languages", "language"), counted(0, 30, "languages", "language")
        ('8 of 30 languages are', 'none of 30 languages is')
        >>> counted(2, 2, "languages", "language"), counted(1, 9, "languages", "language")
        ('all 2 languages are', '1 of 9 languages is')
    """
    if total == 1:
        return f"the one {singular} is" if number else f"the one {singular} is not"
    if number == total:
        return f"all {total} {nouns} are"
    return f"{number or 'none'} of {total} {nouns} {'is' if number < 2 else 'are'}"


def also_counted(number: int) -> str:
    """How many others, with the verb.

    Example:
        >>> also_counted(0), also_counted(1), also_counted(4)
        ('none is', '1 is', '4 are')
    """
    return f"{number or 'none'} {'is' if number < 2 else 'are'}"


def sentence(text: str) -> str:
    """Text that begins with a capital letter and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
