"""What benchmarks share: turns, ratios of pairs, memory, the machine, and the page they write.

Knows nothing of what is measured. Speed is compared, not timed: two sides take turns, each pair
gives one ratio, and what is published is their median with the whole range. Imports no torch by
itself; where a script has imported it, its threads and its device are told too.
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "lm_eval")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Ratios of pairs, in the order they were measured."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interleaved(
    sides: Mapping[str, Callable[[], T]], pairs: int, *, warm_up: int = 1
) -> dict[str, list[T]]:
    """What each side gives in each round; the sides take turns in going first.

    Args:
        sides: Name to one measurement, such as tokens per second.
        pairs: Rounds that count.
        warm_up: Rounds before them, whose results are dropped.

    Returns:
        Name to results, the n-th of each side measured in one round.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(-warm_up, pairs):
        order = list(reversed(sides)) if number % 2 else list(sides)
        for name in order:
            result = sides[name]()
            if number >= 0:
                found[name].append(result)
    return found


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, pair by pair. For seconds, turn the two round to get a speed-up.

    Raises:
        ValueError: If there are no pairs, or the two differ in number.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"expected equally many on both sides, got {len(ours)}, {len(theirs)}")
    return Ratio(values=tuple(a / b for a, b in zip(ours, theirs, strict=True)))


def resident_bytes(*, peak: bool = False, pid: int | None = None) -> int:
    """Memory of a process (by default this one), now or at most, in bytes.

    Linux's own count: getrusage's maximum is also that of the process which started this one.
    """
    status = Path("/proc", "self" if pid is None else str(pid), "status").read_text()
    field = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in status.splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def load_average() -> str:
    """Processes that wanted a core over the last 1, 5 and 15 minutes; above the cores is busy."""
    return ", ".join(f"{load:.1f}" for load in os.getloadavg())


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """What this is measured on: processor, memory, system, versions, threads."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, {_distribution()}",
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    torch = sys.modules.get("torch")
    if torch is None:
        found["threads"] = os.environ.get("OMP_NUM_THREADS", "not set")
    else:
        found["threads"] = str(torch.get_num_threads())
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    found["commit"] = _commit()
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.release()


def _commit() -> str:
    def said(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = "" if not said("status", "--porcelain", "--untracked-files=no") else " and changes"
    return (said("rev-parse", "--short", "HEAD") or "unknown") + changed


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; numbers as they are given."""
    cells = [[str(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def page(title: str, parts: Iterable[str], *, load: str, packages: Iterable[str] = PACKAGES) -> str:
    """A page for `results/benchmarks/`: the command, tables and notes, the machine.

    Args:
        title: What was compared.
        parts: Paragraphs and tables.
        load: `load_average()` from before the first measurement.
        packages: Whose versions matter.
    """
    told = ", ".join(f"{name} {value}" for name, value in machine(packages).items())
    loads = f"Load averages before: {load}; after: {load_average()}."
    return "\n\n".join([f"# {title}", f"    {_command()}", *parts, f"{told}.\n{loads}"]) + "\n"


def _command() -> str:
    threads = os.environ.get("OMP_NUM_THREADS")
    told = "" if threads is None else f"OMP_NUM_THREADS={threads} "
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return f"{told}python {shlex.join([str(name), *sys.argv[1:]])}"


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare `-o FILE`."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="also write the page here (Markdown)"
    )


def publish(text: str, output: Path | None) -> None:
    """Print the page, and write it where asked."""
    print(text, end="")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
