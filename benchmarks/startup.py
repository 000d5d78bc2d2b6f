"""How long it takes to import the package, to show a verb's help, and what the hook costs a start.

    python benchmarks/startup.py
    python benchmarks/startup.py --repeats 40 -o results/benchmarks/startup.md

Each measurement is a Python process of its own, after one that is not counted (files are then in
the system's cache, and compiled). Import and hook are timed inside of the process, help from
outside. The hook's line is that of `lm_eval_specfair.pth`, run when Python has started. Exits with
1 where the median of CPU seconds misses a limit; on a quiet machine these are wall-clock seconds
too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from measuring import ROOT, add_output, load_average, markdown_table, page, publish
from tqdm import tqdm

# What pip installs is compiled; so is a checkout, once it was used where this variable is not set.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
WITHOUT_HOOK = COMPILED | {"LM_EVAL_SPECFAIR_NO_HOOK": "1"}
INSIDE = """
import os, sys, time
line = open(sys.argv[1]).read()
os.environ.pop("LM_EVAL_SPECFAIR_NO_HOOK", None)
wall, cpu = time.perf_counter(), time.process_time()
exec(line)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print([wall, cpu])
"""

Times = tuple[float, float]
"""Wall-clock and CPU seconds."""


def inside(line: str) -> Times:
    """What one line of code takes in a fresh interpreter."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(line)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", INSIDE, file.name],
            env=WITHOUT_HOOK,
            capture_output=True,
            text=True,
            check=True,
        )
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def outside(*command: str) -> Times:
    """What a command takes from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], env=COMPILED, capture_output=True, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    add_output(parser)
    arguments = parser.parse_args()
    load = load_average()
    hook = (ROOT / "lm_eval_specfair.pth").read_text()
    specfair = ("-m", "lm_eval_specfair")
    measurements: dict[str, tuple[float | None, Callable[[], Times]]] = {
        "the hook, in every start of Python": (0.001, lambda: inside(hook)),
        "`import lm_eval_specfair`": (0.1, lambda: inside("import lm_eval_specfair")),
        "`specfair report --help`": (0.5, lambda: outside(*specfair, "report", "--help")),
        "Python itself, doing nothing": (None, lambda: outside("-c", "pass")),
    }
    rows, is_kept = [], True
    for name, (limit, measure) in tqdm(measurements.items(), disable=None):
        found = [measure() for _ in range(arguments.repeats + 1)][1:]
        wall, cpu = ([1000 * each[kind] for each in found] for kind in (0, 1))
        kept = limit is None or statistics.median(cpu) < 1000 * limit
        is_kept &= kept
        wanted = "" if limit is None else f"{1000 * limit:g}: {'kept' if kept else 'MISSED'}"
        rows.append([name, *map(_shown, (wall, cpu)), wanted])
    table = markdown_table(["ms", "wall-clock", "CPU", "wanted, below"], rows)
    notes = f"Medians of {arguments.repeats} processes, with their range. Help starts Python too."
    publish(page("Starting up", [table, notes], load=load, packages=()), arguments.output)
    return int(not is_kept)


def _shown(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
