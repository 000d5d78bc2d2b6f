"""The choice of the step whose drafter is kept: by a rule fixed before training, at each probe."""

from dataclasses import dataclass

from lm_eval_specfair.metrics.arrays import Array


@dataclass(kw_only=True, slots=True)
class CheckpointChoice:
    """The fastest worst group, among steps whose mean is at least (1 - eps) of the start's.

    The start itself is a candidate: where training helps nobody, the drafter stays as it was.
    """

    tolerance: float  # eps
    least_mean: float = 0.0  # what the mean speed-up must reach
    worst: float = -1.0  # the worst group's speed-up at the best step so far
    step: int = 0  # that step

    def start(self, speedups: Array) -> None:
        """Take the untrained drafter's textbook speed-ups, shape (m,), as the reference."""
        self.least_mean = (1 - self.tolerance) * float(speedups.mean())
        self.worst, self.step = float(speedups.min()), 0

    def offer(self, step: int, speedups: Array) -> bool:
        """Whether a step, with these speed-ups on the probe split, is the best so far."""
        if float(speedups.mean()) < self.least_mean or float(speedups.min()) <= self.worst:
            return False
        self.worst, self.step = float(speedups.min()), step
        return True
