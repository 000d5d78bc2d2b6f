"""The checks of a run: its records held against its totals, tasks, settings, requests and clock."""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import langcodes
import numpy as np

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import assignments
from lm_eval_specfair.groups.language_tags import is_language, language_code, tag_script
from lm_eval_specfair.groups.sources import GroupSource
from lm_eval_specfair.groups.task_facts import facts_of_task
from lm_eval_specfair.groups.task_language import LANGUAGE_FIELDS
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.records import Record, RecordBatch
from lm_eval_specfair.records.reader import cut_file
from lm_eval_specfair.records.record_batch import FloatColumn
from lm_eval_specfair.records.requests_file import read_requests, request_files
from lm_eval_specfair.records.tally import KINDS, Tally
from lm_eval_specfair.reporting.format import count

_OF_TASK: frozenset[GroupSource] = frozenset({"metadata", "suite", "dataset"})
_OF_DOCUMENT: frozenset[GroupSource] = frozenset({"document"})
# What two requests share only if one is a copy: no two clocks agree to the last digit.
_COPIED = (
    "decode_seconds", "draft_seconds", "verify_seconds", "prefill_seconds", "num_prompt_tokens",
    "num_generated_tokens", "num_generated_bytes", "num_spec_steps", "num_accepted_draft_tokens",
    "overlap_sum", "kl_sum", "num_active_rows_sum",
)  # fmt: skip
_CLOCKED = ("prefill_seconds", "decode_seconds", "baseline_seconds")
_SLACK, _SLACK_SECONDS = 1.02, 5.0  # of clocks that are read to the second
_ID = re.compile(r"(?P<task>.*)/(?P<doc>\d+)/(?P<idx>\d+)/(?P<repeat>\d+)/(?P<digest>[0-9a-f]{8})")


class RunChecks:
    """What is found while a run's records are read; `thorough` takes about twice as long."""

    def __init__(self, folder: Path, run: Mapping[str, Any], *, thorough: bool = False) -> None:
        self._folder, self._run, self._thorough = folder, run, thorough
        totals = run.get("totals")
        self._totals: Mapping[str, Any] = totals if isinstance(totals, dict) else {}
        self._tally = Tally(digests=thorough)
        self._has_tally = bool(self._totals.get("records"))
        self._copied: list[FloatColumn] = []
        self._ids: list[str] = []
        self._misnamed: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()

    def add(self, batch: RecordBatch, records: Sequence[Record] = ()) -> None:
        """Take in some records; a thorough check needs the `records` themselves."""
        self._tally.add(batch, records)
        counts = Counter(batch.settings.codes[~batch.is_failed].tolist())
        for code, number in counts.items():
            if (settings := batch.settings.values[code]) is not None:
                self._lengths[settings.num_speculative_tokens] += number
        if self._thorough:
            self._copied.append(np.stack([batch.numbers[name] for name in _COPIED], axis=1))
            self._ids += batch.request_ids
            for record in records:
                found = _ID.fullmatch(record.request_id)
                if found and (found["task"], found["doc"]) != (record.task, str(record.doc_id)):
                    self._misnamed[record.task] += 1

    def contradictions(self) -> list[str]:
        """In what the records of a finished run contradict it; one phrase each, none for others."""
        if self._run.get("finished") is None:
            return []
        phrases = []
        if (cut := cut_file(self._folder)) is not None:
            phrases.append(f"{cut.name} ends in the middle of a line")
        phrases += self._tally.contradictions(self._run)
        phrases += self._of_ids()
        phrases += self._of_languages()
        phrases += self._of_settings()
        if not self._has_tally:
            phrases += self._of_clock()
        if self._thorough:
            phrases += self._copies()
            phrases += self._of_requests()
        return [one_line(phrase) for phrase in phrases]

    def unchecked(self) -> list[str]:
        """What a finished run does not tell, so that nothing could be held against it."""
        if self._run.get("finished") is None or self._totals.get("records"):
            return []
        if self._totals.get("tasks"):
            return [
                "times, scored requests and documents' groups (its totals are of an older version)"
            ]
        return ["anything: its run.json has no totals"]

    def _of_ids(self) -> Iterator[str]:
        for task, number in sorted(self._misnamed.items()):
            yield f"{task}: {count(number, 'request')} with the id of another task or document"

    def _of_languages(self) -> Iterator[str]:
        """Documents of another language than their task's, by its metadata or data set."""
        others: dict[str, Counter[str]] = defaultdict(Counter)
        for (task, _, text), number in self._tally.group_fields.items():
            fields = self._tally.said[text]
            if not any(name in fields for name in LANGUAGE_FIELDS):
                continue
            own, of_task = (
                {
                    each.group
                    for each in assignments(facts, said, "language", UserGroups(sources=sources))
                    if is_language(each.group)
                }
                for facts, said, sources in (
                    (facts_of_task({}, task), fields, _OF_DOCUMENT),
                    (facts_of_task(self._run, task, ()), {}, _OF_TASK),
                )
            )
            if own and of_task and not any(_is_same(a, b) for a in own for b in of_task):
                others[f"{task} is in {', '.join(sorted(of_task))}"][", ".join(sorted(own))] += (
                    number
                )
        for said, languages in sorted(others.items()):
            found = "; ".join(f"{name} by {number}" for name, number in sorted(languages.items()))
            yield f"{said}, but by its documents in {found}"

    def _of_settings(self) -> Iterator[str]:
        settings = self._run.get("settings")
        if not isinstance(settings, dict) or self._run.get("backend") == "replay":
            return
        length = settings.get("num_speculative_tokens")
        if not isinstance(length, int) or not self._lengths:
            return
        allowed = {0} if settings.get("drafter") == "none" else {length}
        if others := sorted(set(self._lengths) - allowed):
            number = sum(self._lengths[other] for other in others)
            yield (
                f"num_speculative_tokens is {max(allowed)} by run.json, "
                f"{', '.join(map(str, others))} by {count(number, 'record')}"
            )

    def _copies(self) -> Iterator[str]:
        table = np.concatenate([np.empty((0, len(_COPIED))), *self._copied])
        rows = np.flatnonzero(table[:, 0] > 0)
        _, inverse, number = np.unique(table[rows, 0], return_inverse=True, return_counts=True)
        seen: dict[bytes, str] = {}
        copies = []
        rows_sum, steps = (
            _COPIED.index(each) for each in ("num_active_rows_sum", "num_spec_steps")
        )
        alone = table[:, rows_sum] == table[:, steps]
        for row in rows[number[inverse] > 1].tolist():
            name = self._ids[row]
            first = seen.setdefault(table[row].tobytes(), name)
            # Equal prompts that shared a batch have one clock.
            ours = _ID.fullmatch(first) or _ID.fullmatch(name)
            if first != name and ours and (alone[row] or _digest_of(first) != _digest_of(name)):
                copies.append(name)
        if copies:
            yield (
                f"{count(len(copies), 'record')} equal to another in all that was measured, to the "
                f"last digit of their times, such as {copies[0]:.100}"
            )

    def _of_clock(self) -> Iterator[str]:
        """Requests that took longer than the run; of one process, never resumed."""
        hardware = self._run.get("hardware")
        processes = hardware.get("processes", 1) if isinstance(hardware, dict) else 1
        if processes != 1 or "resume" in str(self._run.get("command")):
            return
        with contextlib.suppress(LookupError, TypeError, ValueError):
            began, ended = (
                datetime.fromisoformat(self._run[name]) for name in ("started", "finished")
            )
            lasted = (ended - began).total_seconds()
            tasks = {task for task, _, _ in self._tally.group_fields}
            spent = sum(
                self._tally.sums(task, KINDS[0])[name] for task in tasks for name in _CLOCKED
            )
            settings = self._run.get("settings")
            at_once = settings.get("num_concurrent", 1) if isinstance(settings, dict) else 1
            if spent > lasted * at_once * _SLACK + _SLACK_SECONDS:
                yield f"its requests took {spent:.0f} seconds, the whole run {lasted:.0f}"

    def _of_requests(self) -> Iterator[str]:
        if not self._copied or not request_files(self._folder):
            return
        asked = set(read_requests(self._folder))
        tokens = np.concatenate(self._copied)[:, _COPIED.index("num_generated_tokens")]
        generated = {self._ids[row] for row in np.flatnonzero(~np.isnan(tokens))}
        if missing := asked - generated:
            yield f"{count(len(missing), 'request')} asked, but not on record: {min(missing):.100}"
        # A server that failed a text's request did not tell its tokens either.
        with_tokens = {self._ids[row] for row in np.flatnonzero(tokens > 0)}
        if strange := with_tokens - asked:
            yield f"{count(len(strange), 'record')} of requests never asked: {min(strange):.100}"


def _is_same(one: str, other: str) -> bool:
    """Whether two tags may name one language: macrolanguages count as one."""
    codes = [language_code(tag) for tag in (one, other)]
    if len({langcodes.standardize_tag(code, macro=True) for code in codes}) > 1:
        return False
    return any(tag == code for tag, code in zip((one, other), codes, strict=True)) or (
        tag_script(one) == tag_script(other)
    )


def _digest_of(request_id: str) -> str:
    """The digest of a request's arguments, or the whole id where it has none."""
    found = _ID.fullmatch(request_id)
    return found["digest"] if found else request_id
