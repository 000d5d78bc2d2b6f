"""`specfair import-logs`: logs of servers in, a folder of records out, as of a run."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.requests import group_fields as usual_fields
from lm_eval_specfair.logs.aiperf_log import PROFILE_FILE, is_aiperf, read_aiperf
from lm_eval_specfair.logs.counter_snapshots import counted_between
from lm_eval_specfair.logs.import_notes import ImportTotals
from lm_eval_specfair.logs.log_records import record_of, record_of_traffic
from lm_eval_specfair.logs.logged_request import LoggedRequest
from lm_eval_specfair.logs.response_log import read_responses
from lm_eval_specfair.logs.sent_documents import SentDocuments, json_lines, prompt_key
from lm_eval_specfair.records import (
    RUN_FILE,
    Record,
    RecordWriter,
    read_blocks,
    record_files,
    write_run,
)
from lm_eval_specfair.records.provenance import now, provenance
from lm_eval_specfair.records.tally import tally_of

SNAPSHOTS_TASK = "snapshots"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """A pair of snapshots of `/metrics`, and the group whose requests ran between them."""

    group: str
    before: Path
    after: Path


def import_logs(
    sources: Sequence[Path],
    output: Path,
    *,
    group_fields: Mapping[str, str] | None = None,
    documents: Path | None = None,
    snapshots: Sequence[Snapshots] = (),
    task: str | None = None,
    api: str | None = None,
) -> ImportTotals:
    """Read logs into a new folder that every verb reads like a run's.

    Args:
        sources: AIPerf's `profile_export.jsonl` or its folder, or answers of servers, a JSON
            object a line.
        output: New folder.
        group_fields: Where a group is said: a field's name and the place in a line (or document)
            that holds it, parts separated by dots. Usual names (`language`, `domain`, ...) are
            found without.
        documents: What was sent, where it and not the log says what belongs to which group.
        snapshots: Pairs of a server's counters; each becomes one record, under its group's name in
            the first of `group_fields` (`language` without).
        task: Name of the records' task; by default that of each file.
        api: Key of `serving.protocols.PROTOCOLS` where answers do not tell whose they are.

    Raises:
        ConfigError: If a source cannot be read, a request has no document, two have one id, or the
            folder is in use.
    """
    if not sources and not snapshots:
        raise ConfigError("expected logs to read, or --snapshot GROUP BEFORE AFTER, got neither")
    if (output / RUN_FILE).exists() or (output.is_dir() and record_files(output)):
        raise ConfigError(f"{output} already holds records; name another folder with -o")
    sources = [path / PROFILE_FILE if path.is_dir() else path for path in sources]
    fields = dict(group_fields or {})
    sent = None if documents is None else SentDocuments(documents)
    totals = ImportTotals()
    records = [
        *(
            record
            for source in sources
            for record in _records(source, task or source.stem, fields, sent, api, totals)
        ),
        *_of_snapshots(snapshots, next(iter(fields), "language"), totals),
    ]
    if not records:
        raise ConfigError(f"{', '.join(map(str, sources))}: expected measured requests, got none")
    for name, number in Counter(record.request_id for record in records).items():
        if number > 1:
            raise ConfigError(
                f"request {name!r:.100} is in the logs twice: expected each once; give logs of "
                "several runs a folder each"
            )
    output.mkdir(parents=True, exist_ok=True)
    writer = RecordWriter(output)
    for record in records:
        writer.write(record)
    writer.close()
    run: dict[str, Any] = {
        **provenance(),
        "finished": now(),
        "backend": "logs",
        "settings": {"backend": "logs", "conventions": totals.conventions()},
        "tasks": {record.task: {"metadata": {}, "config": {}} for record in records},
    }
    tally = tally_of(read_blocks(output)).to_json(run)
    write_run(output, {**run, "totals": {**totals.counts(), "records": tally}})
    return totals


def _records(
    path: Path,
    task: str,
    fields: Mapping[str, str],
    sent: SentDocuments | None,
    api: str | None,
    totals: ImportTotals,
) -> Iterator[Record]:
    seen: Counter[str] = Counter()
    for request in _requests(path, api):
        number, document = sent.of(request) if sent else (request.number, {})
        groups = usual_fields(request.line) | usual_fields(document)
        for name, place in fields.items():
            value = _at(document, place)
            value = _at(request.line, place) if value is None else value
            if value is None:
                totals.without_group[name] += 1
            else:
                groups[name] = value
        doc_id, place = _place(request, number, sent)
        seen[place] += 1
        yield record_of(
            request,
            totals,
            request_id=f"{task}/{place}/{seen[place] - 1}",
            task=task,
            doc_id=doc_id,
            group_fields=groups,
        )


def _requests(path: Path, api: str | None) -> Iterable[LoggedRequest]:
    lines = iter(json_lines(path))
    first = next(lines, None)
    if first is None:
        raise ConfigError(f"{path} is empty: expected a JSON object a line")
    every = _with_first(first, lines)
    return read_aiperf(path, every) if is_aiperf(first[1]) else read_responses(path, every, api)


def _with_first(
    first: tuple[int, Mapping[str, Any]], rest: Iterator[tuple[int, Mapping[str, Any]]]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield first
    yield from rest


def _at(line: Mapping[str, Any], place: str) -> str | list[str] | None:
    """What a line has at a place such as `metadata.source_kind`; None for anything but texts."""
    value: Any = line
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value):
        return str(value)
    return None


def _place(request: LoggedRequest, number: int, sent: SentDocuments | None) -> tuple[int, str]:
    """A request's document number and its place in the task: the same in every log of it.

    By its document, else by the id that its sender chose, else by its prompt. Where a log has none
    of these, by its number there, which another log need not share.
    """
    if sent is not None:
        return number, str(number)
    if request.names:
        name = request.names[0]
    elif request.prompt is not None:
        name = _digest(prompt_key(request.prompt))
    else:
        return number, str(number)
    return int(_digest(name), 16), name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _of_snapshots(
    snapshots: Sequence[Snapshots], field: str, totals: ImportTotals
) -> Iterator[Record]:
    seen: Counter[str] = Counter()
    for pair in snapshots:
        found = counted_between(pair.before, pair.after)
        totals.add_traffic(found)
        seen[pair.group] += 1
        number = seen[pair.group] - 1
        yield record_of_traffic(
            found,
            task=SNAPSHOTS_TASK,
            request_id=f"{SNAPSHOTS_TASK}/{pair.group}/{number}",
            doc_id=int(_digest(f"{pair.group}/{number}"), 16),
            group_fields={field: pair.group},
        )
