"""Which step's drafter is kept: the rule is fixed before training, and asked at each probe."""

from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.metrics.arrays import Array


class CheckpointChoice:
    """The fastest worst group, among steps whose mean is at least (1 - eps) of the start's.

    The start itself is a candidate: where training helps nobody, the drafter stays as it was.

    Attributes:
        step: The best step so far.
    """

    def __init__(self, tolerance: float) -> None:
        """Let the mean fall to (1 - tolerance) of its start."""
        self._tolerance = tolerance
        self._least_mean = 0.0
        self._worst = -1.0
        self.step = 0

    def start(self, speedups: Array) -> None:
        """Take the untrained drafter's textbook speed-ups, shape (m,), as the reference."""
        self._least_mean = (1 - self._tolerance) * float(speedups.mean())
        self._worst, self.step = float(speedups.min()), 0

    def offer(self, step: int, speedups: Array) -> bool:
        """Whether this step is the best so far.

        Args:
            step: Its number.
            speedups: Textbook speed-ups of the groups on the probe split, shape (m,).
        """
        if float(speedups.mean()) < self._least_mean or float(speedups.min()) <= self._worst:
            return False
        self._worst, self.step = float(speedups.min()), step
        return True

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {"least_mean": self._least_mean, "worst": self._worst, "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self._least_mean, self._worst = state["least_mean"], state["worst"]
        self.step = state["step"]
