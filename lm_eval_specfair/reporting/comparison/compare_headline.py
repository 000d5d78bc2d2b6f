"""The verdict of a comparison and its gate: a few sentences that a person can repeat."""

from collections.abc import Mapping
from dataclasses import dataclass

from lm_eval_specfair.metrics.comparison.change import Candidate, Change
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate
from lm_eval_specfair.reporting.claims import (
    Claim,
    also_counted,
    claim,
    counted,
    name_of,
    names_of,
    noun_of,
    nouns_of,
    sentence,
    share,
    span,
)
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.gate_headline import gate_sentence, run_name
from lm_eval_specfair.reporting.format import prose

MOST_CANDIDATES = 4
"""Candidates of which the verdict tells one by one."""

_EVENNESS = "coefficient_of_variation"


def comparison_headline(report: ComparisonReport) -> list[str]:
    """The verdict: what the gate says, then what changes over all, for whom, and how evenly."""
    candidates = report.comparison.candidates
    if not candidates:
        return []
    verdicts = {verdict.candidate: verdict for verdict in report.verdicts}
    if len(candidates) == 1:
        return _of_one(report, candidates[0], verdicts)
    # Those that fail first, as what is told is cut.
    order = sorted(
        candidates, key=lambda one: one.name not in verdicts or verdicts[one.name].passed
    )
    sentences = []
    if verdicts:
        failing = sum(not verdict.passed for verdict in verdicts.values())
        sentences.append(f"The gate turns down {failing or 'none'} of {len(verdicts)} candidates.")
    for candidate in order[:MOST_CANDIDATES]:
        verdict = verdicts.get(candidate.name)
        if verdict is not None and not verdict.passed:
            sentences.append(gate_sentence(report, verdict))
        sentences += _overall(report, candidate)
    if (left := len(candidates) - MOST_CANDIDATES) > 0:
        sentences.append(f"The tables tell of {left} more.")
    return sentences + _cautions(report)


def _of_one(
    report: ComparisonReport, candidate: Candidate, verdicts: Mapping[str, GateVerdict]
) -> list[str]:
    sentences = [gate_sentence(report, verdict) for verdict in verdicts.values()]
    sentences += _overall(report, candidate) + _groups(report, candidate)
    sentences += _worst_served(report, candidate) + _evenness(report, candidate)
    return sentences + _cautions(report)


@dataclass(frozen=True, slots=True)
class _Words:
    """How a change of a metric is said, of runs and over groups."""

    verb: str
    more: str
    less: str
    unit: str = ""
    subject: str = ""
    verbs: tuple[str, str] = ("rises", "falls")


def _words(metric: Metric) -> _Words:
    if metric.is_speedup:
        return _Words("is", "faster", "slower")
    if metric is MEAN_ACCEPTANCE_LENGTH:
        what = "tokens a pass"
        return _Words("emits", "more", "fewer", f" {what}", what, ("rise", "fall"))
    what = prose(metric.name)
    return _Words("has", "more", "less", f" {what}", f"the {what}")


def changes_of(change: Change) -> Claim:
    """What a change, and its share of the base's value, both say."""
    told = claim(change.difference, 0)
    if change.relative is None:
        return told
    return told if told is claim(change.relative, 0) else _weaker(told)


def _weaker(told: Claim) -> Claim:
    return Claim.UNKNOWN if told is Claim.UNKNOWN else Claim.EITHER


def _overall(report: ComparisonReport, candidate: Candidate) -> list[str]:
    change = candidate.overall.get(report.metric.name)
    if change is None:
        return []
    words, base = _words(report.metric), run_name(report.comparison.runs[0].name)
    who = f"Over all requests, {run_name(candidate.name)}"
    told, by = changes_of(change), change.relative
    if by is None:  # no share of nothing
        return []
    if _is_same(change):
        return [f"{who} and {base} do not differ in {prose(report.metric.name)}."]
    if told is Claim.UNKNOWN:
        return [
            f"{who} {words.verb} {_amount(by.value, words)}{words.unit} than {base} as "
            "observed, on too few documents to say how sure that is."
        ]
    assert by.low is not None
    assert by.high is not None
    low, high = min(by.low, by.value), max(by.high, by.value)
    ends = f"{_amount(low, words)} to {_amount(high, words)}"
    if told is not Claim.EITHER:
        ends = span(*sorted((abs(low), abs(high))))
    if told is Claim.EITHER:
        return [
            f"{who} {words.verb} neither clearly {words.more} nor clearly {words.less}"
            f"{words.unit} than {base} ({ends})."
        ]
    return [f"{who} {words.verb} {_amount(by.value, words)}{words.unit} than {base} ({ends})."]


def _is_same(change: Change) -> bool:
    """Whether nothing at all changed, as with runs of one drafter, in no document."""
    one = change.difference
    return one.value == one.low == one.high == 0


def _amount(relative: float, words: _Words) -> str:
    if relative == 0:
        return f"no {words.more}"
    return f"{share(abs(relative))} {words.more if relative > 0 else words.less}"


def group_claims(report: ComparisonReport, candidate: Candidate) -> dict[str, Claim]:
    """For each group what its change says after correction for all of them."""
    claims = {}
    for group, changes in candidate.groups.items():
        change = changes.get(report.metric.name)
        if change is None:
            continue
        if change.p_adjusted is None:
            claims[group] = Claim.UNKNOWN
        elif change.p_adjusted < 1 - CONFIDENCE:
            claims[group] = changes_of(change)
        else:
            claims[group] = Claim.EITHER
    return claims


def _groups(report: ComparisonReport, candidate: Candidate) -> list[str]:
    """How many groups gain and lose, after correction."""
    claims, group_by = group_claims(report, candidate), report.comparison.group_by
    changes = [candidate.groups[group].get(report.metric.name) for group in claims]
    if claims and all(each is not None and _is_same(each) for each in changes):
        return [f"No {noun_of(group_by)} differs either."]
    nouns, noun = nouns_of(group_by), noun_of(group_by)
    if not claims:
        few = report.comparison.min_requests
        return [f"No {noun} has {few} requests, so none is compared by itself."]
    more, less, either, unknown = (
        [group for group, told in claims.items() if told is each] for each in Claim
    )
    if len(unknown) == len(claims):
        return [f"No {noun} has documents enough for a change in it to be told from chance."]
    # The larger side first.
    words, sides = _words(report.metric), [(0, more), (1, less)]
    (first, one), (second, other) = sorted(sides, key=lambda each: -len(each[1]))

    def named(groups: list[str]) -> str:
        return f" ({names_of(groups, group_by)})" if 0 < len(groups) < len(claims) else ""

    total = len(claims)
    if report.metric.is_speedup:
        adjectives = (words.more, words.less)
        parts = [
            f"{counted(len(one), total, nouns, noun)} {adjectives[first]}{named(one)}",
            *(
                [f"{also_counted(len(other))} {adjectives[second]}{named(other)}"]
                if other or len(one) < total
                else []
            ),
            *([f"{len(either)} could be either"] if either and total > 1 else []),
        ]
    else:
        what, verbs = words.subject, words.verbs
        of_all = f" of {total} {nouns}" if total > 1 else f" of 1 {noun}"
        parts = [
            f"{what} {verbs[first]} in {len(one) or 'none'}{of_all}{named(one)}",
            f"{verbs[second]} in {len(other) or 'none'}{named(other)}",
            *([f"could do either in {len(either)}"] if either else []),
        ]
    parts += (
        [f"{len(unknown)} {'have' if len(unknown) > 1 else 'has'} too few documents to tell"]
        if unknown
        else []
    )
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    tests = sum(told is not Claim.UNKNOWN for told in claims.values())
    if report.comparison.family_wise:
        tests *= len(report.comparison.candidates)
    lead = f"After correction for {tests} tests, " if tests > 1 else ""
    return [sentence(f"{lead}{text}")]


def _worst_served(report: ComparisonReport, candidate: Candidate) -> list[str]:
    """Where the worst-served group stands in both runs, as observed."""
    comparison, metric = report.comparison, report.metric
    base = comparison.runs[0].name
    standings = [comparison.standings[run].get(metric.name) for run in (base, candidate.name)]
    before, after = standings
    if before is None or after is None or len(comparison.groups) < 2:
        return []
    unit = " times plain speed" if metric.is_speedup else _words(metric).unit
    group_by = comparison.group_by
    ends = [
        f"{each.worst.value:.2f}{_interval(each.worst)}{text} with {run_name(run)} "
        f"({name_of(each.worst_group, group_by)})"
        for each, run, text in ((before, base, unit), (after, candidate.name, ""))
    ]
    return [f"The worst-served {noun_of(group_by)} is at {ends[0]} and at {ends[1]}."]


def _interval(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return ""
    return f" ({one.low:.2f} to {one.high:.2f})"


def _evenness(report: ComparisonReport, candidate: Candidate) -> list[str]:
    """Whether the metric is spread more evenly across groups than before."""
    change = candidate.spreads.get(report.metric.name, {}).get(_EVENNESS)
    if change is None or change.p_adjusted is None or _is_same(change):
        return []
    told, nouns = claim(change.difference, 0), nouns_of(report.comparison.group_by)
    if told is Claim.EITHER or told is Claim.UNKNOWN or change.p_adjusted >= 1 - CONFIDENCE:
        return [f"Whether the {nouns} are served more evenly or less cannot be told."]
    word = "more" if told is Claim.BELOW else "less"
    return [f"The {nouns} are served {word} evenly than before."]


def _cautions(report: ComparisonReport) -> list[str]:
    sentences = []
    for candidate in report.comparison.candidates:
        texts = candidate.texts
        if texts.differing:
            sentences.append(
                f"{texts.differing} of {texts.compared} greedy texts of {run_name(candidate.name)} "
                "differ from the base's: one of the two runs may not be lossless."
            )
    if report.metric is MODELLED_SPEEDUP:
        sentences.append(
            "Speeds are modelled from tokens a pass and what a pass costs, not measured."
        )
    return sentences
