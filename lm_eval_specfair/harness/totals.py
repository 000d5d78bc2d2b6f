"""Running totals of a run by task, for the progress bar and lm-eval's results file."""

import logging
import time
from collections import defaultdict
from typing import Any

from lm_eval_specfair.records import Record

logger = logging.getLogger(__name__)

SHOWN_FAILURES = 5

COUNTS = (
    "num_generated_tokens", "num_spec_steps",
    "num_draft_tokens", "num_accepted_draft_tokens", "num_examined_draft_tokens",
)  # fmt: skip


class Totals:
    """Sums of the records' counts.

    Attributes:
        failures: Requests that failed, and why; their counts are left out.
    """

    def __init__(self) -> None:
        """Start at 0, and the clock with it."""
        self._tasks: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
        self._counted: set[str] = set()
        self.failures: dict[str, str] = {}
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

    def begin(self) -> None:
        """Start the clock of `speed`; what was counted before took another run's time."""
        self._began = time.monotonic()
        self._before = self._sum("num_generated_tokens")

    def _sum(self, name: str) -> int:
        return sum(task[name] for task in self._tasks.values())

    def speed(self) -> dict[str, str]:
        """Tokens per second since `begin` and the running acceptance, for the progress bar."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        tokens = self._sum("num_generated_tokens") - self._before
        shown = {"tokens/s": f"{tokens / seconds:.0f}"}
        examined = self._sum("num_examined_draft_tokens")
        if examined:
            accepted = self._sum("num_accepted_draft_tokens") / examined
            shown["accepted"] = f"{accepted:.1%} of examined"
        return shown

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
            "total": {name: self._sum(name) for name in COUNTS},
            "tasks": {name: dict(counts) for name, counts in sorted(self._tasks.items())},
        }
