"""Whether observed texts follow a law that was enumerated."""

import torch
from scipy.stats import chisquare


def goodness_of_fit(observed: torch.Tensor, law: torch.Tensor) -> float:
    """p-value of Pearson's test; rare texts are put together, impossible ones must not occur."""
    assert observed[law == 0].sum() == 0
    expected = law * observed.sum()
    rare = (expected < 5) & (law > 0)
    common = expected >= 5
    counts, means = observed[common].tolist(), expected[common].tolist()
    if expected[rare].sum() > 0:
        counts.append(float(observed[rare].sum()))
        means.append(float(expected[rare].sum()))
    return float(chisquare(counts, means, sum_check=False).pvalue)
