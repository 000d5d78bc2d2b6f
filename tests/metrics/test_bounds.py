"""Theorems 1 and 2: true for random distributions, sharp where they should be, and clipped."""

import numpy as np
import pytest

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.definitions.bounds import (
    BOUNDS,
    bretagnolle_huber_bound,
    overlap_range,
    pinsker_bound,
)
from lm_eval_specfair.metrics.definitions.closed_forms import textbook_speedup

from support.synthetic_records import GREEDY, addends, generation, scored

GENERATOR = np.random.default_rng(0)


def distributions(count, size, sharpness):
    return GENERATOR.dirichlet(np.full(size, sharpness), count)


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 5.0])
def test_theorem_1_holds_for_random_distributions(sharpness):
    p, q = distributions(3_000, 8, sharpness), distributions(3_000, 8, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(p > 0, p * np.log(p / q), 0).sum(1)
        cross_entropy = np.where(p > 0, -p * np.log(q), 0).sum(1)
    overlap = np.minimum(p, q).sum(1)

    assert (pinsker_bound(kl) <= overlap + 1e-12).all()
    assert (bretagnolle_huber_bound(kl) <= overlap + 1e-12).all()
    assert (pinsker_bound(cross_entropy) <= pinsker_bound(kl) + 1e-12).all()
    # On average over positions too, by Jensen's inequality.
    assert pinsker_bound(kl.mean()) <= overlap.mean()
    assert bretagnolle_huber_bound(kl.mean()) <= overlap.mean()


def test_the_bounds_are_those_of_the_method():
    # The table in the derivation: Pinsker .500 .293 0 0, Bretagnolle-Huber .373 .205 .070 .025.
    kl = np.array([0.5, 1.0, 2.0, 3.0])

    assert pinsker_bound(kl) == pytest.approx([0.5, 0.293, 0, 0], abs=5e-4)
    assert bretagnolle_huber_bound(kl) == pytest.approx([0.373, 0.205, 0.070, 0.025], abs=5e-4)
    assert bretagnolle_huber_bound(1.594) == pytest.approx(pinsker_bound(1.594), abs=1e-3)


def test_without_clipping_the_printed_bound_would_be_false():
    # p = (1 - 1e-7, 1e-7), q reversed, two drafted tokens: D is 16.1 nats, the truth 1.
    bound = 1 - np.sqrt(16.1 / 2)
    assert 1 + bound + bound**2 > 2.5
    assert pinsker_bound(np.array(16.1)) == 0


def test_theorem_2_holds_and_is_not_monotone():
    p, q, pi = (distributions(3_000, 6, 0.5) for _ in range(3))

    def variation(a, b):
        return np.abs(a - b).sum(1) / 2

    low, high = overlap_range(variation(p, pi), variation(q, pi))
    overlap = np.minimum(p, q).sum(1)
    assert ((low <= overlap + 1e-12) & (overlap <= high + 1e-12)).all()
    # The fitter drafter of the two is accepted less often: .58 against .95.
    p, q1, q2 = (np.array(each) for each in ((0.7, 0.3), (0.75, 0.25), (0.28, 0.72)))
    assert np.abs(q2 - 0.5).sum() < np.abs(q1 - 0.5).sum()
    assert np.minimum(p, q2).sum() < np.minimum(p, q1).sum()


def test_bounds_of_records_by_hand():
    sampled = generation(
        "t",
        0,
        settings=type(GREEDY)(num_speculative_tokens=4, temperature=1.0, top_k=None, top_p=None),
        baseline_seconds=0.9,
        baseline_generated_tokens=30,
    )
    given = scored(
        "t",
        1,
        overlap_sum=14.0,
        kl_sum=10.0,
        cross_entropy_sum=20.0,
        target_entropy_sum=10.0,
        num_distribution_positions=20,
        target_reference_probability_sum=12.0,
        drafter_reference_probability_sum=9.0,
    )
    sums = Sums(addends(sampled) + addends(given))
    found = {metric.name: float(metric.evaluate(sums, sums)) for metric in BOUNDS}

    # KL .5 and D 1.5 nats, overlap .75; c = 1/12; misfits .4 and .55.
    assert found["overlap_bound_pinsker"] == pytest.approx(0.5)
    assert found["overlap_bound_cross_entropy"] == pytest.approx(1 - 0.75**0.5)
    assert found["overlap_bound_kl"] == pytest.approx(0.5)
    for name, overlap in (("total_variation", 0.75), ("pinsker", 0.5), ("kl", 0.5)):
        assert found[f"speedup_bound_{name}"] == pytest.approx(textbook_speedup(overlap, 4, 1 / 12))
    assert found["scored_overlap_bound_low"] == pytest.approx(0.05)
    assert found["scored_overlap_bound_high"] == pytest.approx(0.85)
