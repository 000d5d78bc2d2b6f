"""Running totals of a run by task, for the progress bar and lm-eval's results file."""

import logging
import time
from collections import defaultdict
from typing import Any

from lm_eval_specfair.records import Record

logger = logging.getLogger(__name__)

SHOWN_FAILURES = 5
EARLY_REQUESTS = 30
"""Fewer than these are called early in the progress bar."""

COUNTS = (
    "num_generated_tokens", "num_spec_steps",
    "num_draft_tokens", "num_accepted_draft_tokens", "num_examined_draft_tokens",
)  # fmt: skip


CHECKS = ("requests", "tokens", "ties", "differing", "tied_baselines", "faulty_baselines")


class Totals:
    """Sums of the records' counts.

    Attributes:
        failures: Requests that failed, and why; their counts are left out.
        differing: Requests whose text is not what the target's own plain pass would choose, with
            the first place that differs.
    """

    def __init__(self) -> None:
        """Start at 0, and the clock with it."""
        self._tasks: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
        self._counted: set[str] = set()
        self.failures: dict[str, str] = {}
        self.differing: dict[str, int] = {}
        self._checks = dict.fromkeys(CHECKS, 0)
        self.begin()

    def add(self, record: Record) -> None:
        """Add a generation record; one that was added before counts once."""
        if record.request_id in self._counted:
            return
        self._counted.add(record.request_id)
        if record.failure is not None:
            self.failures[record.request_id] = record.failure
            return
        task = self._tasks[record.task]
        for name in COUNTS:
            task[name] += getattr(record, name) or 0
        if record.plain_pass_tokens is not None:
            self._checks["requests"] += 1
            self._checks["tokens"] += record.plain_pass_tokens
            self._checks["ties"] += record.plain_pass_ties or 0
            self._checks["differing"] += record.plain_pass_differing or 0
        if record.plain_pass_differing:
            self.differing[record.request_id] = record.plain_pass_differs_at or 0
        if record.baseline_is_tie is not None:
            self._checks["tied_baselines" if record.baseline_is_tie else "faulty_baselines"] += 1

    def begin(self) -> None:
        """Start the clock of `speed`; what was counted before took another run's time."""
        self._began = time.monotonic()
        self._before = self._sum("num_generated_tokens")

    def _sum(self, name: str) -> int:
        return sum(task[name] for task in self._tasks.values())

    @property
    def is_early(self) -> bool:
        """Whether too few requests were counted for their acceptance to say much."""
        return len(self._counted) < EARLY_REQUESTS

    def speed(self) -> dict[str, str]:
        """Tokens per second since `begin` and the running acceptance, for the progress bar."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        tokens = self._sum("num_generated_tokens") - self._before
        shown = {"tokens/s": f"{tokens / seconds:.0f}"}
        examined = self._sum("num_examined_draft_tokens")
        if examined:
            accepted = self._sum("num_accepted_draft_tokens") / examined
            # The first requests of a run are few, and the longest of those decoded together.
            number = len(self._counted)
            early = f", early: {number} request{'s' * (number > 1)}" if self.is_early else ""
            shown["accepted"] = f"{accepted:.1%} of examined{early}"
        return shown

    def _lossless_check(self) -> dict[str, Any] | None:
        """What was held against the target's own plain pass; None where nothing was."""
        if not any(self._checks.values()):
            return None
        counts = self._checks
        equal = counts["tokens"] - counts["ties"] - counts["differing"]
        places = [{"request_id": name, "place": place} for name, place in self.differing.items()]
        return {**counts, "equal": equal, "places": places}

    def warn_of_differences(self) -> None:
        """Log what the target's own plain pass would not have chosen."""
        for name, place in list(self.differing.items())[:SHOWN_FAILURES]:
            logger.error("NOT LOSSLESS: token %d of the text of %s", place, name)
        if self.differing or self._checks["faulty_baselines"]:
            logger.error(
                "NOT LOSSLESS: %d of %d checked texts, and %d baselines, differ from what the "
                "target itself chooses by more than rounding. This engine does not decode the "
                "model exactly: do not use the run, and please report the model.",
                len(self.differing), self._checks["requests"], self._checks["faulty_baselines"],
            )  # fmt: skip

    @property
    def is_lossless(self) -> bool:
        """Whether no check found a difference beyond rounding."""
        return not self.differing and not self._checks["faulty_baselines"]

    def warn_of_failures(self) -> None:
        """Log the first failures, and how many there were."""
        for name, reason in list(self.failures.items())[:SHOWN_FAILURES]:
            logger.warning("failed, and left out of all metrics: %s: %s", name, reason)
        if len(self.failures) > SHOWN_FAILURES:
            logger.warning("failed in all: %d requests", len(self.failures))

    def as_dict(self) -> dict[str, Any]:
        """Counts by task and over all tasks."""
        return {
            "num_failed_requests": len(self.failures),
            "lossless_check": self._lossless_check(),
            "total": {name: self._sum(name) for name in COUNTS},
            "tasks": {name: dict(counts) for name, counts in sorted(self._tasks.items())},
        }
