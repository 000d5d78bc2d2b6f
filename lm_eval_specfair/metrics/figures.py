"""The figures of a report: what each is, and how it is computed from sums.

Not measured is NaN here and `None` in a report; a division without a denominator is never 0.
Knows nothing about groups or intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.sums import Array, Sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a figure is.

    Attributes:
        name: The glossary's name, the key in reports.
        description: Its definition and unit, for a footnote.
        requests: The column that counts the requests it rests on.
        evaluate: From the sums of some requests and those of the whole run, each shape
            (..., num_columns), to shape (...).
        lower_is_better: Whether the worst group is the one with the largest value.
        uses_run: Whether the whole run's sums matter.
        has_unfairness: Whether the variance across groups is reported (`metrics.disparity`).
    """

    name: str
    description: str
    requests: str
    evaluate: Callable[[Sums, Sums], Array]
    lower_is_better: bool = False
    uses_run: bool = False
    has_unfairness: bool = False


def quotient(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(denominator == 0, np.nan, numerator / denominator)
    return result


def _pooled(
    name: str, description: str, *, lower_is_better: bool = False, has_unfairness: bool = False
) -> Metric:
    def evaluate(sums: Sums, _run: Sums) -> Array:
        return quotient(sums[f"{name}.numerator"], sums[f"{name}.denominator"])

    return Metric(
        name=name,
        description=description,
        requests=f"{name}.requests",
        evaluate=evaluate,
        lower_is_better=lower_is_better,
        has_unfairness=has_unfairness,
    )


def _plain_step_seconds(sums: Sums) -> Array:
    """Seconds of one plain decoding step, its host overhead included: the unit of all costs."""
    return quotient(sums["paired_baseline_seconds"], sums["paired_baseline_tokens"])


def _in_plain_steps(sums: Sums, seconds: Array) -> Array:
    """What a part of a step costs, from its seconds in all steps."""
    return quotient(quotient(seconds, sums["paired_steps"]), _plain_step_seconds(sums))


def _measured_speedup(sums: Sums, _run: Sums) -> Array:
    seconds_per_token = quotient(sums["paired_decode_seconds"], sums["paired_tokens"])
    return quotient(_plain_step_seconds(sums), seconds_per_token)


def _modelled_speedup(sums: Sums, run: Sums) -> Array:
    """`theory.modelled_speedup`; the three parts of a step add up to its decode_seconds."""
    return quotient(
        MEAN_ACCEPTANCE_LENGTH.evaluate(sums, run),
        _in_plain_steps(run, run["paired_decode_seconds"]),
    )


def _cost_ratio(_sums: Sums, run: Sums) -> Array:
    seconds_per_token = quotient(run["paired_draft_seconds"], run["paired_draft_tokens"])
    return quotient(seconds_per_token, _plain_step_seconds(run))


def _verify_cost_ratio(_sums: Sums, run: Sums) -> Array:
    return _in_plain_steps(run, run["paired_verify_seconds"])


def _host_overhead_ratio(_sums: Sums, run: Sums) -> Array:
    rest = run["paired_decode_seconds"] - run["paired_draft_seconds"] - run["paired_verify_seconds"]
    return _in_plain_steps(run, rest)


def speedup_limit(sums: Sums) -> Array:
    """Tokens per step of the paired requests: what their `measured_speedup` cannot exceed.

    A step holds a pass of the target, so it takes no less time than a plain step.
    """
    return quotient(sums["paired_emitted"], sums["paired_steps"])


MEAN_ACCEPTANCE_LENGTH = _pooled("mean_acceptance_length", "tokens per step, 1 + accepted / steps")
MEASURED_SPEEDUP = Metric(
    name="measured_speedup",
    description="plain / speculative seconds per token, of the requests decoded both ways",
    requests="paired_requests",
    evaluate=_measured_speedup,
)
MODELLED_SPEEDUP = Metric(
    name="modelled_speedup",
    description="mean acceptance length / (c gamma + v + o), the costs pooled over the run",
    requests=MEAN_ACCEPTANCE_LENGTH.requests,
    evaluate=_modelled_speedup,
    uses_run=True,
    has_unfairness=True,
)

METRICS: tuple[Metric, ...] = (
    _pooled("conditional_acceptance_rate", "accepted / examined draft tokens"),
    _pooled(
        "draft_acceptance_rate", "accepted / drafted tokens; falls as more are drafted per step"
    ),
    _pooled("overlap", "mean over examined positions of sum min(p, q)", has_unfairness=True),
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    MODELLED_SPEEDUP,
    _pooled(
        "kl",
        "mean KL(p || q) over examined positions, nats",
        lower_is_better=True,
        has_unfairness=True,
    ),
    _pooled(
        "cross_entropy",
        "mean of -sum p log q over examined positions, nats",
        lower_is_better=True,
        has_unfairness=True,
    ),
    _pooled(
        "target_entropy", "mean entropy of p over examined positions, nats", lower_is_better=True
    ),
    _pooled("scored_overlap", "mean over the tokens of scored text of sum min(p, q)"),
    _pooled(
        "scored_kl", "mean KL(p || q) over the tokens of scored text, nats", lower_is_better=True
    ),
    _pooled(
        "scored_cross_entropy",
        "mean of -sum p log q over the tokens of scored text, nats",
        lower_is_better=True,
    ),
    _pooled("bytes_per_token", "UTF-8 bytes / tokens of the generated text"),
    _pooled(
        "seconds_per_kilobyte",
        "decoding seconds per 1,000 UTF-8 bytes of generated text",
        lower_is_better=True,
    ),
    _pooled(
        "bits_per_byte", "the target's bits per UTF-8 byte of scored text", lower_is_better=True
    ),
    _pooled(
        "drafter_bits_per_byte",
        "the drafter's bits per UTF-8 byte of scored text",
        lower_is_better=True,
    ),
)
"""The figures of a group and of the whole run, in the order of reports."""

COSTS: tuple[Metric, ...] = tuple(
    Metric(
        name=name,
        description=description,
        requests="paired_requests",
        evaluate=evaluate,
        lower_is_better=True,
        uses_run=True,
    )
    for name, description, evaluate in (
        ("cost_ratio", "c: drafting one token, in plain steps", _cost_ratio),
        ("verify_cost_ratio", "v: verifying one draft, in plain steps", _verify_cost_ratio),
        ("host_overhead_ratio", "o: the rest of a step, in plain steps", _host_overhead_ratio),
    )
)
"""What a step costs on the run's machine; figures of the whole run only."""
