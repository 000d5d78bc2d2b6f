"""Entries ranked by their worst-served group, and by the mean over groups.

Only entries under the same conditions are ranked against each other. An entry ranks after those
whose interval is wholly above its own, and may rank after all not wholly below: overlap is a tie.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.machine_load import is_busy
from lm_eval_specfair.metrics.definitions.speedup import MEASURED_SPEEDUP, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import NOT_MEASURED, markdown_notes
from lm_eval_specfair.reporting.leaderboard.conditions import (
    clock_notes,
    conditions_of,
    differences,
    why_apart,
)
from lm_eval_specfair.reporting.leaderboard.entry import SUBMISSION_FILE, FigureModel, Submission
from lm_eval_specfair.reporting.leaderboard.validation import validate
from lm_eval_specfair.reporting.page.shell import page
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, row_of

PAGE_FILE, MARKDOWN_FILE = "leaderboard.html", "leaderboard.md"

_LONGEST_SUITE = 4


COLUMNS = (
    "Entry",
    "Rank by worst group",
    "Worst group's speed-up",
    "Rank by mean",
    "Mean speed-up over groups",
    "Measured speed-up, all requests",
    "Target",
    "Drafter",
    "Drafted",
    "Greedy texts as plain",
    "Machine",
    "Submitted by",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """What a folder of entries holds; an entry that was refused, or is a copy, hides no other."""

    sound: Sequence[Submission]
    refused: Mapping[str, str]  # by the folder's name, why


def read_entries(directory: Path) -> Entries:
    """All entries of a folder that holds one folder each, computed again from their records.

    Raises:
        ConfigError: If there are none, or none that agrees with its records.
    """
    if not directory.is_dir():
        raise ConfigError(f"no such folder: {directory} (expected a folder with one of each entry)")
    files = [
        folder / SUBMISSION_FILE
        for folder in sorted(directory.iterdir())
        if folder.is_dir() and not folder.is_symlink() and (folder / SUBMISSION_FILE).exists()
    ]
    if not files:
        raise ConfigError(
            f"{directory} holds no entry: expected folders with {SUBMISSION_FILE} and its records, "
            "as `specfair submission pack` makes them"
        )
    sound, refused = [], {}
    # Who has the same figures, to the last digit of every second, under the same conditions: others
    # stand in a table of their own, which says in what they differ.
    seen: dict[bytes, str] = {}
    for file in files:
        name = one_line(file.parent.name)
        try:
            entry = validate(file)
        except ConfigError as error:
            refused[name] = one_line(error)
            continue
        alike = [dict(conditions_of(entry)), entry.figures]
        first = seen.setdefault(msgspec.json.encode(alike), name)
        if first == name:
            sound.append(entry)
        else:
            refused[name] = f"a copy: all its figures are those of {first}, which is ranked"
    if not sound:
        name, reason = next(iter(refused.items()))
        raise ConfigError(
            f"{directory}: none of {len(refused)} entries agrees with its records; {name}: {reason}"
        )
    return Entries(sound=sound, refused=refused)


def boards(entries: Iterable[Submission]) -> list[Table]:
    """Entries ranked, one table for each set of conditions; the one with most entries first."""
    alike: dict[str, list[Submission]] = {}
    for entry in entries:
        key = json.dumps(dict(conditions_of(entry)), sort_keys=True)
        alike.setdefault(key, []).append(entry)
    ordered = [ranked for _, ranked in sorted(alike.items(), key=lambda i: (-len(i[1]), i[0]))]
    tables = []
    for place, ranked in enumerate(ordered):
        notes = [f"Requests {ranked[0].suite.requests_sha256[:19]}."]
        if place:
            above = _nearest(ordered[:place], ranked)
            notes.append(why_apart(conditions_of(ranked[0]), conditions_of(above[0])))
        tables.append(_board(ranked, " ".join([*notes, *clock_notes(ranked)])))
    return tables


def _nearest(
    tables: Sequence[list[Submission]], ranked: Sequence[Submission]
) -> Sequence[Submission]:
    """The table before that differs in the fewest conditions."""
    own = conditions_of(ranked[0])
    return min(tables, key=lambda other: len(differences(own, conditions_of(other[0]))))


def ranks(figures: Sequence[FigureModel]) -> list[tuple[int, int]]:
    """The ranks that each value may have, the largest first; unknown ends reach anywhere.

    Example:
        >>> high, low, vague = (
        ...     FigureModel(value=value, low=low, high=high, n=9)
        ...     for value, low, high in ((2.0, 1.9, 2.1), (1.0, 0.9, 1.1), (1.5, None, None))
        ... )
        >>> ranks([high, low, vague])
        [(1, 2), (2, 3), (1, 3)]
    """
    ends = [
        (each.low, each.high)
        if each.low is not None and each.high is not None
        else (-float("inf"), float("inf"))
        for each in figures
    ]
    return [
        (
            1 + sum(other_low > high for other_low, _ in ends),
            len(ends) - sum(other_high < low for _, other_high in ends),
        )
        for low, high in ends
    ]


def as_html(entries: Entries) -> str:
    """The page: self-contained, and sortable where scripts run."""
    return page(
        "leaderboard.html.j2",
        title=_title(entries.sound),
        boards=boards(entries.sound),
        refused=entries.refused,
        footnotes=FOOTNOTES,
    )


def as_markdown(entries: Entries) -> str:
    """The same as tables in Markdown."""
    parts = [f"# {markdown(_title(entries.sound))}"]
    for board in boards(entries.sound):
        parts += [f"## {markdown(board.title)}", board.markdown(), markdown(board.note)]
    if entries.refused:
        parts.append("## Refused")
        parts.append(
            "\n".join(f"- {markdown(f'{n}: {why}')}" for n, why in entries.refused.items())
        )
    return "\n\n".join([*parts, markdown_notes(FOOTNOTES), ""])


FOOTNOTES = (
    "Speed-up over plain decoding, modelled: mean acceptance length / (c gamma + v + o), with the "
    "run's own costs. Below 1 is slower than no drafter.",
    "Groups weigh equally. In brackets: 95% intervals over resampled documents.",
    "A rank such as 1-3 is a tie: the entry ranks after those whose interval is wholly above its "
    "own, and may rank after all others but those wholly below.",
    "One table holds entries that asked the same requests in the same groups, of one target with "
    "the same settings on the same kind of machine, with the same requests decoded plainly.",
    "Every estimate was computed again from the entry's records, and these were held against the "
    "totals, tasks and settings of their run. Whoever makes up a whole run, all of whose parts "
    "agree, is not found out: records and names are the submitter's word; the command and the "
    "digests are there so that others can run it again.",
)


def _title(entries: Sequence[Submission]) -> str:
    number = len(entries)
    return (
        f"Speculative decoding: who gets the speed-up? {number} entr{'y' if number == 1 else 'ies'}"
    )


def _board(entries: Sequence[Submission], note: str) -> Table:
    standings = [entry.figures.standings[MODELLED_SPEEDUP.name] for entry in entries]
    by_worst = ranks([each.worst for each in standings])
    by_mean = ranks([each.mean for each in standings])
    order = sorted(
        range(len(entries)),
        key=lambda i: (-standings[i].worst.value, -standings[i].mean.value, entries[i].entry.name),
    )
    tasks = list(entries[0].suite.tasks)
    more = f" and {len(tasks) - _LONGEST_SUITE} more" if len(tasks) > _LONGEST_SUITE else ""
    requests = sum(entries[0].suite.tasks.values())
    return Table(
        title=one_line(
            f"{', '.join(tasks[:_LONGEST_SUITE])}{more}: {requests:,} requests by "
            f"{entries[0].figures.group_by}"
        ),
        header=COLUMNS,
        sections=[[_row(entries[i], by_worst[i], by_mean[i]) for i in order]],
        note=note,
    )


def _row(entry: Submission, by_worst: tuple[int, int], by_mean: tuple[int, int]) -> list[Cell]:
    standing = entry.figures.standings[MODELLED_SPEEDUP.name]
    settings, hardware = entry.provenance.settings, entry.provenance.hardware
    agreeing = entry.figures.agreeing_baselines
    compared = agreeing + entry.figures.differing_baselines
    drafted = sorted({each.num_speculative_tokens for each in entry.decoding})
    lengths = Cell(", ".join(map(str, drafted)), drafted[0]) if drafted else Cell()
    return row_of(
        Cell(one_line(entry.entry.name), url=entry.entry.url),
        _rank(by_worst),
        _estimate(standing.worst, standing.worst_group),
        _rank(by_mean),
        _estimate(standing.mean),
        _estimate(entry.figures.overall.get(MEASURED_SPEEDUP.name)),
        str(settings.get("target") or NOT_MEASURED),
        str(settings.get("drafter") or NOT_MEASURED),
        lengths,
        f"{agreeing} of {compared}" if compared else NOT_MEASURED,
        str(hardware.get("gpu") or hardware.get("processor") or NOT_MEASURED)
        + (", busy" if is_busy(entry.provenance.load) else ""),
        entry.entry.submitter or NOT_MEASURED,
    )


def _rank(places: tuple[int, int]) -> Cell:
    first, last = places
    return Cell(str(first) if first == last else f"{first}-{last}", -first - last / 1e6)


def _estimate(model: FigureModel | None, name: str = "") -> Cell:
    if model is None:
        return Cell()
    return estimate_cell(Estimate(**asdict(model)), name=name)
