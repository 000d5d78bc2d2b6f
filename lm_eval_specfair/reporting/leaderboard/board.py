"""Entries ranked by their worst-served group, and by the mean over groups.

Only entries that asked the same requests are ranked against each other. An entry ranks after those
whose interval is wholly above its own, and may rank after all not wholly below: overlap is a tie.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import asdict

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.metrics.definitions.speedup import MEASURED_SPEEDUP, MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import NOT_MEASURED, markdown_notes
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


def read_entries(directory: Path) -> list[Submission]:
    """All entries of a folder that holds one folder each, computed again from their records.

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


def boards(entries: Iterable[Submission]) -> list[Table]:
    """Entries ranked, one table for each suite; the suite with most entries first."""
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
        "leaderboard.html.j2", title=_title(entries), boards=boards(entries), footnotes=FOOTNOTES
    )


def as_markdown(entries: Sequence[Submission]) -> str:
    """The same as tables in Markdown."""
    parts = [f"# {markdown(_title(entries))}"]
    for board in boards(entries):
        parts += [f"## {markdown(board.title)}", board.markdown()]
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


def _board(digest: str, group_by: str, entries: Sequence[Submission]) -> Table:
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
            f"{', '.join(tasks[:_LONGEST_SUITE])}{more}: {requests:,} requests by {group_by}"
        ),
        header=COLUMNS,
        sections=[[_row(entries[i], by_worst[i], by_mean[i]) for i in order]],
        note=f"Requests {digest[:19]}.",
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
        str(hardware.get("gpu") or hardware.get("processor") or NOT_MEASURED),
        entry.entry.submitter or NOT_MEASURED,
    )


def _rank(places: tuple[int, int]) -> Cell:
    first, last = places
    return Cell(str(first) if first == last else f"{first}-{last}", -first - last / 1e6)


def _estimate(model: FigureModel | None, name: str = "") -> Cell:
    if model is None:
        return Cell()
    return estimate_cell(Estimate(**asdict(model)), name=name)
