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
    replayed_steps,
    rollback,
    rule,
    stops,
    vocabulary,
)
from lm_eval_specfair.conformance.trial import BugClass, Check, CheckOutcome, Status
from lm_eval_specfair.errors import ConfigError

_MODULES = (composition, counts, law, randomness, replayed_steps, rollback, rule, stops, vocabulary)
_FOUND = [value for module in _MODULES for value in vars(module).values()]
CHECKS: tuple[Check, ...] = tuple(
    sorted((x for x in _FOUND if isinstance(x, Check)), key=lambda check: check.number)
)

# What surrounds a decoder: our own tests prove these, not a backend.
HARNESS_CLASSES = (
    BugClass(
        22,
        "prompt-of-both-arms",
        "The plain and the speculative run read the same tokens, with one BOS, as "
        "`--model hf` does.",
        "SpecForge#296",
    ),
    BugClass(
        23,
        "paired-timing",
        "Both arms count token ids, warm up alike and take turns in going first.",
        "EAGLE and Spec-Bench `speed.py`",
    ),
    BugClass(
        24,
        "cache-interface",
        "The cache answers all that the installed transformers asks of one, and never cuts "
        "by a call whose sign has changed.",
        "transformers 5 (`Cache.crop` refuses positive numbers)",
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
    """A backend's results."""

    backend: str  # its name
    versions: dict[str, str]  # of Python and of the packages that decoded
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
    for name in names:
        if not any(name in (check.name, str(check.number)) for check in CHECKS):
            known = ", ".join(check.name for check in CHECKS)
            raise ConfigError(f"--check must be one of {known}; got {name!r}")
    return tuple(check for check in CHECKS if {check.name, str(check.number)} & set(names))


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
