"""A clock for streams of work on CPUs and GPUs."""

import time
from itertools import pairwise
from typing import Any

import torch


class Clock:
    """Seconds between marks of a stream of work.

    On a GPU a mark is an event in the stream: nothing waits before `laps`.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """End a lap."""
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def laps(self) -> list[float]:
        """Seconds of each lap so far."""
        pairs = pairwise(self._marks)
        if not self._on_gpu:
            return [end - start for start, end in pairs]
        self._marks[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]
