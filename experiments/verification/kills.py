"""Processes of `specfair run`, killed by SIGKILL at random moments and resumed.

A run is started, killed, resumed with `resume=true`, killed again, and so on until it
ends; then the next run begins, until as many kills as asked for were made. After each kill, every
whole line that was there before must still be there, byte for byte, no request may be on record
twice, and every record must be that of the run which nobody disturbed. At its end a run must have
the same records, totals and lm-eval results as that one.

Every other moment is uniform over the time that a process takes from its start to its report; the
rest are where most can go wrong: uniform over the records that are still to be written, and then
over the time from one to the next. A run that has all its records is not killed again.
"""

import functools
import json
import multiprocessing
import os
import random
import shlex
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from checks import same_records, same_values, whole_lines

from lm_eval_specfair.records import RECORDS_FILE, RUN_FILE, read_records

TASKS = "specfair_demo_en,specfair_demo_ja"  # generated and scored texts in both
LIMIT = 6  # of each
BATCH_SIZE = 3
SETTINGS = '{"max_gen_toks": 32}'
BASELINE = 2  # requests of each task that are also decoded plainly

# A start of Python with torch and lm-eval takes many seconds of processor time. Processes are
# forked from one that has imported both and done nothing else; each is a process of its own.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["lm_eval.__main__", "lm_eval_specfair.harness.model"])


def command(folder: Path) -> list[str]:
    """The same for a new run and for one that is taken up."""
    model_args = {"records_dir": str(folder), "resume": True, "baseline": BASELINE}
    return [
        *("run", "--tasks", TASKS, "--limit", str(LIMIT), "--batch_size", str(BATCH_SIZE)),
        *("--device", "cpu", "--gen_kwargs", SETTINGS, "--model_args", json.dumps(model_args)),
        *("--output_path", str(folder / "lm_eval")),
    ]


def specfair(arguments: list[str], log: Path) -> None:
    """What a process does: the command, from its arguments to its exit status."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import lm_eval.tasks

    from lm_eval_specfair.cli import main

    # lm-eval reads the 10,000 task files that it brings along otherwise.
    lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    sys.exit(main(arguments))


def started(folder: Path) -> BaseProcess:
    log = folder.with_name(f"{folder.name}.log")
    process = _SERVER.Process(target=specfair, args=(command(folder), log))
    process.start()
    return process


def results_of(folder: Path) -> dict[str, Any]:
    """lm-eval's own results, the newest."""
    newest = max(
        (folder / "lm_eval").rglob("results_*.json"), key=lambda path: path.stat().st_mtime
    )
    return json.loads(newest.read_text(encoding="utf-8"))["results"]


def run_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))


class Undisturbed:
    """A run that is left alone, and how long its parts take."""

    def __init__(self, folder: Path) -> None:
        times = folder.with_name(f"{folder.name}.times.json")
        if not times.exists():
            begun, first, last = time.monotonic(), 0.0, 0.0
            process, seen = started(folder), 0
            while process.is_alive():
                lines = len(whole_lines(folder / RECORDS_FILE))
                if lines != seen:
                    last = time.monotonic() - begun
                    first, seen = first or last, lines
                time.sleep(0.02)
            if process.exitcode:
                sys.exit(f"the undisturbed run ended with status {process.exitcode}: {folder}.log")
            figures = {"total": time.monotonic() - begun, "first": first, "last": last}
            times.write_text(json.dumps(figures), encoding="utf-8")
        self.times: dict[str, float] = json.loads(times.read_text(encoding="utf-8"))
        self.records = {each.request_id: each for each in read_records(folder)}
        self.results, self.totals = results_of(folder), run_of(folder)["totals"]


def moment(number: int, attempt: int, kept: int, calm: Undisturbed) -> tuple[int, float]:
    """When a kill is due: new records to wait for, and seconds from there on."""
    chance = random.Random(f"kill {number}, run {attempt}")
    left = len(calm.records) - kept
    if number % 2 or left == 0:
        return 0, chance.uniform(0, calm.times["total"])
    interval = (calm.times["last"] - calm.times["first"]) / len(calm.records)
    return chance.randint(1, left), chance.uniform(0, interval)


def phase(folder: Path, before: int) -> str:
    """What a process did when it was killed."""
    if not (folder / RUN_FILE).exists():
        return "before the run's folder was made"
    if run_of(folder)["finished"] is not None:
        return "after the last record"
    if len(whole_lines(folder / RECORDS_FILE)) == before:
        return "before a new record"
    return "between two new records"


def killed(folder: Path, number: int, attempt: int, calm: Undisturbed) -> dict[str, Any] | None:
    """Start or take up a run and kill it; None where it ended before its moment came."""
    file = folder / RECORDS_FILE
    before = whole_lines(file)
    awaited, seconds = moment(number, attempt, len(before), calm)
    process, start = started(folder), time.monotonic()
    while process.is_alive() and len(whole_lines(file)) < len(before) + awaited:
        time.sleep(0.002)
    begun = time.monotonic() if awaited else start
    while process.is_alive() and time.monotonic() < begun + seconds:
        time.sleep(0.002)
    if not process.is_alive():
        if process.exitcode:
            sys.exit(f"a run ended with status {process.exitcode}: {folder}.log")
        if not before:  # the machine may be quicker or slower than when it was measured
            calm.times["total"] = time.monotonic() - start
        return None
    process.kill()
    process.join()
    after = whole_lines(file)
    content = file.read_bytes() if file.exists() else b""
    found = list(read_records(folder)) if after else []
    names = [each.request_id for each in found]
    return {
        "kill": number,
        "moment": f"{awaited} records and {seconds:.3f} seconds" if awaited else f"{seconds:.3f} s",
        "phase": phase(folder, len(before)),
        "records_before": len(before),
        "records_after": len(after),
        "part_of_a_line": not content.endswith(b"\n") and bool(content),
        "lost": sum(line != kept for line, kept in zip(before, after, strict=False))
        + max(0, len(before) - len(after)),
        "doubled": len(names) - len(set(names)),
        "differing": same_records(
            {each.request_id: each for each in found},
            {name: calm.records[name] for name in names if name in calm.records},
        ),
    }


def ended(folder: Path, calm: Undisturbed) -> dict[str, Any]:
    """How a run that came to its end differs from the one that was left alone."""
    found = list(read_records(folder))
    return {
        "lost": len(calm.records) - len({each.request_id for each in found}),
        "doubled": len(found) - len({each.request_id for each in found}),
        "differing": same_records({each.request_id: each for each in found}, calm.records)
        + same_values(results_of(folder), calm.results, "results")
        + same_values(run_of(folder)["totals"], calm.totals, "totals"),
        "finished": run_of(folder)["finished"] is not None,
    }


def kills(work: Path, number: int) -> dict[str, Any]:
    """Make or go on making kills; what is published.

    Args:
        work: Folder of the runs and of what was noted of each kill.
        number: Kills to make in all.
    """
    work.mkdir(parents=True, exist_ok=True)
    journal = work / "journal.json"
    state: dict[str, Any] = {"kills": [], "runs": []}
    if journal.exists():
        state = json.loads(journal.read_text(encoding="utf-8"))
    calm = Undisturbed(work / "undisturbed")
    while True:
        folder = work / f"run-{len(state['runs'])}"
        survived = len(state["kills"])
        # What has all its records is brought to its end: kills are for work that can be lost.
        whole = len(whole_lines(folder / RECORDS_FILE)) >= len(calm.records)
        if survived < number and not whole:
            note = killed(folder, survived, len(state["runs"]), calm)
        else:
            note = None
            process = started(folder)
            process.join()
            if process.exitcode:
                sys.exit(f"a run could not be taken up: {folder}.log")
        if note is None:
            state["runs"].append({"run": folder.name, **ended(folder, calm)})
            print(f"{folder.name} came to its end: {state['runs'][-1]}", file=sys.stderr)
        else:
            state["kills"].append(note)
            print(f"kill {survived + 1}/{number}: {note}", file=sys.stderr)
        journal.write_text(json.dumps(state, indent=1), encoding="utf-8")
        if note is None and survived >= number:
            print(f"{survived} kills", file=sys.stderr)
            return summary(state, calm)


def summary(state: dict[str, Any], calm: Undisturbed) -> dict[str, Any]:
    """Figures of all kills and runs."""
    both = [*state["kills"], *state["runs"]]
    phases = sorted({each["phase"] for each in state["kills"]})
    return {
        "kills": len(state["kills"]),
        "by_phase": {name: sum(k["phase"] == name for k in state["kills"]) for name in phases},
        "with_part_of_a_line": sum(each["part_of_a_line"] for each in state["kills"]),
        "runs_brought_to_their_end": len(state["runs"]),
        "records_a_run": len(calm.records),
        "records_lost": sum(each["lost"] for each in both),
        "records_doubled": sum(each["doubled"] for each in both),
        "values_that_differ": sum(len(each["differing"]) for each in both),
        "runs_not_finished": sum(not each["finished"] for each in state["runs"]),
        "command": shlex.join(["specfair", *command(Path("RUN"))]),
        "journal": state,
    }
