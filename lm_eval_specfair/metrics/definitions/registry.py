"""The metrics of a report.

Not measured is NaN here and `None` in a report; a division without a denominator is never 0.
"""

from lm_eval_specfair.metrics.aggregate.sums import ANSWER_QUALITY
from lm_eval_specfair.metrics.definitions.metric import Metric, pooled
from lm_eval_specfair.metrics.definitions.rates import (
    DIVERGENCES_PER_BYTE_AND_DOCUMENT,
    SPENT,
    complement,
)
from lm_eval_specfair.metrics.definitions.speedup import (
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    MODELLED_COSTS,
    MODELLED_SPEEDUP,
    TEXTBOOK_SPEEDUP,
)

METRICS: tuple[Metric, ...] = (
    pooled("conditional_acceptance_rate", "accepted / examined draft tokens"),
    pooled(
        "draft_acceptance_rate", "accepted / drafted tokens; falls as more are drafted per step"
    ),
    pooled("overlap", "mean over examined positions of sum min(p, q)", has_unfairness=True),
    complement(
        "total_variation",
        "mean over examined positions of TV(p, q), which is 1 - overlap",
        of="overlap",
    ),
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    MODELLED_SPEEDUP,
    TEXTBOOK_SPEEDUP,
    pooled(
        "kl",
        "mean KL(p || q) over examined positions, nats",
        lower_is_better=True,
        has_unfairness=True,
    ),
    pooled(
        "cross_entropy",
        "mean of -sum p log q over examined positions, nats",
        lower_is_better=True,
        has_unfairness=True,
    ),
    pooled(
        "target_entropy", "mean entropy of p over examined positions, nats", lower_is_better=True
    ),
    *DIVERGENCES_PER_BYTE_AND_DOCUMENT,
    pooled("scored_overlap", "mean over the tokens of scored text of sum min(p, q)"),
    pooled(
        "scored_kl", "mean KL(p || q) over the tokens of scored text, nats", lower_is_better=True
    ),
    pooled(
        "scored_cross_entropy",
        "mean of -sum p log q over the tokens of scored text, nats",
        lower_is_better=True,
    ),
    complement(
        "target_misfit",
        "1 - mean p(token) over scored text, taken as the reference",
        of="target_reference_probability",
    ),
    complement(
        "drafter_misfit",
        "1 - mean q(token) over scored text, taken as the reference",
        of="drafter_reference_probability",
    ),
    pooled("bytes_per_token", "UTF-8 bytes / tokens of the generated text"),
    *SPENT,
    *MODELLED_COSTS,
    pooled(
        "bits_per_byte", "the target's bits per UTF-8 byte of scored text", lower_is_better=True
    ),
    pooled(
        "drafter_bits_per_byte",
        "the drafter's bits per UTF-8 byte of scored text",
        lower_is_better=True,
    ),
    pooled(ANSWER_QUALITY, "mean score that lm-eval gave the documents' answers"),
)
"""Of a group and of the whole run, in the order of reports."""
