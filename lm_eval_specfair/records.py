"""The record schema, its writer and its reader: the contract between decoding and metrics.

A run's folder holds `run.json` (how the run was made) and `records.jsonl` (one line a request, in
the order of finishing). Counts are stored, ratios derived; what was not measured is `None` in
memory and `null` on disk, never 0. Knows nothing about models: it never imports torch.
"""

import dataclasses
import io
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from filelock import FileLock, Timeout

from lm_eval_specfair.errors import ConfigError

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
RECORDS_FILE = "records.jsonl"
_BLOCK = 1 << 16

RequestType = Literal["generate_until", "loglikelihood", "loglikelihood_rolling"]
FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The decoding settings that a request was really run with.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most; 0 for plain decoding.
        temperature: 0 is greedy.
        top_k: Number of tokens kept, or None.
        top_p: Probability mass kept, or None.
    """

    num_speculative_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One request: who it was, what was counted, how long it took.

    Counts stop where the request stopped: a drafted token behind EOS or a stop string was not
    examined. Sums run over examined positions and are in nats.

    Attributes:
        request_id: Unique in a run and equal in every run of the same request: task, document,
            number of the request within the document, repeat, and a digest of its arguments.
        task: lm-eval's task name.
        doc_id: lm-eval's document number.
        request_type: `generate_until`, `loglikelihood` or `loglikelihood_rolling`.
        group_fields: Fields of the document that may name a group (language, domain, ...); a list
            names several.
        num_prompt_tokens: Tokens of the context, after truncation.
        num_generated_tokens: Tokens emitted up to and with the one that ended the text.
        num_generated_bytes: UTF-8 bytes of the text as lm-eval gets it (stops cut off).
        num_generated_chars: Its characters (code points).
        num_spec_steps: Target passes (one draft-and-verify round each), the prompt's apart.
        num_draft_tokens: Tokens proposed by the drafter.
        num_accepted_draft_tokens: Those kept.
        num_examined_draft_tokens: Accepted ones and, for each step that met one, the rejected one.
        acceptance_histogram: Steps by number accepted, length num_speculative_tokens + 1.
        drafted_per_step: Tokens proposed in each step.
        accepted_per_step: Tokens kept in each step.
        overlap_sum: Sum of `sum_x min(p, q)`.
        kl_sum: Sum of `KL(p || q)` over positions where it is finite.
        cross_entropy_sum: Sum of `-sum_x p log q` over positions where it is finite.
        target_entropy_sum: Sum of `H(p)`.
        num_distribution_positions: Positions that the sums run over.
        num_infinite_positions: Those among them where q lacks a token of p (top-k, top-p), so
            that KL and cross-entropy are infinite; they are missing from these two sums.
        draft_seconds: Drafter passes and draws, this row's share of the batch's time.
        verify_seconds: Target passes, this row's share.
        decode_seconds: Everything between the prompt's pass and the last token, this row's share.
        prefill_seconds: The prompt's passes, this row's share.
        baseline_seconds: The same request decoded plainly (no drafter), decode time only.
        baseline_generated_tokens: Its tokens; each took one target pass.
        baseline_agrees: Greedy only: whether its tokens equal the speculative ones.
        num_active_rows_sum: Rows in the batch, summed over steps (mean = over num_spec_steps).
        target_nll_sum: `-log p` of the scored text (loglikelihood requests), nats.
        drafter_nll_sum: `-log q` of the scored text, nats.
        num_scored_tokens: Tokens of the scored text.
        num_scored_bytes: Its UTF-8 bytes.
        target_reference_probability_sum: Sum of `p(token)` over the scored text's tokens.
        drafter_reference_probability_sum: Sum of `q(token)` over them.
        is_greedy: lm-eval's second answer to a loglikelihood request.
        finish_reason: `stop` (a stop string), `eos` or `length`; None where the request failed.
        failure: Why it could not be decoded to its end; such a record is left out of all figures.
        generated_token_ids: The emitted tokens.
        generated_text: The text as lm-eval gets it.
        settings: What was really used for decoding.
    """

    request_id: str
    task: str
    doc_id: int
    request_type: RequestType
    group_fields: dict[str, str | list[str]]
    num_prompt_tokens: int
    num_generated_tokens: int | None = None
    num_generated_bytes: int | None = None
    num_generated_chars: int | None = None
    num_spec_steps: int | None = None
    num_draft_tokens: int | None = None
    num_accepted_draft_tokens: int | None = None
    num_examined_draft_tokens: int | None = None
    acceptance_histogram: list[int] | None = None
    drafted_per_step: list[int] | None = None
    accepted_per_step: list[int] | None = None
    overlap_sum: float | None = None
    kl_sum: float | None = None
    cross_entropy_sum: float | None = None
    target_entropy_sum: float | None = None
    num_distribution_positions: int | None = None
    num_infinite_positions: int | None = None
    draft_seconds: float | None = None
    verify_seconds: float | None = None
    decode_seconds: float | None = None
    prefill_seconds: float | None = None
    baseline_seconds: float | None = None
    baseline_generated_tokens: int | None = None
    baseline_agrees: bool | None = None
    num_active_rows_sum: int | None = None
    target_nll_sum: float | None = None
    drafter_nll_sum: float | None = None
    num_scored_tokens: int | None = None
    num_scored_bytes: int | None = None
    target_reference_probability_sum: float | None = None
    drafter_reference_probability_sum: float | None = None
    is_greedy: bool | None = None
    finish_reason: FinishReason | None = None
    failure: str | None = None
    generated_token_ids: list[int] | None = None
    generated_text: str | None = None
    settings: Settings | None = None

    def to_json(self) -> str:
        """One line of `records.jsonl`, without its newline."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


_HINTS = typing.get_type_hints(Record)
_SETTINGS_HINTS = typing.get_type_hints(Settings)
_REQUIRED = {
    field.name for field in dataclasses.fields(Record) if field.default is dataclasses.MISSING
}


# Decoders that check types as they read, many times as fast as `parse_record`. Dataclasses let
# unknown fields pass, structs don't, so a line goes through both. They only ever accept what
# `parse_record` accepts too; whatever they refuse goes there for a clear message.
_LINE = msgspec.defstruct(
    "_LINE",
    [
        (name, hint, msgspec.NODEFAULT if name in _REQUIRED else None)
        for name, hint in (
            _HINTS
            | {
                "settings": msgspec.defstruct(
                    "_SETTINGS", list(_SETTINGS_HINTS.items()), forbid_unknown_fields=True
                )
                | None
            }
        ).items()
    ],
    kw_only=True,
    forbid_unknown_fields=True,
)
_CHECK = msgspec.json.Decoder(_LINE).decode
_DECODE = msgspec.json.Decoder(Record).decode


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has the type that a field declares (bool is no number here)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(typing.cast(float, value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _settings(value: object, where: str) -> Settings:
    if not isinstance(value, dict) or set(value) != set(_SETTINGS_HINTS):
        raise ConfigError(
            f"{where}: settings must hold exactly {sorted(_SETTINGS_HINTS)}, got {value!r:.80}"
        )
    for name, hint in _SETTINGS_HINTS.items():
        if not _fits(value[name], hint):
            raise ConfigError(
                f"{where}: settings.{name} must be {_type_name(hint)}, got {value[name]!r:.60}"
            )
    return Settings(**value)


def parse_record(line: str, where: str = "record") -> Record:
    """A record from one line of JSON.

    Args:
        line: One JSON object.
        where: File and line number, for the error message.

    Raises:
        ConfigError: If the line is no JSON object, misses a field, has an unknown one, or one of
            another type.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: expected one JSON object a line, got {line!r:.60}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {type(data).__name__}")
    unknown, missing = sorted(set(data) - set(_HINTS)), sorted(_REQUIRED - set(data))
    if unknown or missing:
        raise ConfigError(
            f"{where}: unknown fields {unknown!r:.200}, missing fields {missing}; was the file "
            f"written by another version? This one reads schema {SCHEMA_VERSION}."
        )
    settings = data.pop("settings", None)
    for name, value in data.items():
        if not _fits(value, _HINTS[name]):
            raise ConfigError(
                f"{where}: {name} must be {_type_name(_HINTS[name])}, got {value!r:.60}"
            )
    if settings is not None:
        data["settings"] = _settings(settings, where)
    return Record(**data)


def read_run(folder: Path) -> dict[str, Any]:
    """`run.json` of a run's folder.

    Raises:
        ConfigError: If there is none, or it is of another schema version.
    """
    path = folder / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} holds no {RUN_FILE}: expected the folder that a run named at its end "
            "(records_dir)"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not JSON; expected what a run wrote there") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: this version reads schema {SCHEMA_VERSION}, got {version!r}")
    return typing.cast(dict[str, Any], data)


def facts_of_task(run: Mapping[str, Any], task: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What a run says of a task: its own metadata, and its configuration; empty where nothing.

    Args:
        run: As `read_run` gives it.
        task: The task's name.
    """
    tasks = run.get("tasks")
    known = tasks.get(task) if isinstance(tasks, dict) else None
    metadata, config = (
        each if isinstance(known, dict) and isinstance(each := known.get(key), dict) else {}
        for key in ("metadata", "config")
    )
    return metadata, config


def record_files(folder: Path) -> list[Path]:
    """The files of records in a run's folder, the first process's first.

    Raises:
        ConfigError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder} (expected a run's records_dir)")
    return sorted(folder.glob("records*.jsonl"), key=lambda path: (len(path.name), path.name))


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run, in the order they were written; a last half line is passed over.

    Several processes of one run each write a file of their own; all are read.

    Raises:
        ConfigError: If a whole line is not a record, or the folder cannot be read.
    """
    for path in record_files(folder):
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        yield _quickly(line) or _slowly(line[:-1], f"{path}:{number}")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def measured(records: Iterable[Record]) -> Iterator[Record]:
    """The records that figures are made of: those of requests that did not fail."""
    return (record for record in records if record.failure is None)


def _quickly(line: bytes) -> Record | None:
    """A record from one line; None where the slow way must say what is wrong with it."""
    try:
        _CHECK(line)
        return _DECODE(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _slowly(line: bytes, where: str) -> Record:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: expected UTF-8, got other bytes") from None
    return parse_record(text, where)


class RecordWriter:
    """Appends records to a run's folder; a record is on disk as one whole line or not at all.

    A half line left by a killed process is cut off before the first append. One process writes to
    a file at a time.

    Attributes:
        size: Bytes written so far, with those that were there.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Open the file of this process (rank 0: `records.jsonl`) for appending.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        self._path = path = own_file(folder, rank)
        # The system lets go of the lock when its process ends, however it ends.
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
            self._file = path.open("ab+", buffering=0)
            self.size = _end_of_lines(self._file)
            self._file.truncate(self.size)
        except Timeout:
            raise ConfigError(
                f"another process is writing to {path}; wait for it to end, or name another "
                "records_dir"
            ) from None
        except OSError as error:
            self._lock.release()
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def write(self, record: Record) -> None:
        """Append one record and hand it to the operating system.

        Raises:
            ConfigError: If it does not take it (a full disk); earlier records are safe.
        """
        line = memoryview((record.to_json() + "\n").encode("utf-8"))
        self.size += len(line)
        while line:
            try:
                line = line[self._file.write(line) or 0 :]
            except OSError as error:
                raise ConfigError(
                    f"cannot write {self._path}: {error.strerror}. All records before this one are "
                    "safe; make room and go on with resume=true"
                ) from None

    def close(self) -> None:
        """Flush to disk and close; closing twice is harmless."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def own_file(folder: Path, rank: int) -> Path:
    """The file that the process of this rank writes."""
    return folder / (RECORDS_FILE if rank == 0 else f"records.rank{rank}.jsonl")


def own_size(folder: Path, rank: int) -> int:
    """Bytes of that file's whole lines; 0 where there is none."""
    try:
        with own_file(folder, rank).open("rb") as file:
            return _end_of_lines(file)
    except OSError:
        return 0


def _end_of_lines(file: typing.BinaryIO | io.FileIO) -> int:
    """Bytes up to and with the last line break, looked for from the end: files may be large."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def write_run(folder: Path, run: dict[str, Any]) -> None:
    """Write `run.json` in one rename, so that a reader never sees half of it.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **run}, indent=2, ensure_ascii=False)
    fresh = folder / f"{RUN_FILE}.writing"
    try:
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(folder / RUN_FILE)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / RUN_FILE}: {error.strerror}") from None
