"""The suite: all checks in order of their bug classes, run on a backend."""

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lm_eval_specfair.conformance.adapter import Backend
from lm_eval_specfair.conformance.checks import (
    composition,
    counts,
    law,
    randomness,
    rollback,
    rule,
    stops,
    vocabulary,
)
from lm_eval_specfair.conformance.trial import BugClass, Check, CheckOutcome, Status
from lm_eval_specfair.errors import ConfigError

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (
            value
            for module in (composition, counts, law, randomness, rollback, rule, stops, vocabulary)
            for value in vars(module).values()
            if isinstance(value, Check)
        ),
        key=lambda check: check.number,
    )
)

# What surrounds a decoder: our own tests prove these, not a backend.
HARNESS_CLASSES = (
    BugClass(
        number=22,
        name="prompt-of-both-arms",
        proves="The plain and the speculative run read the same tokens, with one BOS, as "
        "`--model hf` does.",
        witness="SpecForge#296",
    ),
    BugClass(
        number=23,
        name="paired-timing",
        proves="Both arms count token ids, warm up alike and take turns in going first.",
        witness="EAGLE and Spec-Bench `speed.py`",
    ),
    BugClass(
        number=24,
        name="cache-interface",
        proves="The cache answers all that the installed transformers asks of one, and never cuts "
        "by a call whose sign has changed.",
        witness="transformers 5 (`Cache.crop` refuses positive numbers)",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A check, its outcome, and the seconds of processor time that it took here."""

    check: Check
    outcome: CheckOutcome
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteReport:
    """A backend's results.

    Attributes:
        backend: Its name.
        versions: Of Python and of the packages that decoded.
        results: In order of the classes.
    """

    backend: str
    versions: dict[str, str]
    results: tuple[Result, ...]

    def number(self, status: Status) -> int:
        """How many checks ended like this."""
        return sum(result.outcome.status is status for result in self.results)


def chosen(names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names or numbers; all of them where none is given.

    Raises:
        ConfigError: If there is no check of a name.
    """
    if not names:
        return CHECKS
    by_name = {check.name: check for check in CHECKS}
    by_name |= {str(check.number): check for check in CHECKS}
    for name in names:
        if name not in by_name:
            known = ", ".join(check.name for check in CHECKS)
            raise ConfigError(f"--check must be one of {known}; got {name!r}")
    numbers = {by_name[name].number for name in names}
    return tuple(check for check in CHECKS if check.number in numbers)


def run_checks(backend: Backend, checks: Sequence[Check]) -> Iterator[Result]:
    """Run checks on a backend, one by one."""
    for check in checks:
        start = time.process_time()
        outcome = check.run(backend)
        yield Result(check=check, outcome=outcome, seconds=time.process_time() - start)


def make_report(backend: Backend, results: Sequence[Result]) -> SuiteReport:
    """The report of a backend's results."""
    versions = {**backend.versions(), "Python": platform.python_version()}
    return SuiteReport(backend=backend.name, versions=versions, results=tuple(results))
