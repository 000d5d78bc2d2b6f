"""The requests of a page as data: what its script needs to show single texts, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_specfair.groups.assign import NO_GROUP, canonical_key, display_name
from lm_eval_specfair.groups.language_tags import is_language
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.records import Record
from lm_eval_specfair.records.texts.token_pieces import TokenPieces
from lm_eval_specfair.reporting.format import count
from lm_eval_specfair.reporting.runs import open_runs
from lm_eval_specfair.reporting.viewer.piece_source import pieces_of_run
from lm_eval_specfair.reporting.viewer.request_choice import (
    MOST_REQUESTS,
    ChosenRequests,
    chosen_requests,
    measured_speedup,
)
from lm_eval_specfair.reporting.viewer.request_trace import trace_of
from lm_eval_specfair.reporting.viewer.trace_text import ShownTrace, escaped

MOST_BYTES = 2_300_000
"""Of a page's data: with all its tables it stays below 3 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewerContent:
    """What a page gets: JSON that is safe inside a `script` element, and whose it is."""

    data: str
    sample: str
    is_comparison: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestViewer:
    """The runs whose requests a page shows; they are read when the page is made, not before.

    Several runs of a report have requests of their own, those of a comparison the same ones.
    """

    run_dirs: Sequence[Path]
    group_by: str = "language"
    mapping: UserGroups | None = None
    compares: bool = False
    most: int = MOST_REQUESTS

    def content(self) -> ViewerContent | None:
        """The page's part; None where no text was generated.

        Raises:
            ConfigError: If a folder cannot be read.
        """
        most = self.most
        while True:
            data, total = self._data(most)
            number = len(data["requests"])
            if not number:
                return None
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            size = len(text.encode("utf-8", "replace"))
            if size <= MOST_BYTES or most == 1:
                return ViewerContent(
                    # "</script>" and "<!--" would end the element or change how it is read.
                    data=text.replace("<", "\\u003c"),
                    sample=_sample(number, total),
                    is_comparison=self.compares,
                )
            most = max(1, int(number * 0.95 * MOST_BYTES / size))

    def _data(self, most: int) -> tuple[dict[str, Any], int]:
        readers = open_runs(self.run_dirs)
        pieces = [pieces_of_run(reader.folder, reader.info) for reader in readers]
        names = [reader.name for reader in readers]
        options: dict[str, Any] = {"group_by": self.group_by, "mapping": self.mapping}
        if self.compares:
            parts = [(chosen_requests(readers, most=most, **options), pieces)]
        else:
            share = max(1, most // len(readers))
            parts = [
                (chosen_requests([reader], most=share, **options), [spelled])
                for reader, spelled in zip(readers, pieces, strict=True)
            ]
        groups: dict[str, int] = {}
        requests = [
            request for chosen, spelled in parts for request in _requests(chosen, spelled, groups)
        ]
        shown = [
            "no group" if group == NO_GROUP else display_name(group, self.group_by)
            for group in groups
        ]
        data: dict[str, Any] = {"runs": names if self.compares else names[:1], "groups": shown}
        if canonical_key(self.group_by) == "language":  # it decides how letters are drawn
            data["langs"] = [group if is_language(group) else "" for group in groups]
        return data | {"requests": requests}, sum(chosen.total for chosen, _ in parts)


def _sample(number: int, total: int) -> str:
    if number == total:
        return f"All {count(number, 'request')} with a generated text."
    return (
        f"A sample: {number:,} of {count(total, 'request')}, of each group the slowest (fewest "
        "tokens a step, failed ones first) and as many others by chance."
    )


def _requests(
    chosen: ChosenRequests, pieces: Sequence[TokenPieces], groups: dict[str, int]
) -> list[dict[str, Any]]:
    found = []
    for name, group in chosen.groups.items():
        records = [records.get(name) for records in chosen.records]
        if None in records:
            continue
        found.append(
            {
                "i": escaped(name),
                "g": groups.setdefault(group, len(groups)),
                "t": [
                    _traced(record, spelled)
                    for record, spelled in zip(records, pieces, strict=True)
                    if record is not None
                ],
            }
        )
    return found


def _traced(record: Record, pieces: TokenPieces) -> dict[str, Any]:
    """A trace in few letters, without what is 0, unknown or follows from the rest.

    n tokens, k kept and d drafted in each step, x cells (text; with first and last token where it
    is not the next one alone; with 1 where it is no text), j thrown away in each step, o overlap in
    hundredths, s speed-up, e why it ended, f why it failed, q whether it differs from plain
    decoding, w text without tokens, r 1 where a replay or an older record leaves out some of j.
    """
    trace = trace_of(record)
    shown = ShownTrace(trace, pieces)
    found: dict[str, Any] = {
        "n": len(trace.tokens) or record.num_generated_tokens or 0,
        "k": [step.num_kept for step in trace.steps],
        "d": [step.num_drafted for step in trace.steps],
        "x": _cells(shown),
    }
    thrown = [escaped(shown.thrown_away(step)) for step in trace.steps]
    optional: Mapping[str, Any] = {
        "j": thrown if any(thrown) else None,
        "o": [None if o is None else round(100 * o) for o in trace.overlaps]
        if any(overlap is not None for overlap in trace.overlaps)
        else None,
        "s": _rounded(measured_speedup(record)),
        "e": record.finish_reason,
        "f": None if record.failure is None else escaped(record.failure),
        "q": record.baseline_agrees is False or bool(record.plain_pass_differing),
        "w": None if trace.tokens else escaped(record.generated_text or ""),
        "r": any(len(step.thrown_away) < step.num_thrown_away for step in trace.steps),
    }
    return found | {name: value for name, value in optional.items() if value}


def _cells(shown: ShownTrace) -> list[Any]:
    cells: list[Any] = []
    last = -1
    for cell in shown.cells:
        text = escaped(cell.text)
        if not cell.is_text:
            cells.append([text, cell.first, cell.last, 1])
        elif cell.first == cell.last == last + 1:
            cells.append(text)
        else:
            cells.append([text, cell.first, cell.last])
        last = cell.last
    return cells


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
