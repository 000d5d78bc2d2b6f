"""The bounds of theorems 1 and 2 beside what they bound, as tables of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.summary import Figures, Summary
from lm_eval_specfair.reporting.report.report_tables import (
    Column,
    Table,
    cell,
    shortened,
)

HEADING = "What theory promises"
_BOUNDS = {metric.name for metric in BOUNDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A theorem's bounds beside what was measured.

    Attributes:
        title: Which theorem, of what.
        note: How to read the table.
        table: A row a group, then all requests.
    """

    title: str
    note: str
    table: Table


def _column(metric: str, *header: str) -> Column:
    return Column(metric=metric, header=header, digits=3)


_THEOREMS: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    (
        "Theorem 1: overlap and speed-up from divergences",
        "Lower bounds stand left of what they bound. From the cross-entropy: as the paper prints "
        "it, but clipped at 0; from KL: the better of Pinsker's and of Bretagnolle and Huber's. "
        "Textbook speed-up: at the conditional acceptance rate, as if verifying cost one plain "
        "step. Its bounds suppose tokens that are sampled, and accepted independently; greedy "
        "decoding may fall short of them.",
        (
            _column("overlap_bound_cross_entropy", "Overlap at least,", "from cross-entropy"),
            _column("overlap_bound_kl", "Overlap at least,", "from KL"),
            _column("overlap", "Overlap,", "measured"),
            _column("speedup_bound_cross_entropy", "Speed-up at least,", "from cross-entropy"),
            _column("speedup_bound_kl", "Speed-up at least,", "from KL"),
            _column("speedup_bound_total_variation", "Speed-up at least,", "from overlap"),
            _column("textbook_speedup", "Textbook speed-up", "at acceptance rate"),
        ),
    ),
    (
        "Theorem 2: overlap on references from the two misfits",
        "1 - (r_p + r_q) <= overlap <= 1 - |r_q - r_p|, with r the misfit of target and drafter on "
        "references. A drafter that fits the references better need not overlap more.",
        (
            _column("target_misfit", "Target's", "misfit r_p"),
            _column("drafter_misfit", "Drafter's", "misfit r_q"),
            _column("scored_overlap_bound_low", "Overlap", "at least"),
            _column("scored_overlap", "Overlap,", "measured"),
            _column("scored_overlap_bound_high", "Overlap", "at most"),
        ),
    ),
)


def promises(summary: Summary) -> list[Promise]:
    """What can be said of each theorem; nothing of one whose bounds are not known.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), theorems 1 and 2.
    """
    found = []
    for title, note, columns in _THEOREMS:
        shown = [each for each in columns if summary.overall.get(each.metric) is not None]
        if any(each.metric in _BOUNDS for each in shown):
            found.append(Promise(title=title, note=note, table=_table(summary, shown)))
    return found


def _table(summary: Summary, columns: Sequence[Column]) -> Table:
    groups = [
        [shortened(display_name(group, summary.group_by), 40), *_texts(figures, columns)]
        for group, figures in summary.groups.items()
    ]
    overall = ["All requests", *_texts(summary.overall, columns)]
    values = [
        [
            None if (figure := figures.get(column.metric)) is None else figure.value
            for column in columns
        ]
        for figures in summary.groups.values()
    ]
    return Table(
        header=[summary.group_by.capitalize(), *("\n".join(each.header) for each in columns)],
        sections=[groups, [overall]] if groups else [[overall]],
        values=values,
    )


def _texts(figures: Figures, columns: Sequence[Column]) -> list[str]:
    return [cell(figures.get(column.metric), column) for column in columns]
