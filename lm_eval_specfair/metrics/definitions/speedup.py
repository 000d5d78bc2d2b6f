"""Speed-ups and what they are made of: tokens per step, and what a step costs.

The unit of all costs is one plain decoding step of the same run, its host overhead included.
Steps of different settings (draft length, temperature, top-k, top-p) cost differently, so each
combination has a cost of its own, taken from the requests that were decoded both ways.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.definitions.metric import Metric, pooled, ratio_of


def plain_step_seconds(sums: Sums) -> Array:
    """Seconds of one plain decoding step, its host overhead included: the unit of all costs."""
    return quotient(sums["paired_baseline_seconds"], sums["paired_baseline_tokens"])


def _in_plain_steps(sums: Sums, seconds: Array) -> Array:
    return quotient(quotient(seconds, sums["paired_steps"]), plain_step_seconds(sums))


def _measured_speedup(sums: Sums, _run: Sums) -> Array:
    seconds_per_token = quotient(sums["paired_decode_seconds"], sums["paired_tokens"])
    return quotient(plain_step_seconds(sums), seconds_per_token)


def modelled_plain_steps(sums: Sums, run: Sums) -> Array:
    """The cost of some requests' steps, in plain steps, each at the run's cost of its settings.

    A token decoded without a drafter costs one. NaN where a step's settings were never timed.
    """
    costs = quotient(run.by_settings("paired_seconds"), run.by_settings("paired_steps"))
    costs = quotient(costs, plain_step_seconds(run)[..., None])
    steps = sums.by_settings("steps")
    total: Array = np.where(steps > 0, steps * costs, 0.0).sum(-1) + sums["plain_tokens"]
    # Without any pair nothing tells what a step costs.
    return np.where(run["paired_steps"] > 0, total, np.nan)


def _modelled_speedup(sums: Sums, run: Sums) -> Array:
    """`closed_forms.modelled_speedup`; the three parts of a step add up to its decode_seconds."""
    emitted = sums["mean_acceptance_length.numerator"] + sums["plain_tokens"]
    return quotient(emitted, modelled_plain_steps(sums, run))


def _modelled_cost(unit: str) -> Callable[[Sums, Sums], Array]:
    def evaluate(sums: Sums, run: Sums) -> Array:
        tokens = ratio_of(sums, f"tokens_per_{unit}")
        return quotient(tokens, _modelled_speedup(sums, run))

    return evaluate


def cost_ratio(run: Sums) -> Array:
    """c: seconds of drafting one token, in plain steps."""
    seconds_per_token = quotient(run["paired_draft_seconds"], run["paired_draft_tokens"])
    return quotient(seconds_per_token, plain_step_seconds(run))


def textbook(acceptance_rate: Array, sums: Sums, run: Sums) -> Array:
    """`closed_forms.textbook_speedup` for arrays, over the draft lengths that some steps had.

    `acceptance_rate` is alpha, shape (...); `sums` are of the requests in question, `run` of the
    whole run, whose cost of drafting counts.
    """
    steps, gamma_steps = sums.by_settings("steps"), sums.by_settings("gamma_steps")
    gamma = quotient(gamma_steps, steps)  # NaN for settings that no step had
    alpha = acceptance_rate[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = (1 - alpha ** (gamma + 1)) / (1 - alpha)
    emitted = np.where(alpha == 1, gamma + 1, powers)
    cost = 1 + cost_ratio(run)[..., None] * gamma
    with np.errstate(invalid="ignore"):
        tokens = np.where(steps > 0, steps * emitted, 0).sum(-1)
        passes = np.where(steps > 0, steps * cost, 0).sum(-1)
    return quotient(tokens, passes)


def _host_overhead_ratio(run: Sums) -> Array:
    rest = run["paired_decode_seconds"] - run["paired_draft_seconds"] - run["paired_verify_seconds"]
    return _in_plain_steps(run, rest)


def speedup_limit(sums: Sums) -> Array:
    """Tokens per step of the paired requests: what their `measured_speedup` cannot exceed."""
    return quotient(sums["paired_emitted"], sums["paired_steps"])


MEAN_ACCEPTANCE_LENGTH = pooled("mean_acceptance_length", "tokens per step, 1 + accepted / steps")
_speedup = partial(Metric, has_unfairness=True, is_speedup=True)
MEASURED_SPEEDUP = _speedup(
    name="measured_speedup",
    description="plain / speculative seconds per token, of the requests decoded both ways",
    requests="paired_requests",
    evaluate=_measured_speedup,
)
MODELLED_SPEEDUP = _speedup(
    name="modelled_speedup",
    description=(
        "mean acceptance length / (c gamma + v + o), the costs pooled over the run's requests of "
        "the same settings"
    ),
    requests="timed_requests",
    evaluate=_modelled_speedup,
    uses_run=True,
)
TEXTBOOK_SPEEDUP = _speedup(
    name="textbook_speedup",
    description=(
        "(1 - a^(gamma+1)) / (1 - a) / (c gamma + 1) at the conditional acceptance rate a: as if "
        "acceptance were independent from token to token and verifying cost one plain step"
    ),
    requests="conditional_acceptance_rate.requests",
    evaluate=lambda sums, run: textbook(ratio_of(sums, "conditional_acceptance_rate"), sums, run),
    uses_run=True,
)
MODELLED_COSTS = tuple(
    Metric(
        name=f"modelled_cost_per_{unit}",
        description=f"plain steps that {text} takes at the modelled speed-up",
        requests=f"tokens_per_{unit}.requests",
        evaluate=_modelled_cost(unit),
        lower_is_better=True,
        uses_run=True,
        has_unfairness=True,
    )
    for unit, text in (("kilobyte", "1,000 UTF-8 bytes of generated text"), ("document", "a text"))
)
"""The modelled speed-up by length of text and by document."""


def _cost(name: str, description: str, of_run: Callable[[Sums], Array]) -> Metric:
    return Metric(
        name=name,
        description=description,
        requests="paired_requests",
        evaluate=lambda _sums, run: of_run(run),
        lower_is_better=True,
        uses_run=True,
    )


COSTS: tuple[Metric, ...] = (
    _cost("cost_ratio", "c: drafting one token, in plain steps", cost_ratio),
    _cost(
        "verify_cost_ratio",
        "v: verifying one draft, in plain steps",
        lambda run: _in_plain_steps(run, run["paired_verify_seconds"]),
    ),
    _cost("host_overhead_ratio", "o: the rest of a step, in plain steps", _host_overhead_ratio),
)
"""What a step costs on the run's machine; of the whole run only."""
