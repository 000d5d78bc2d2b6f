"""The metrics of a report.

Not measured is NaN here and `None` in a report; a division without a denominator is never 0.
`metrics.tsv` has their order, and the definition of those that are a pooled ratio, or 1 less one.
"""

import csv
from pathlib import Path

from lm_eval_specfair.metrics.definitions.metric import Metric, pooled
from lm_eval_specfair.metrics.definitions.rates import DIVERGENCES_PER_BYTE_AND_DOCUMENT
from lm_eval_specfair.metrics.definitions.speedup import (
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    MODELLED_COSTS,
    MODELLED_SPEEDUP,
    TEXTBOOK_SPEEDUP,
)

_COMPUTED = {
    metric.name: metric
    for metric in (
        MEAN_ACCEPTANCE_LENGTH,
        MEASURED_SPEEDUP,
        MODELLED_SPEEDUP,
        TEXTBOOK_SPEEDUP,
        *DIVERGENCES_PER_BYTE_AND_DOCUMENT,
        *MODELLED_COSTS,
    )
}


def _metrics() -> tuple[Metric, ...]:
    with Path(__file__).with_name("metrics.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(
        pooled(
            row["name"],
            row["description"],
            of=row["of"],
            lower_is_better=row["better"] == "low",
            has_unfairness=row["unfairness"] == "yes",
        )
        if row["of"]
        else _COMPUTED[row["name"]]
        for row in rows
    )


METRICS = _metrics()  # of a group and of the whole run, in the order of reports
