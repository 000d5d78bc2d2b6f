"""Tables of the bounds of theorems 1 and 2 beside what they bound."""

from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.report_tables import Column, table_of
from lm_eval_specfair.reporting.tables import Table

HEADING = "Bounds from theory"
_BOUNDS = {metric.name for metric in BOUNDS}


def _column(metric: str, *header: str) -> Column:
    return Column(metric, header, 3)


_THEOREMS: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    (
        "Theorem 1: overlap and speed-up from divergences",
        "Lower bounds are left of what they bound. From the cross-entropy: as the paper prints "
        "it, but clipped at 0; from KL: the better of Pinsker's and of Bretagnolle and Huber's. "
        "Textbook speed-up: at the conditional acceptance rate, as if verifying cost one plain "
        "step. Its bounds assume tokens that are sampled, and accepted independently; greedy "
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


def bound_tables(summary: Summary) -> list[Table]:
    """A table for each theorem whose bounds were computed.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), theorems 1 and 2.
    """
    tables = []
    for title, note, columns in _THEOREMS:
        shown = [column for column in columns if summary.overall.get(column.metric) is not None]
        if any(column.metric in _BOUNDS for column in shown):
            tables.append(table_of(summary, shown, title=title, note=note))
    return tables
