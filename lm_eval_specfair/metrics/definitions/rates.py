"""Metrics per byte, per document and per draft position.

Per token is not per user: a language with two bytes to the token pays twice as many steps for the
same text as one with four, so that the order of groups can reverse between tokens, bytes and
documents. Only text of the same content (translations) makes documents comparable.
"""

from collections.abc import Callable

from lm_eval_specfair.metrics.aggregate.columns import MAX_POSITIONS
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric, pooled, ratio_of


def _per(ratio: str, unit: str) -> Callable[[Sums, Sums], Array]:
    def evaluate(sums: Sums, _run: Sums) -> Array:
        if unit == "byte":
            return ratio_of(sums, ratio) * (ratio_of(sums, "tokens_per_kilobyte") / 1_000)
        return ratio_of(sums, ratio) * ratio_of(sums, "tokens_per_document")

    return evaluate


DIVERGENCES_PER_BYTE_AND_DOCUMENT = tuple(
    Metric(
        name=f"{name}_per_{unit}",
        description=f"{quantity} per {meaning}: mean per examined position times tokens per {unit}",
        requests=f"{ratio.removeprefix('1 - ')}.requests",
        evaluate=_per(ratio, unit),
        lower_is_better=True,
        has_unfairness=True,
    )
    for name, ratio, quantity in (
        ("cross_entropy", "cross_entropy", "nats of cross-entropy"),
        ("kl", "kl", "nats of KL(p || q)"),
        ("total_variation", "1 - overlap", "TV(p, q) summed"),
    )
    for unit, meaning in (("byte", "UTF-8 byte of generated text"), ("document", "document"))
)
"""How far the drafter is from the target over a text, rather than a token."""

UNCERTAIN = (
    pooled(
        "uncertain_tokens_share",
        "share of replayed tokens whose ids may not be those that the model emitted",
        lower_is_better=True,
    ),
    *(
        pooled(f"{name}_{case}", f"{meaning}, {assumption}")
        for name, meaning in (
            ("conditional_acceptance_rate", "accepted / examined draft tokens"),
            ("mean_acceptance_length", "tokens per step"),
        )
        for case, assumption in (
            ("at_least", "as if no uncertain token had been kept"),
            ("at_most", "as if all uncertain tokens had been kept"),
            ("certain", "of the steps before the first uncertain token"),
        )
    ),
)
"""What uncertain token ids of replayed texts may change; not measured where all are certain."""

POSITIONS: tuple[Metric, ...] = tuple(
    metric
    for position in range(1, MAX_POSITIONS + 1)
    for metric in (
        pooled(
            f"conditional_acceptance_at_{position}",
            f"accepted / examined draft tokens at position {position} of the draft",
        ),
        pooled(
            f"acceptance_at_{position}",
            f"share of steps that accepted the draft at position {position}",
        ),
    )
)
"""Acceptance by draft position; what no draft reached is not measured.

The share of steps is what vLLM calls acceptance rate per position. The conditional one is constant
where acceptance is independent from token to token, as the closed forms suppose.
"""
