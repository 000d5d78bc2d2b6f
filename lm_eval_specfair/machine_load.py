"""The load of a machine while something is timed on it: what other processes take of its CPUs.

A look costs some system calls, so it is taken every few seconds and never between two steps.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

BUSY_SHARE = 0.1
"""Share of the CPUs that others may take before a machine is called busy."""

_SECONDS_BETWEEN = 5.0
_SHORTEST = 0.5  # seconds over which a share of CPUs means something


class MachineLoad:
    """Looks at the machine from now on; numbers that the system does not tell are None."""

    def __init__(self, *, with_siblings: bool = False) -> None:
        """Look for the first time; with siblings, processes of one parent are no others."""
        self._with_siblings = with_siblings
        self._before = _load_average()
        self._loads = [] if self._before is None else [self._before]
        self._others: list[tuple[float, float]] = []  # CPUs that others took, for how many seconds
        self._last, self._spent = time.monotonic(), self._spent_now()

    def look(self) -> None:
        """Look again, unless that was done in the last seconds."""
        if time.monotonic() - self._last >= _SECONDS_BETWEEN:
            self._look()

    def _look(self) -> None:
        now, spent = time.monotonic(), self._spent_now()
        if (load := _load_average()) is not None:
            self._loads.append(load)
        lasted = now - self._last
        if spent is not None and self._spent is not None and lasted >= _SHORTEST:
            others = (spent[0] - self._spent[0]) - (spent[1] - self._spent[1])
            self._others.append((max(others, 0.0) / lasted, lasted))
        self._last, self._spent = now, spent

    def to_json(self) -> dict[str, Any]:
        """What `run.json` gets as `load`; CPUs are counted, load averages are of one minute."""
        self._look()
        seconds = sum(lasted for _, lasted in self._others)
        mean = sum(cpus * lasted for cpus, lasted in self._others) / seconds if seconds else None
        most = max((cpus for cpus, _ in self._others), default=None)
        return {
            "cpus": os.cpu_count(),
            "others_mean_cpus": None if mean is None else round(mean, 3),
            "others_most_cpus": None if most is None else round(most, 3),
            "load_before": self._before,
            "load_most": max(self._loads, default=None),
            "load_after": _load_average(),
            "looks": len(self._others),
        }

    def _spent_now(self) -> tuple[float, float] | None:
        """Seconds that all CPUs were busy since the system began, and those of own processes."""
        import psutil  # only here: a report needs none of it

        with contextlib.suppress(psutil.Error, OSError, AttributeError):
            times = psutil.cpu_times()
            idle = times.idle + getattr(times, "iowait", 0.0)
            # Linux counts a guest's time as the user's too.
            busy = (
                sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            )
            root = psutil.Process()
            if self._with_siblings and (parent := root.parent()) is not None:
                root = parent
            return busy, sum(_seconds_of(each) for each in (root, *root.children(recursive=True)))
        return None


def is_busy(load: object) -> bool:
    """Whether others took more of a machine than leaves its times as they are; False if unknown."""
    if not isinstance(load, Mapping):
        return False
    cpus, others = load.get("cpus"), load.get("others_mean_cpus")
    if not isinstance(cpus, (int, float)) or not isinstance(others, (int, float)):
        return False
    return others > BUSY_SHARE * cpus


def load_sentence(load: object, name: str) -> str:
    """What a reader of times must know of the machine; empty where nothing is known."""
    if not isinstance(load, Mapping):
        return ""
    cpus, others = load.get("cpus"), load.get("others_mean_cpus")
    if not isinstance(cpus, (int, float)) or not isinstance(others, (int, float)):
        return ""
    most = load.get("others_most_cpus")
    peak = f", {most:.1f} at most" if isinstance(most, (int, float)) else ""
    taken = f"While {name} ran, other processes took {others:.1f} of {cpus} CPUs{peak}"
    if is_busy(load):
        return f"{taken}: the machine was busy, so measured speed-ups and costs may be off."
    return f"{taken}."


def _seconds_of(process: Any) -> float:
    with contextlib.suppress(Exception):  # it may have ended meanwhile
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _load_average() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None
