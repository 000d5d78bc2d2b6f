"""Results of a finished run: metrics before and after on texts never learnt from. No torch.

Intervals come from rows drawn with replacement, the same rows before and after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from lm_eval_specfair.metrics.arrays import Array, quotient
from lm_eval_specfair.metrics.disparity import GroupValues
from lm_eval_specfair.metrics.statistics.bootstrap import resample
from lm_eval_specfair.metrics.statistics.inequality import ratio
from lm_eval_specfair.metrics.statistics.intervals import percentile_interval
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.group_sums import GroupSums

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """What training did."""

    names: tuple[str, ...]  # the groups
    test_rows: Sequence[Row]
    before: GroupSums  # of each test row, of the drafter that came in
    after: GroupSums  # the same, of the drafter that is kept
    num_tokens: Array  # of training text of each group, shape (m,)
    kept_step: int  # 0 if no step was better than the start
    num_steps: int
    cost_ratio: float  # a draft pass over a target pass, in textbook speed-ups


@dataclass(frozen=True, slots=True)
class _Paired:
    """One metric before and after."""

    observed: Array  # (2, num_groups)
    resampled: Array  # (2, num_resamples, num_groups)

    def change(self, of: Callable[[Array], Array], num_rows: int) -> dict[str, Any]:
        """A number before and after, and the interval of its change.

        `of` makes it from the groups' values, shape (..., num_groups); it rests on `num_rows`.
        """
        before, after = (_number(x) for x in of(self.observed))
        drawn = of(self.resampled)
        low, high = percentile_interval(drawn[1] - drawn[0], num_rows) or (None, None)
        value = None if before is None or after is None else after - before
        change = {"value": value, "low": low, "high": high}
        return {"before": before, "after": after, "change": change}


def results_of(
    result: TrainingResult, *, seed: int, num_speculative_tokens: int = 4
) -> dict[str, Any]:
    """Metrics of all groups before and after, as a JSON object; what was not measured is None.

    `seed` is that of the resamples. Textbook speed-ups have `num_speculative_tokens` drafted tokens
    per step.
    """
    membership = np.stack([row.membership for row in result.test_rows])
    both = np.stack([result.before.values, result.after.values])
    observed, resampled = _by_group(both, membership, np.random.default_rng(seed))
    metrics_of: dict[str, Callable[[GroupSums], Array]] = {
        "overlap": lambda sums: sums.per_token("overlap"),
        "kl": lambda sums: sums.per_token("kl"),
        "kl_per_byte": lambda sums: sums.per_byte("kl"),
        "textbook_speedup": lambda sums: sums.speedup(num_speculative_tokens, result.cost_ratio),
    }
    metrics = {name: _Paired(of(observed), of(resampled)) for name, of in metrics_of.items()}
    counts = membership.astype(bool).sum(0)
    bytes_per_token = quotient(observed.column("num_bytes"), observed.column("num_tokens"))[0]
    groups = {
        group: {
            "rows": int(counts[g]),
            "bytes_per_token": _number(bytes_per_token[g]),
            **{name: x.change(itemgetter((..., g)), int(counts[g])) for name, x in metrics.items()},
        }
        for g, group in enumerate(result.names)
    }
    return {
        "kept_step": result.kept_step,
        "num_steps": result.num_steps,
        "cost_ratio": result.cost_ratio,
        "num_speculative_tokens": num_speculative_tokens,
        "train_tokens": dict(zip(result.names, result.num_tokens.tolist(), strict=True)),
        "test_rows": len(result.test_rows),
        "groups": groups,
        "across_groups": {name: _across(name, x, counts) for name, x in metrics.items()},
    }


def _by_group(
    both: Array, membership: Array, generator: np.random.Generator
) -> tuple[GroupSums, GroupSums]:
    """Sums of groups from those of rows, `both` of shape (2, num_rows, num_columns).

    Observed, shape (2, num_groups), and resampled, shape (2, num_resamples, num_groups). Rows of
    the same membership are drawn together, so that groups keep their sizes.
    """
    keys, key_of = np.unique(membership, axis=0, return_inverse=True)
    paired = np.concatenate(list(both), axis=-1)
    blocks = [paired[key_of.ravel() == key][:, None] for key in range(len(keys))]
    drawn = resample(blocks, generator, num_resamples=NUM_RESAMPLES).replicates
    by_group = np.einsum("rkc,kg->rgc", drawn, keys)
    return (
        GroupSums(np.einsum("brc,rg->bgc", both, membership)),
        GroupSums(np.stack(np.split(by_group, 2, axis=-1))),
    )


def _across(name: str, metric: _Paired, counts: Array) -> dict[str, Any]:
    """Spread and means over groups, before and after; U is corrected for noise."""
    worst = np.max if name.startswith("kl") else np.min
    least, total = int(counts.min()), int(counts.sum())
    corrected = [
        GroupValues(
            values=values, replicates=drawn, num_documents=counts, num_requests=total
        ).value("unfairness")
        for values, drawn in zip(metric.observed, metric.resampled, strict=True)
    ]
    return {
        "mean": metric.change(lambda values: values.mean(-1), least),
        "worst": metric.change(lambda values: worst(values, -1), least),
        "ratio": metric.change(ratio, least),
        "unfairness": {"before": corrected[0], "after": corrected[1]},
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
