"""Runs drawn from the model of speculative decoding, as sums by document: thousands in a minute."""

from collections.abc import Sequence

import numpy as np

from lm_eval_specfair.metrics.aggregate.sums import COLUMNS
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun, resample_alike

STEPS = "mean_acceptance_length"


def drawn_runs(
    rates: Sequence[Sequence[float]],
    generator: np.random.Generator,
    *,
    num_documents: int = 20,
    is_parallel: bool = True,
    hardness: float = 0.08,
    num_resamples: int = 300,
) -> list[MeasuredRun]:
    """Runs of the same documents.

    Args:
        rates: For each run, each group's mean acceptance rate.
        generator: Source of all randomness.
        num_documents: In each group.
        is_parallel: Whether groups are translations: then a document's hardness is shared by all
            groups, else only by all runs.
        hardness: Its standard deviation, on the rates.
        num_resamples: As in a comparison.
    """
    num_groups, gamma = len(rates[0]), 4
    shape = (num_documents, 1 if is_parallel else num_groups)
    shared = generator.normal(0, hardness, shape) * np.ones((1, num_groups))
    steps = generator.integers(8, 20, (num_documents, num_groups))
    of_runs = []
    for run_rates in rates:
        chances = np.clip(np.asarray(run_rates) + shared, 0.02, 0.98)
        kept = generator.geometric(1 - chances, (20, num_documents, num_groups)) - 1
        used = np.arange(20)[:, None, None] < steps
        accepted = (np.minimum(kept, gamma) * used).sum(0)
        sums = np.zeros((num_documents, num_groups, len(COLUMNS)))
        for column, values in {
            "requests": np.ones_like(steps),
            f"{STEPS}.numerator": steps + accepted,
            f"{STEPS}.denominator": steps,
            f"{STEPS}.requests": np.ones_like(steps),
        }.items():
            sums[..., COLUMNS.index(column)] = values
        of_runs.append([sums] if is_parallel else [sums[:, [g]] for g in range(num_groups)])
    numbers = {f"g{group}": group for group in range(num_groups)}
    resampled = resample_alike(of_runs, generator, num_resamples)
    return [
        MeasuredRun(name=f"run{place}", resampled=each, numbers=numbers)
        for place, each in enumerate(resampled)
    ]


def expected_length(rates: Sequence[float], hardness: float = 0.08) -> np.ndarray:
    """Tokens per step that `drawn_runs` gives on average, by numerical integration."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    chances = np.clip(np.asarray(rates)[:, None] + hardness * nodes, 0.02, 0.98)
    lengths = sum(chances**k for k in range(5))
    return lengths @ weights / weights.sum()
