"""Entries ranked by their worst-served group, and by the mean over groups.

Only entries that asked the same requests are ranked against each other: a board is a suite. An
entry's rank is a range: it ranks after those whose interval is wholly above its own, and may rank
after all whose interval is not wholly below. Intervals that merely overlap are a tie.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.metrics.definitions.speedup import MEASURED_SPEEDUP, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import estimate_text, markdown_notes, markdown_table
from lm_eval_specfair.reporting.leaderboard.entry import (
    SUBMISSION_FILE,
    FigureModel,
    Submission,
)
from lm_eval_specfair.reporting.leaderboard.validation import validate
from lm_eval_specfair.reporting.page.shell import page

PAGE_FILE, MARKDOWN_FILE = "leaderboard.html", "leaderboard.md"

_LONGEST_SUITE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A table's cell.

    Attributes:
        text: What is shown.
        value: What it is sorted by; None in columns of text, and where nothing was measured.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardRow:
    """An entry on a board.

    Attributes:
        cells: In the order of `COLUMNS`.
        url: Where the entry's submitter says more, or None.
    """

    cells: Sequence[Cell]
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """The entries of one suite.

    Attributes:
        title: Which suite, and how many entries.
        requests_sha256: Digest of the suite's requests.
        rows: Best worst-served group first.
    """

    title: str
    requests_sha256: str
    rows: Sequence[BoardRow]

    def is_text(self, column: int) -> bool:
        """Whether a column holds no numbers, so that it is sorted by its text."""
        return all(row.cells[column].value is None for row in self.rows)


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


def read_entries(directory: Path) -> list[Submission]:
    """All entries of a folder, each computed again from its records.

    Args:
        directory: With a folder for each entry.

    Raises:
        ConfigError: If there are none, or one does not agree with its records.
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
    return [validate(file) for file in files]


def boards(entries: Iterable[Submission]) -> list[Board]:
    """Entries ranked, one board a suite; the suite with most entries first."""
    suites: dict[tuple[str, str], list[Submission]] = {}
    for entry in entries:
        key = (entry.suite.requests_sha256, entry.figures.group_by)
        suites.setdefault(key, []).append(entry)
    ordered = sorted(suites.items(), key=lambda item: (-len(item[1]), item[0]))
    return [_board(digest, group_by, ranked) for (digest, group_by), ranked in ordered]


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


def as_html(entries: Sequence[Submission]) -> str:
    """The page: self-contained, and sortable where scripts run."""
    return page(
        "leaderboard.html.j2",
        title=_title(entries),
        boards=boards(entries),
        columns=COLUMNS,
        footnotes=FOOTNOTES,
    )


def as_markdown(entries: Sequence[Submission]) -> str:
    """The same as tables in Markdown."""
    parts = [f"# {markdown(_title(entries))}"]
    for board in boards(entries):
        rows = [[cell.text for cell in row.cells] for row in board.rows]
        parts += [f"## {markdown(board.title)}", markdown_table(COLUMNS, rows)]
    return "\n\n".join([*parts, markdown_notes(FOOTNOTES), ""])


FOOTNOTES = (
    "Speed-up over plain decoding, modelled: mean acceptance length / (c gamma + v + o), with the "
    "run's own costs. Below 1 is slower than no drafter.",
    "Groups weigh equally. In brackets: 95% intervals over resampled documents.",
    "A rank such as 1-3 is a tie: the entry ranks after those whose interval is wholly above its "
    "own, and may rank after all others but those wholly below.",
    "Speed-ups depend on the machine; compare entries of one machine first.",
    "Every estimate was computed again from the entry's records. The records themselves, and the "
    "names, are the submitter's word.",
)


def _title(entries: Sequence[Submission]) -> str:
    number = len(entries)
    return (
        f"Speculative decoding: who gets the speed-up? {number} entr{'y' if number == 1 else 'ies'}"
    )


def _board(digest: str, group_by: str, entries: Sequence[Submission]) -> Board:
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
    return Board(
        title=one_line(
            f"{', '.join(tasks[:_LONGEST_SUITE])}{more}: {requests:,} requests by {group_by}"
        ),
        requests_sha256=digest,
        rows=[_row(entries[i], by_worst[i], by_mean[i]) for i in order],
    )


def _row(entry: Submission, by_worst: tuple[int, int], by_mean: tuple[int, int]) -> BoardRow:
    standing = entry.figures.standings[MODELLED_SPEEDUP.name]
    settings, hardware = entry.provenance.settings, entry.provenance.hardware
    measured = entry.figures.overall.get(MEASURED_SPEEDUP.name)
    agreeing = entry.figures.agreeing_baselines
    compared = agreeing + entry.figures.differing_baselines
    drafted = sorted({each.num_speculative_tokens for each in entry.decoding})
    cells = [
        Cell(text=entry.entry.name),
        _rank(by_worst),
        _figure(standing.worst, f" {standing.worst_group}"),
        _rank(by_mean),
        _figure(standing.mean),
        Cell(text="-") if measured is None else _figure(measured),
        Cell(text=str(settings.get("target") or "-")),
        Cell(text=str(settings.get("drafter") or "-")),
        Cell(
            text=", ".join(map(str, drafted)) or "-", value=float(drafted[0]) if drafted else None
        ),
        Cell(text=f"{agreeing} of {compared}" if compared else "-"),
        Cell(text=str(hardware.get("gpu") or hardware.get("processor") or "-")),
        Cell(text=entry.entry.submitter or "-"),
    ]
    shown = [dataclasses.replace(cell, text=one_line(cell.text)) for cell in cells]
    return BoardRow(cells=shown, url=entry.entry.url)


def _rank(places: tuple[int, int]) -> Cell:
    first, last = places
    return Cell(text=str(first) if first == last else f"{first}-{last}", value=-first - last / 1e6)


def _figure(figure: FigureModel, more: str = "") -> Cell:
    text = estimate_text(Estimate(value=figure.value, low=figure.low, high=figure.high, n=figure.n))
    return Cell(text=f"{text}{more}", value=figure.value)
