"""A run's folder: new or resumed, filled during the run, closed with its totals."""

import atexit
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_specfair.distributed import agreed
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.machine_load import MachineLoad
from lm_eval_specfair.records import (
    PARQUET,
    RUN_FILE,
    Record,
    RecordWriter,
    own_size,
    read_blocks,
    read_records,
    read_run,
    record_files,
    write_run,
)
from lm_eval_specfair.records.provenance import now, provenance
from lm_eval_specfair.records.requests_file import AskedRequest, append_requests
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, collecting, write_pieces

logger = logging.getLogger(__name__)


class RunFolder:
    """The folder of a run's records.

    Attributes:
        path: The folder.
        done: Records of the run that is resumed, by request.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        name: str,
        resume: bool,
        run: dict[str, Any],
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Name the folder, or read the one that is resumed; nothing is written yet.

        All processes of a run call this together, before any of them calls `begin`.

        Args:
            path: The folder, or None for a new one under `results/`.
            name: Short name of the pair, for a new folder.
            resume: Whether to reuse the records that are there.
            run: For `run.json`; its `settings` must equal those of a run that is resumed.
            rank: Of this process, which writes a file of its own.
            num_processes: Number that share the run.

        Raises:
            ConfigError: If the folder holds a run and `resume` is false, or a run with other
                settings.
        """
        self.path, is_resumed = agreed(
            lambda: _named_folder(path, name, resume=resume), rank, num_processes
        )
        self.done: dict[str, Record] = {}
        if is_resumed:
            self._read_earlier(run["settings"])
        self._run = {**provenance(), **run, "tasks": {}}
        self._rank = rank
        self._written = set(self.done)
        self._size = own_size(self.path, rank)
        self._writer: RecordWriter | None = None
        self._load: MachineLoad | None = None
        self._num_processes = num_processes

    def begin(self, requests: Iterable[Instance] = ()) -> RecordWriter:
        """Make the folder, once its requests were found good, so that a refusal leaves nothing.

        A second call notes the tasks of further requests; after `finish` it opens the folder again.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        named = {request.task_name for request in requests if request.task_name}
        tasks = named - set(self._run["tasks"])
        self._run["tasks"] |= {task: task_facts.facts(task).to_json() for task in sorted(tasks)}
        if self._writer is not None and tasks and self._rank == 0:
            write_run(self.path, self._run)
        if self._writer is None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"records_dir {self.path} cannot be used ({error.strerror}); name a folder "
                    "that can be written"
                ) from None
            if self._rank == 0:
                write_run(self.path, self._run)
            self._writer = RecordWriter(self.path, self._rank)
            if self._rank == 0:
                self._load = MachineLoad(with_siblings=self._num_processes > 1)
            # lm-eval tells only rank 0 when the run is over.
            atexit.register(self._writer.close)
            if self._writer.size != self._size:
                self._writer.close()
                raise ConfigError(
                    f"records_dir {self.path} was written to by another process since this one "
                    "read it; start this one again"
                )
        return self._writer

    def settle(self, **settings: Any) -> None:
        """Replace settings that were still open when the folder was named."""
        self._run["settings"] = self._run["settings"] | settings

    def note(self, requests: Iterable[AskedRequest]) -> None:
        """Keep what is about to be asked, so that the run can be replayed."""
        append_requests(self.path, requests, self._rank)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Log what is on record and how to resume where the user stops the run (Ctrl-C).

        So too where a server does: what it was asked for is decoded already, in part.
        """
        try:
            yield
        except (KeyboardInterrupt, ConfigError) as stopped:
            if self._written or isinstance(stopped, KeyboardInterrupt):
                logger.warning(
                    "stopped; %d requests are on record in %s. The same command with "
                    "records_dir=%s and resume=true in --model_args resumes there.",
                    len(self._written), self.path, self.path,
                )  # fmt: skip
            self._close_writer()
            raise

    def _read_earlier(self, settings: dict[str, Any]) -> None:
        before = read_run(self.path).get("settings", {})
        names = sorted(set(before) | set(settings))
        differing = [name for name in names if before.get(name) != settings.get(name)]
        if differing:
            details = "; ".join(
                f"{name} was {before.get(name)!r}, is {settings.get(name)!r}" for name in differing
            )
            raise ConfigError(
                f"cannot resume {self.path}: its settings differ ({details}). Start anew with "
                "another records_dir, or repeat the old settings."
            )
        files = record_files(self.path)
        if any(file.suffix == PARQUET for file in files):
            raise ConfigError(
                f"cannot resume {self.path}: {files[0].name} can't be appended to. Resume in a "
                f"copy that can: specfair export {self.path} -o NEW --format jsonl"
            )
        self.done = {record.request_id: record for record in read_records(self.path)}

    def write(self, record: Record) -> None:
        """Append a record, unless its request has one: a task may be evaluated twice."""
        if record.request_id not in self._written:
            self.begin().write(record)
            self._written.add(record.request_id)
            if self._load is not None:
                self._load.look()

    def finish(
        self, totals: dict[str, Any], spelled: Callable[[], TokenPieces] | None = None
    ) -> None:
        """Note in `run.json` that the run has finished, with its totals.

        `spelled` says what tokens spell, of which `pieces.json` gets those that occur.
        """
        self.begin()
        self._close_writer()
        if self._rank == 0:
            ids: set[int] = set()
            self._run |= {"finished": now(), "totals": totals | self._tally(ids)}
            if spelled is not None and ids:
                self._note_pieces(spelled, ids)
            if self._load is not None:
                self._run["load"] = self._load.to_json()
            write_run(self.path, self._run)

    def _close_writer(self) -> None:
        """Let go of the records, which a further `begin` opens again."""
        writer = self._writer
        if writer is not None:
            writer.close()
            atexit.unregister(writer.close)
            self._writer, self._size = None, writer.size

    def _note_pieces(self, spelled: Callable[[], TokenPieces], ids: set[int]) -> None:
        try:
            write_pieces(self.path, spelled().of(ids))
        except Exception as error:  # anything, from a tokenizer; the run is not to fail over this
            logger.warning("what the tokens spell was not noted: %s", error)

    def _tally(self, ids: set[int]) -> dict[str, Any]:
        """What the records of all processes add up to, so that a change of them is told later.

        The ids of their tokens are added to `ids`.
        """
        try:
            blocks = collecting(read_blocks(self.path), ids)
            return {"records": tally_of(blocks).to_json(self._run)}
        except ConfigError as error:  # a run that has come to its end is not to fail over this
            logger.warning("no tally of the records: %s", error)
            return {}


def _named_folder(path: str | Path | None, name: str, *, resume: bool) -> tuple[Path, bool]:
    """The folder of a run, and whether it holds a run that is resumed."""
    if path is None:
        return _new_folder(name), False
    folder = Path(path)
    taken = folder.is_dir() and (bool(record_files(folder)) or (folder / RUN_FILE).exists())
    if taken and not resume:
        raise ConfigError(
            f"records_dir {folder} already holds a run; name another folder, or pass "
            "resume=true to resume it"
        )
    return folder, taken


def _new_folder(name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    first = Path("results") / f"{stamp}-{name}"
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def settled_length(path: str | Path | None) -> dict[str, Any]:
    """The draft length that `auto` found in a run that is resumed, as its settings have it.

    Empty where there is no such run, or it was told a length.
    """
    if path is None or not (Path(path) / RUN_FILE).exists():
        return {}
    settings = read_run(Path(path)).get("settings", {})
    names = ("num_speculative_tokens", "auto_length")
    return {name: settings[name] for name in names} if "auto_length" in settings else {}
