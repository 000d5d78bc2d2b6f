"""Cells of the tables: values with their intervals, languages in order, titles."""

from collections.abc import Iterable

from run_values import Measured
from tabulate import tabulate

from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.metrics.statistics.intervals import Estimate

RATE = "conditional_acceptance_rate"
TITLES = {
    RATE: "Conditional acceptance",
    "mean_acceptance_length": "Tokens a step",
    "bytes_per_step": "Bytes a step",
    "overlap": "Overlap",
    "scored_agreement": "Agreement on references",
    "scored_overlap": "Overlap on references",
    "repeated_4grams": "repeated 4-grams",
    "other_script_letters": "other script",
    "bytes_per_token": "bytes a token",
    "answer_quality": "answers",
    "bits_per_byte": "bits a byte",
    "drafter_bits_per_byte": "drafter's bits a byte",
    "scored_bytes_per_token": "bytes a token, references",
}


def estimate(one: Measured, language: str, metric: str) -> Estimate | None:
    if metric == "bytes_per_step":
        steps = one.summary.groups[language].get("steps_per_kilobyte")
        if steps is None:
            return None
        low = None if steps.high is None else 1000 / steps.high
        high = None if steps.low is None else 1000 / steps.low
        return Estimate(value=1000 / steps.value, low=low, high=high, n=steps.n)
    return one.summary.groups[language].get(metric)


def languages_of(found: Iterable[Measured]) -> list[str]:
    """By resource class, the highest first, then by name; those with generated texts."""
    names = {
        group
        for one in found
        for group, estimates in one.summary.groups.items()
        if estimates.get("bytes_per_token")
    }
    return sorted(names, key=lambda name: (-int(languages()[name].resource_class), name))


def shown(one: Estimate | None, digits: int = 2, *, interval: bool = True) -> str:
    if one is None:
        return ""
    text = f"{one.value:.{digits}f}"
    if interval and one.low is not None and one.high is not None:
        text += f" [{one.low:.{digits}f}, {one.high:.{digits}f}]"
    return text


def table(rows: list[list[str]], header: list[str]) -> str:
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)
