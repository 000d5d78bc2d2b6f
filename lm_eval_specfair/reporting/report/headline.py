"""The verdict of a report: a few sentences that a person can repeat, before any table."""

from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.machine_load import is_busy, load_sentence
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS, Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.claims import (
    Claim,
    also_counted,
    claim,
    counted,
    gain,
    name_of,
    names_of,
    noun_of,
    nouns_of,
    sentence,
    share,
    slower_to_faster,
    span,
    tokens,
)
from lm_eval_specfair.reporting.report.notes import differing_groups
from lm_eval_specfair.reporting.report.repetition_notes import repetition_verdict
from lm_eval_specfair.reporting.report.validity import invalid_texts

_LENGTH, _COVERAGE = "mean_acceptance_length", "draft_vocabulary_coverage"
_SPEEDUPS = ("measured_speedup", "modelled_speedup")


def headline(summary: Summary) -> list[str]:
    """The verdict: first what forbids to use the figures, then what they say, then cautions."""
    return [*summary.contradictions, *verdict(summary)]


def verdict(summary: Summary) -> list[str]:
    """The same without `Summary.contradictions`, for forms that show these apart."""
    speedup = next((name for name in _SPEEDUPS if summary.overall.get(name) is not None), None)
    sentences = [f"Do not use these figures. {sentence(text)}" for text in _invalid(summary)]
    sentences += _extremes(summary, speedup)
    if speedup is not None:
        sentences += _sides(summary, speedup) + _overall(summary, speedup)
    sentences += _differing(summary) + _groups_missing(summary)
    if speedup == "measured_speedup" and is_busy(summary.run.get("load")):
        sentences.append(load_sentence(summary.run["load"], "it"))
    return sentences + _cautions(summary, speedup) + repetition_verdict(summary)


def _invalid(summary: Summary) -> list[str]:
    return invalid_texts(summary)[:1]


def _extremes(summary: Summary, speedup: str | None) -> list[str]:
    """Who gains most and who least, in tokens a pass and in speed."""
    if summary.overall.get(_LENGTH) is None:
        return _coverage(summary)
    metric = next(
        (name for name in (speedup, _LENGTH) if name and summary.disparity.get(name)), _LENGTH
    )
    groups = [
        group
        for group, estimates in summary.groups.items()
        if group != NO_GROUP and estimates.get(metric) is not None
    ]
    if not groups:
        return []
    spread = summary.disparity.get(metric)
    best, worst = (spread.best, spread.worst) if spread else (groups[0], groups[0])
    first = _served(summary, best, speedup, unit=" tokens a pass")
    if best == worst and len(groups) > 1:  # one place is lowest and highest
        # Their intervals need not be the same, so nothing is said of who gains.
        one = summary.groups[best][metric]
        assert one is not None
        unit = "tokens a pass" if metric == _LENGTH else "times the speed without the drafter"
        return [
            f"All {len(groups)} {nouns_of(summary.group_by)} have the same figure as observed: "
            f"{one.value:.2f} {unit}."
        ]
    text = f"{name_of(best, summary.group_by)} {first}"
    if worst != best:
        second = _served(summary, worst, speedup, unit="")
        text += f"; {name_of(worst, summary.group_by)} {second}"
    return [f"{text}."]


def _served(summary: Summary, group: str, speedup: str | None, *, unit: str) -> str:
    """What one group gets: tokens a pass, and what that makes of its speed."""
    length = summary.groups[group].get(_LENGTH)
    speed = None if speedup is None else summary.groups[group].get(speedup)
    if speed is None:
        # Nothing else tells how sure it is.
        return "" if length is None else f"emits {tokens(length, 2)}{unit}"
    emitted = "" if length is None else f"emits {length.value:.1f}{unit} and "
    return f"{emitted}{gain(speed)}"


def _coverage(summary: Summary) -> list[str]:
    """Of a drafter whose vocabulary was counted, and nothing decoded."""
    spread = summary.disparity.get(_COVERAGE)
    if spread is None:
        return []

    def covered(group: str) -> str:
        one = summary.groups[group][_COVERAGE]
        assert one is not None
        sure = "" if one.low is None or one.high is None else f" ({span(one.low, one.high)})"
        return f"{share(one.value)}{sure}"

    best, worst = (name_of(group, summary.group_by) for group in (spread.best, spread.worst))
    return [
        f"The drafter's vocabulary has {covered(spread.best)} of the tokens of {best} and "
        f"{covered(spread.worst)} of those of {worst}."
    ]


def _sides(summary: Summary, metric: str) -> list[str]:
    """How many groups gain and how many lose, as far as their intervals tell."""
    claims = [
        claim(estimate, 1)
        for group, estimates in summary.groups.items()
        if group != NO_GROUP and (estimate := estimates.get(metric)) is not None
    ]
    if len(claims) < 2 or claims.count(Claim.UNKNOWN) == len(claims):
        return []
    nouns, noun = nouns_of(summary.group_by), noun_of(summary.group_by)
    faster, slower, either, unknown = (claims.count(each) for each in Claim)
    first, second = ("slower", "faster") if slower > faster else ("faster", "slower")
    most, least = max(faster, slower), min(faster, slower)
    parts = [
        f"{counted(most, len(claims), nouns, noun)} {first} with the drafter than without it",
        *([f"{also_counted(least)} {second}"] if most < len(claims) else []),
        *([f"{either} could be either"] if either else []),
        *(
            [f"{unknown} {'have' if unknown > 1 else 'has'} too few documents to tell"]
            if unknown
            else []
        ),
    ]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return [f"Each taken by itself, {text}."]


def _overall(summary: Summary, metric: str) -> list[str]:
    estimate = summary.overall[metric]
    assert estimate is not None
    return [f"Over all requests, decoding with the drafter {_speed(estimate)}."]


def _speed(speedup: Estimate) -> str:
    told = claim(speedup, 1)
    if told is Claim.UNKNOWN:
        return (
            f"took {1 / speedup.value:.2f} times as long as without it"
            if speedup.value > 0
            else "never ended"
        ) + ", on too few documents to say how sure that is"
    assert speedup.low is not None
    assert speedup.high is not None
    if told is Claim.EITHER:
        return (
            "is neither clearly faster nor clearly slower than without it "
            f"({slower_to_faster(speedup)})"
        )
    if told is Claim.BELOW:
        return (
            f"is {share(1 - speedup.value)} slower ({span(1 - speedup.high, 1 - speedup.low)}) "
            "than without it"
        )
    if speedup.value >= 2:
        return (
            f"is {speedup.value:.1f} times as fast ({speedup.low:.1f} to {speedup.high:.1f}) as "
            "without it"
        )
    return (
        f"is {share(speedup.value - 1)} faster ({span(speedup.low - 1, speedup.high - 1)}) than "
        "without it"
    )


def _differing(summary: Summary) -> list[str]:
    """Which groups differ from the mean by more than noise, after correction for many tests."""
    spread = summary.disparity.get(_LENGTH)
    tests = [] if spread is None else [p for p in spread.deviations.values() if p is not None]
    if not tests:
        return []
    nouns, noun = nouns_of(summary.group_by), noun_of(summary.group_by)
    above, below = differing_groups(summary, _LENGTH)
    after = f"After correction for {len(tests)} tests"
    if not above and not below:
        return [
            f"{after}, no {noun} differs from the mean in tokens a pass: these documents cannot "
            f"tell the {nouns} apart."
        ]
    sides = [
        f"{names_of(side, summary.group_by)} {word}"
        for word, side in (("above it", above), ("below it", below))
        if side
    ]
    number = len(above) + len(below)
    verb, what = ("differs", noun) if number == 1 else ("differ", nouns)
    return [f"{after}, {number} {what} {verb} from the mean in tokens a pass: {'; '.join(sides)}."]


def _groups_missing(summary: Summary) -> list[str]:
    """Where no group, or not every one, has documents enough to say anything of it."""
    noun, nouns = noun_of(summary.group_by), nouns_of(summary.group_by)
    groups = [group for group in summary.groups if group != NO_GROUP]
    small = sum(group != NO_GROUP for group in summary.not_reported)
    if not groups and small:
        return [
            f"No {noun} has {summary.min_requests} requests, so nothing can be said of any "
            f"{noun} by itself."
        ]
    if not groups:
        return [f"No request says what {noun} it is of, so all are taken together."]
    lengths = [e for group in groups if (e := summary.groups[group].get(_LENGTH)) is not None]
    bare = sum(each.low is None for each in lengths)
    if not bare:
        return []
    who = f"{bare} of {len(lengths)} {nouns}" if len(lengths) > 1 else f"this {noun}"
    verb = "have" if bare > 1 else "has"
    return [
        f"Few documents: {who} {verb} fewer than {MIN_DOCUMENTS}, from which no interval can be "
        "made."
    ]


def _cautions(summary: Summary, speedup: str | None) -> list[str]:
    """What the sentences before do not rest on."""
    if summary.overall.get(_LENGTH) is None:
        if summary.overall.get(_COVERAGE) is not None:
            return []
        return ["Nothing was drafted in this run, so there is no speed-up to report."]
    if speedup is None:
        return ["Nothing was timed, so nothing is said of speed."]
    if speedup == "modelled_speedup":
        return ["Speeds are modelled from tokens a pass and what a pass costs, not measured."]
    return []
