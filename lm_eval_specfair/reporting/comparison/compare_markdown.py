"""A comparison as Markdown that fits into a comment on a pull request, whatever is compared."""

import html
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.compare_headline import comparison_headline
from lm_eval_specfair.reporting.comparison.compare_tables import (
    candidate_tables,
    check_table,
    footnotes,
    runs_table,
    title,
)
from lm_eval_specfair.reporting.format import listed, markdown_notes, shortened
from lm_eval_specfair.reporting.tables import Table

COMMENT_CHARACTERS = 65_536
"""As many as a comment on GitHub holds."""

_LARGEST = 64_000  # bytes, which are never fewer than characters
_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A part that is shown whole or left out; those of a lower rank are kept first."""

    rank: int
    name: str  # what a line calls it where it is left out
    text: str


def as_markdown(report: ComparisonReport) -> str:
    """The verdict first, details folded away; what a comment has no room for is named at the end.

    Source:
        GitHub refuses bodies above 65,536 characters ("body is too long").
    """
    blocks = list(_blocks(report))
    kept, room = set[int](), _LARGEST
    for place in sorted(range(len(blocks)), key=lambda place: blocks[place].rank):
        size = len(blocks[place].text.encode()) + 2
        if size <= room:
            kept.add(place)
            room -= size
    shown = [block for place, block in enumerate(blocks) if place in kept]
    # Notes are one list, everything else is a paragraph.
    parts = ["\n".join(part) for part in _paragraphs(shown)]
    left_out = [
        shortened(one_line(block.name), 80)
        for place, block in enumerate(blocks)
        if place not in kept
    ]
    if left_out:
        parts.append(
            "**Left out**, as a comment holds "
            f"{COMMENT_CHARACTERS:,} characters: {markdown(listed(left_out, _MOST_NAMED, '; '))}. "
            "The whole comparison: the same command with `--format html` (a page) or "
            "`--format json`."
        )
    return "\n\n".join([*parts, ""])


def _paragraphs(blocks: list[_Block]) -> Iterator[list[str]]:
    for is_note, group in itertools.groupby(blocks, key=lambda block: block.text.startswith("- ")):
        texts = [block.text for block in group]
        yield from [texts] if is_note else ([text] for text in texts)


def _blocks(report: ComparisonReport) -> Iterator[_Block]:
    """In the order in which they are shown."""
    verdicts = {verdict.candidate: verdict for verdict in report.verdicts}
    failing = {name for name, verdict in verdicts.items() if not verdict.passed}
    yield _Block(rank=0, name="title", text=f"# {markdown(title(report))}")
    for place, told in enumerate(comparison_headline(report)):
        yield _Block(rank=1, name=f"sentence {place + 1}", text=markdown_notes([told]))
    for name, verdict in verdicts.items() if len(verdicts) > 1 else ():
        outcome = "passes" if verdict.passed else "**fails**"
        text = f"**Gate:** {markdown(name)} {outcome} ({verdict.state})."
        yield _Block(rank=1 if name in failing else 2, name=f"verdict on {name}", text=text)
    runs = runs_table(report)
    yield _Block(rank=3, name=runs.title, text=runs.markdown())
    for candidate in report.comparison.candidates:
        changes, *spreads = candidate_tables(report, candidate)
        later = candidate.name not in failing
        yield _folded(6 + later, changes)
        for table in spreads:
            yield _folded(8 + later, table)
    for name, verdict in verdicts.items():
        yield _folded(4 if name in failing else 5, check_table(report, verdict))
    yield _Block(rank=0, name="", text="<details><summary>How to read it</summary>")
    for note in footnotes(report):
        yield _Block(rank=3, name=f"note: {note}", text=markdown_notes([note]))
    yield _Block(rank=0, name="", text="</details>")


def _folded(rank: int, table: Table) -> _Block:
    # Inside HTML, Markdown's backslashes would be shown.
    summary = html.escape(one_line(table.title)).replace("@", "@&#8203;")
    text = f"<details><summary>{summary}</summary>\n\n{table.markdown()}\n\n</details>"
    return _Block(rank=rank, name=table.title, text=text)
