"""Whether observed texts follow a law that was enumerated."""

import torch

from lm_eval_specfair.conformance import reference


def goodness_of_fit(observed: torch.Tensor, law: torch.Tensor) -> float:
    """p-value of Pearson's test; rare texts are put together, impossible ones must not occur."""
    assert observed[law == 0].sum() == 0
    return reference.goodness_of_fit(observed, law)
