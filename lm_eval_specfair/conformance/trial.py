"""One check of one backend: what is decoded and judged, and the outcome."""

import contextlib
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import (
    Answer,
    Ask,
    AskSettings,
    Backend,
    Capability,
    Drafting,
    RefusedError,
)
from lm_eval_specfair.conformance.reference import judge_greedy

MAX_ERRORS = 5  # kept of one check; the rest is counted


class _EnoughError(Exception):
    """One error was found, and no more are needed."""


class Status(enum.Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    REFUSED = "refused"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What a check found."""

    status: Status
    num_exact: int = 0  # greedy texts whose tokens are all the most likely ones in fp64
    num_near_ties: int = 0  # greedy texts with a tie that fp64 certified
    num_real_bugs: int = 0  # greedy texts that are wrong
    errors: tuple[str, ...] = ()  # the first few
    notes: tuple[str, ...] = ()  # parts that did not apply, refusals, measurements


@dataclass(slots=True)
class Trial:
    """A backend under one check: decodes, judges, and collects errors and notes."""

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

    def can(self, capability: Capability) -> bool:
        """Whether the backend has a capability."""
        return capability in self.backend.capabilities

    def has(self, capability: Capability, part: str) -> bool:
        """Whether the backend has a capability; if not, the part that is left out is noted."""
        if not self.can(capability):
            self.notes.append(f"not applicable: {part}")
        return self.can(capability)

    def expect(self, holds: bool, complaint: str) -> None:
        """Record a complaint where something does not hold."""
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
        """Note that the backend refused, which harms nobody."""
        self.num_refused += 1
        self.notes.append(f"refused: {what} ({error})")

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        """The backend's answers, one for each request."""
        answers = self.backend.decode(target, drafter, asks, settings)
        if len(answers) != len(asks):
            raise RuntimeError(f"{len(answers)} answers to {len(asks)} requests")
        return answers

    def greedy(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], **settings: int
    ) -> list[Answer]:
        """Decode greedily, with `AskSettings` of these values, and judge the texts."""
        answers = self.decode(target, drafter, asks, AskSettings(**settings))
        self.judge(target, asks, answers)
        return answers

    def judge(self, target: PreTrainedModel, asks: Sequence[Ask], answers: Sequence[Answer]) -> int:
        """Judge greedy texts by full fp64 passes; the number that are right."""
        right = 0
        for ask, answer in zip(asks, answers, strict=True):
            judgement = judge_greedy(
                target,
                ask.prompt,
                answer.token_ids,
                max_new_tokens=ask.max_new_tokens,
                eos_token_ids=ask.eos_token_ids,
            )
            is_right = judgement.error is None
            right += is_right
            self.num_real_bugs += not is_right
            self.num_near_ties += is_right and judgement.num_ties > 0
            self.num_exact += is_right and judgement.num_ties == 0
            self.expect(is_right, f"request {ask.name}: {judgement.error}")
        return right

    def outcome(self) -> CheckOutcome:
        """What was found; a check that looked at nothing failed, unless all was refused."""
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
        texts = (self.num_exact, self.num_near_ties, self.num_real_bugs)
        return CheckOutcome(status, *texts, tuple(errors), tuple(self.notes))


@dataclass(frozen=True, slots=True)
class BugClass:
    """A class of bugs of speculative decoding."""

    number: int  # as in `docs/conformance.md`
    name: str  # for tables and `--check`
    proves: str  # what holds where it is absent, one sentence
    witness: str  # where the bug was seen


@dataclass(frozen=True, slots=True)
class Check(BugClass):
    """A check of one bug class."""

    group: str  # the part of a decoder that the class belongs to
    needs: frozenset[Capability]  # without them it does not apply
    body: Callable[[Trial], None]
    may_refuse: bool = False  # whether a clear refusal is a good answer to all of it

    def run(self, backend: Backend, *, first_only: bool = False) -> CheckOutcome:
        """Run it on a backend; anything that the backend raises is an outcome."""
        missing = self.needs - backend.capabilities
        if missing:
            lacks = ", ".join(sorted(capability.value for capability in missing))
            return CheckOutcome(Status.NOT_APPLICABLE, notes=(f"needs a decoder that {lacks}",))
        trial = Trial(backend, first_only)
        with contextlib.suppress(_EnoughError):
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
        return trial.outcome()


def check(
    number: int, group: str, witness: str, *needs: Capability, may_refuse: bool = False
) -> Callable[[Callable[[Trial], None]], Check]:
    """Make a check of a function: its name is the check's, its docstring's first line the claim."""

    def made(body: Callable[[Trial], None]) -> Check:
        name, proves = body.__name__.replace("_", "-"), (body.__doc__ or "").partition("\n")[0]
        return Check(number, name, proves, witness, group, frozenset(needs), body, may_refuse)

    return made
