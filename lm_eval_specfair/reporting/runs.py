"""Reading the folders of runs, for every kind of report: each once, with the same refusals."""

import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import NO_GROUP, OF_LANGUAGES, display_name
from lm_eval_specfair.groups.task_facts import TaskFacts, facts_of_task
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregate, Aggregator
from lm_eval_specfair.records import (
    RUN_FILE,
    Record,
    RecordBatch,
    read_batches,
    read_blocks,
    read_run,
    read_task_names,
)
from lm_eval_specfair.reporting.format import count, listed
from lm_eval_specfair.reporting.run_checks import RunChecks

_MAX_LISTED = 6


class RunReader:
    """One run: what its `run.json` says, and its records.

    `request_ids` (failed requests included; not where records are read as columns), `num_failed`
    and `tasks` grow while records are read; at the end there are `contradictions`, in what they are
    not those that the run wrote, and `unchecked`, what the run does not tell of them.
    `peers` are the tasks of all runs that are read together; by default this one's.
    """

    def __init__(self, folder: Path, *, thorough: bool = False) -> None:
        """Read `run.json`; ConfigError if there is none, or it cannot be read.

        With `thorough`, `records` are held against all that the run tells of them.
        """
        self.folder = folder
        self.info = read_run(folder)
        self._thorough = thorough
        self.contradictions: list[str] = []
        self.unchecked: list[str] = []
        self.request_ids: set[str] = set()
        self._hashes = array("q")  # of requests' ids, where they were read as columns
        self.num_failed = 0
        self.first_failure: Record | None = None
        self.tasks: dict[str, TaskFacts] = {}
        self.peers: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return one_line(self.folder.resolve().name)

    @property
    def is_unfinished(self) -> bool:
        """Whether the run says that it did not finish."""
        return "finished" in self.info and self.info["finished"] is None

    @property
    def is_replayed(self) -> bool:
        """Whether its texts existed, so that nothing was decoded or timed."""
        return self.info.get("backend") == "replay"

    @property
    def costs(self) -> tuple[float, float, float] | None:
        """c, v and o of a step, in plain steps, of a replayed run for which somebody named them."""
        known = self.info.get("costs")
        if not self.is_replayed or not isinstance(known, dict):
            return None
        draft, verify, overhead = (known.get(name) for name in "cvo")
        for cost in (draft, verify, overhead):
            if not isinstance(cost, (int, float)) or not math.isfinite(cost):
                raise ConfigError(
                    f"{self.folder / RUN_FILE}: costs must be numbers c, v and o, got "
                    f"{known!r:.100}"
                )
        return float(draft), float(verify), float(overhead)  # type: ignore[arg-type]

    @property
    def unknown_tasks(self) -> list[str]:
        """Tasks of records that `run.json` does not name."""
        known = self.info.get("tasks")
        return sorted(set(self.tasks) - set(known)) if isinstance(known, dict) and known else []

    @cached_property
    def task_names(self) -> frozenset[str]:
        """The run's tasks: those in `run.json`, or in the records where it has none."""
        known = self.info.get("tasks")
        if isinstance(known, dict) and known:
            return frozenset(known)
        return frozenset(read_task_names(self.folder))

    def batches(self) -> Iterator[RecordBatch]:
        """The same requests as columns, without texts; `tasks` has the facts of their tasks.

        Raises:
            ConfigError: As `records`.
        """
        checks = RunChecks(self.folder, self.info)
        for batch in read_batches(self.folder):
            checks.add(batch)
            self._hashes.extend(map(hash, batch.request_ids))
            self.num_failed += int(batch.is_failed.sum())
            measured = batch.select(~batch.is_failed)
            if len(measured):
                for number in np.unique(measured.tasks.codes).tolist():
                    self.facts_of(measured.tasks.values[number])
                yield measured
        self._refuse_repeated()
        self.contradictions, self.unchecked = checks.contradictions(), checks.unchecked()

    def records(self, without: Collection[str] = ()) -> Iterator[tuple[Record, TaskFacts]]:
        """The requests that did not fail, without some fields, each with the facts of its task.

        Raises:
            ConfigError: If a record cannot be read, or a request was recorded twice.
        """
        checks = RunChecks(self.folder, self.info, thorough=self._thorough)
        for block in read_blocks(self.folder, without=without):
            checks.add(block.batch, block.records)
            for record in block.records:
                if record.request_id in self.request_ids:
                    raise self._repeated(record.request_id)
                self.request_ids.add(record.request_id)
                if record.failure is not None:
                    self.num_failed += 1
                    self.first_failure = self.first_failure or record
                    continue
                yield record, self.facts_of(record.task)
        self.contradictions, self.unchecked = checks.contradictions(), checks.unchecked()

    @property
    def id_hashes(self) -> NDArray[np.int64]:
        """A number for each request that was read, failed ones included."""
        read = self._hashes or array("q", map(hash, self.request_ids))
        return np.array(read, dtype=np.int64)

    def _refuse_repeated(self) -> None:
        hashes, counts = np.unique(self.id_hashes, return_counts=True)
        suspects = set(hashes[counts > 1].tolist())
        seen: set[str] = set()
        for batch in read_batches(self.folder) if suspects else ():
            for request_id in batch.request_ids:
                if hash(request_id) in suspects:
                    if request_id in seen:
                        raise self._repeated(request_id)
                    seen.add(request_id)

    def _repeated(self, request_id: str) -> ConfigError:
        return ConfigError(
            f"{self.folder}: request {request_id!r:.100} was recorded twice; were two runs written "
            "into one folder?"
        )

    def facts_of(self, task: str) -> TaskFacts:
        """What is known of a task."""
        if task not in self.tasks:
            self.tasks[task] = facts_of_task(self.info, task, self.peers or self.task_names)
        return self.tasks[task]


def open_runs(folders: Sequence[Path]) -> list[RunReader]:
    """Readers of several runs.

    Raises:
        ConfigError: If there are none, one is named twice, or one is no run.
    """
    if not folders:
        raise ConfigError("expected at least one folder of a run, got none")
    resolved = Counter(folder.resolve() for folder in folders)
    for folder in folders:
        if resolved[folder.resolve()] > 1:
            raise ConfigError(f"{folder} is named twice; expected different runs")
    readers = [RunReader(folder) for folder in folders]
    peers = frozenset[str]().union(*(reader.task_names for reader in readers))
    for reader in readers:
        reader.peers = peers
    return readers


def refuse_empty(readers: Sequence[RunReader]) -> None:
    """Raise ConfigError if no request of the runs succeeded."""
    num_requests = sum(len(reader.id_hashes) for reader in readers)
    num_failed = sum(reader.num_failed for reader in readers)
    if not num_requests:
        folders = ", ".join(str(reader.folder) for reader in readers)
        raise ConfigError(
            f"no records in {folders}; expected one for each request that a run finished"
        )
    if num_requests == num_failed:
        raise ConfigError(f"all {num_failed} requests failed; `failure` in their records says why")


def contradiction_notes(readers: Sequence[RunReader]) -> list[str]:
    """A sentence for each run whose records are not those that it wrote; what they contradict."""
    return [
        f"{reader.name} is not as its run left it: {listed(found, _MAX_LISTED, '; ')}."
        for reader in readers
        if (found := reader.contradictions)
    ]


def unchecked_notes(readers: Sequence[RunReader]) -> list[str]:
    """A sentence for each run that does not tell all that its records could be held against."""
    return [
        f"{reader.name} could not be checked for {listed(found, _MAX_LISTED, '; ')}."
        for reader in readers
        if (found := reader.unchecked)
    ]


def refuse_contradictions(readers: Sequence[RunReader]) -> None:
    """Raise ConfigError if records are not those that their run wrote."""
    if notes := contradiction_notes(readers):
        raise ConfigError(f"{' '.join(notes)} Expected the folder as the run wrote it")


def refuse_unknown_field(aggregator: Aggregator, group_by: str) -> None:
    """Raise ConfigError for a field of no document; a run of one language need not say which."""
    if aggregator.group_by not in OF_LANGUAGES and aggregator.groups == [NO_GROUP]:
        raise ConfigError(
            f"no request says anything about {group_by!r}: expected {', '.join(OF_LANGUAGES)}, "
            "task, or a field of the documents, of the tasks' metadata or of a --groups file"
        )


def count_runs(
    run_dirs: Sequence[Path],
    group_by: str,
    mapping: UserGroups | None = None,
    *,
    min_requests: int,
) -> Aggregate:
    """The requests of runs, counted together by group; groups with fewer are not compared.

    Raises:
        ConfigError: If a run cannot be read, holds no request, contradicts itself, or nothing has
            the field.
    """
    readers = open_runs(run_dirs)
    aggregator = Aggregator(group_by, mapping)
    for reader in readers:
        for batch in reader.batches():
            aggregator.add_batch(batch, reader.tasks, run=str(reader.folder))
    refuse_empty(readers)
    refuse_contradictions(readers)
    refuse_unknown_field(aggregator, group_by)
    return aggregator.aggregate(min_requests)


def group_sources(aggregator: Aggregator) -> dict[str, dict[str, int]]:
    """How many requests of each group have its name from which source."""
    sources: dict[str, dict[str, int]] = {}
    for (_, assignment), number in sorted(aggregator.sources.items(), key=str):
        if assignment.source is not None:
            counts = sources.setdefault(assignment.group, {})
            counts[assignment.source] = counts.get(assignment.source, 0) + number
    return sources


def group_notes(aggregator: Aggregator) -> list[str]:
    """Notes on groups that were guessed, and on patterns of the user's file that fit no task."""
    key = aggregator.group_by
    notes = []
    if unused := aggregator.mapping.unused({task for task, _ in aggregator.sources}):
        patterns = listed([f"'{one_line(pattern):.60}'" for pattern in unused], _MAX_LISTED)
        notes.append(f"No task fits these patterns of the --groups file: {patterns}.")
    for source, how, refused in (
        ("name", "from the names of tasks", "guesses"),
        (
            "ambiguous_name",
            "with little certainty, from names that may as well be countries, states or words",
            "such guesses (all but ambiguous_name)",
        ),
    ):
        guesses = {
            f"{one_line(task)}: {display_name(assignment.group, key)}": number
            for (task, assignment), number in aggregator.sources.items()
            if assignment.source == source
        }
        if guesses:
            notes.append(
                f"The {key} of {count(sum(guesses.values()), 'request')} was guessed {how} "
                f"({listed(sorted(guesses), _MAX_LISTED)}); --groups states it, --group-source "
                f"refuses {refused}."
            )
    return notes
