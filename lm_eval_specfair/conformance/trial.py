"""One check on one backend: what it does is watched here, and becomes an outcome."""

import contextlib
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import (
    Answer,
    Ask,
    Backend,
    Capability,
    Drafting,
    RefusedError,
    Settings,
)
from lm_eval_specfair.conformance.reference import judge_greedy

MAX_ERRORS = 5  # kept of one check; the rest is counted


class _EnoughError(Exception):
    """One error was found, and no more are wanted."""


class Status(enum.Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    REFUSED = "refused"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a check found.

    Attributes:
        status: How it ended.
        num_exact: Greedy texts whose tokens are all the likeliest in fp64.
        num_near_ties: Greedy texts with a tie that fp64 certified.
        num_real_bugs: Greedy texts that are wrong.
        errors: What went wrong, the first few.
        notes: Parts that did not apply, refusals, figures.
    """

    status: Status
    num_exact: int = 0
    num_near_ties: int = 0
    num_real_bugs: int = 0
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Trial:
    """A backend under one check: decodes, judges, and remembers what was wrong."""

    backend: Backend
    first_only: bool = False
    num_exact: int = 0
    num_near_ties: int = 0
    num_real_bugs: int = 0
    num_looked_at: int = 0
    num_refused: int = 0
    num_errors: int = 0
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def has(self, capability: Capability, part: str = "") -> bool:
        """Whether the backend can do it; if not, the part that is left out is noted."""
        if capability in self.backend.capabilities:
            return True
        if part:
            self.notes.append(f"not applicable: {part}")
        return False

    def expect(self, holds: bool, complaint: str) -> None:
        """Remember a complaint where something does not hold."""
        self.num_looked_at += 1
        if not holds:
            self.num_errors += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(complaint)
            if self.first_only:
                raise _EnoughError

    def equal(self, got: object, expected: object, what: str) -> None:
        """Expect two values to be equal."""
        self.expect(got == expected, f"{what}: {got}, expected {expected}")

    def refusal(self, error: RefusedError, what: str) -> None:
        """Note that the backend said no, which harms nobody."""
        self.num_refused += 1
        self.notes.append(f"refused: {what} ({error})")

    def decode(
        self,
        target: PreTrainedModel,
        drafter: Drafting,
        asks: Sequence[Ask],
        settings: Settings,
    ) -> list[Answer]:
        """The backend's answers, one for each request."""
        answers = self.backend.decode(target, drafter, asks, settings)
        if len(answers) != len(asks):
            raise RuntimeError(f"{len(answers)} answers to {len(asks)} requests")
        return answers

    def judge(self, target: PreTrainedModel, asks: Sequence[Ask], answers: Sequence[Answer]) -> int:
        """Judge greedy texts by full fp64 passes; the number that are right."""
        right = 0
        for ask, answer in zip(asks, answers, strict=True):
            verdict = judge_greedy(
                target,
                ask.prompt,
                answer.token_ids,
                max_new_tokens=ask.max_new_tokens,
                eos_token_ids=ask.eos_token_ids,
            )
            self.num_real_bugs += verdict.error is not None
            self.num_near_ties += verdict.error is None and verdict.num_ties > 0
            self.num_exact += verdict.error is None and verdict.num_ties == 0
            right += verdict.error is None
            self.expect(verdict.error is None, f"request {ask.name}: {verdict.error}")
        return right

    def outcome(self) -> Outcome:
        """What was found."""
        errors = list(self.errors)
        if self.num_errors > len(errors):
            errors.append(f"and {self.num_errors - len(errors)} more")
        if errors:
            status = Status.FAILED
        elif self.num_looked_at:
            status = Status.PASSED
        elif self.num_refused:
            status = Status.REFUSED
        else:
            status, errors = Status.FAILED, ["the check looked at nothing"]
        return Outcome(
            status=status,
            num_exact=self.num_exact,
            num_near_ties=self.num_near_ties,
            num_real_bugs=self.num_real_bugs,
            errors=tuple(errors),
            notes=tuple(self.notes),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A check of one bug class.

    Attributes:
        number: Of the class, as in `docs/conformance.md`.
        name: What `--check` takes.
        group: Part of a decoder that the class lives in.
        proves: What holds when it passes, one sentence.
        witness: Where the bug was seen.
        needs: Capabilities without which it does not apply.
        body: Does it.
        may_refuse: Whether a clear refusal is a good answer to all of it.
    """

    number: int
    name: str
    group: str
    proves: str
    witness: str
    needs: frozenset[Capability]
    body: Callable[[Trial], None]
    may_refuse: bool = False

    def run(self, backend: Backend, *, first_only: bool = False) -> Outcome:
        """Run it on a backend; whatever the backend raises is an outcome.

        Args:
            backend: Under test.
            first_only: Stop at the first error.
        """
        missing = self.needs - backend.capabilities
        if missing:
            lacks = ", ".join(sorted(each.value for each in missing))
            return Outcome(status=Status.NOT_APPLICABLE, notes=(f"needs a decoder that {lacks}",))
        trial = Trial(backend, first_only)
        with contextlib.suppress(_EnoughError):
            self._watched(trial)
        return trial.outcome()

    def _watched(self, trial: Trial) -> None:
        try:
            self.body(trial)
        except _EnoughError:
            raise
        except RefusedError as error:
            if self.may_refuse:
                trial.refusal(error, "all of it")
            else:
                trial.expect(False, f"refused what it must decode: {error}")
        except Exception as error:  # a decoder under test may raise anything
            line = next(iter(str(error).splitlines()), "")
            trial.expect(False, f"raised {type(error).__name__}: {line:.160}")
