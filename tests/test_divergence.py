import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.divergence import cross_entropy, entropy, kl, overlap

NOTHING = -torch.inf


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


@st.composite
def pairs_of_distributions(draw, *, holes: bool):
    """log p and log q over 2 to 12 tokens, with tokens of no mass if `holes`."""
    size = draw(st.integers(2, 12))
    lowest = 0.0 if holes else 1e-3
    weights = st.lists(
        st.one_of(st.just(lowest), st.floats(1e-3, 1.0)), min_size=size, max_size=size
    ).filter(any)
    p, q = (torch.tensor(draw(weights), dtype=torch.float64) for _ in range(2))
    return (p / p.sum()).log(), (q / q.sum()).log()


def test_worked_values():
    p, q = logs(0.5, 0.25, 0.25), logs(0.25, 0.25, 0.5)
    # min: 0.25 + 0.25 + 0.25. CE: 0.5 * ln 4 + 0.25 * ln 4 + 0.25 * ln 2 = 1.75 ln 2.
    assert overlap(p, q).item() == pytest.approx(0.75)
    assert cross_entropy(p, q).item() == pytest.approx(1.75 * math.log(2))
    assert entropy(p).item() == pytest.approx(1.5 * math.log(2))
    assert kl(p, q).item() == pytest.approx(0.25 * math.log(2))


def test_kl_of_a_coin_has_its_closed_form_and_is_not_symmetric():
    p, q = logs(0.9, 0.1), logs(0.5, 0.5)
    assert kl(p, q).item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert kl(q, p).item() == pytest.approx(0.5 * math.log(5 / 9) + 0.5 * math.log(5))


def test_uniform_distributions_have_the_entropy_of_their_size():
    for size in (1, 2, 7, 1000):
        assert entropy(torch.zeros(size).log_softmax(-1)).item() == pytest.approx(
            math.log(size), abs=1e-5
        )


@settings(deadline=None)
@given(pairs_of_distributions(holes=True))
def test_overlap_is_one_minus_the_total_variation_distance(pair):
    p, q = pair
    distance = 0.5 * (p.exp() - q.exp()).abs().sum()
    assert overlap(p, q).item() == pytest.approx(1 - distance.item(), abs=1e-12)


@settings(deadline=None)
@given(pairs_of_distributions(holes=True))
def test_overlap_does_not_depend_on_which_is_the_target(pair):
    p, q = pair
    assert overlap(p, q).item() == overlap(q, p).item()


@settings(deadline=None)
@given(pairs_of_distributions(holes=True))
def test_kl_is_not_negative_and_never_nan(pair):
    divergence = kl(*pair).item()
    assert divergence >= -1e-12  # false for NaN


@settings(deadline=None)
@given(pairs_of_distributions(holes=True))
def test_kl_is_infinite_exactly_where_the_drafter_lacks_a_token_of_the_target(pair):
    p, q = pair
    lacks = bool(((q == NOTHING) & (p > NOTHING)).any())
    assert math.isinf(kl(p, q).item()) == lacks
    assert math.isinf(cross_entropy(p, q).item()) == lacks


@settings(deadline=None)
@given(pairs_of_distributions(holes=False))
def test_kl_is_the_mean_log_ratio(pair):
    p, q = pair
    assert kl(p, q).item() == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-12)


@settings(deadline=None)
@given(pairs_of_distributions(holes=False))
def test_pinsker_bounds_the_overlap_by_the_divergence(pair):
    p, q = pair
    assert 1 - overlap(p, q).item() <= math.sqrt(max(kl(p, q).item(), 0) / 2) + 1e-9


@settings(deadline=None)
@given(pairs_of_distributions(holes=True))
def test_a_distribution_does_not_differ_from_itself(pair):
    p, _ = pair
    assert overlap(p, p).item() == pytest.approx(1)
    assert kl(p, p).item() == 0
    assert cross_entropy(p, p).item() == entropy(p).item()


def test_disjoint_distributions_share_nothing():
    p, q = logs(0.5, 0.5, 0.0), logs(0.0, 0.0, 1.0)
    assert overlap(p, q).item() == 0
    assert kl(p, q).item() == math.inf


def test_a_token_that_the_target_never_emits_adds_nothing():
    wide, narrow = logs(0.5, 0.5, 0.0), logs(0.5, 0.5)
    for share in (0.0, 0.2):
        q = logs((1 - share) / 2, (1 - share) / 2, share)
        assert cross_entropy(wide, q).item() == pytest.approx(
            cross_entropy(narrow, q[:2]).item(), abs=1e-12
        )
        assert overlap(wide, q).item() == pytest.approx(1 - share)
    assert entropy(wide).item() == pytest.approx(entropy(narrow).item())


def test_a_token_whose_probability_underflows_adds_nothing():
    # exp(-200) is 0 in fp32, though its logarithm is finite: 0 * -inf must not become NaN.
    p, q = torch.tensor([0.0, -200.0]), torch.tensor([0.0, NOTHING])
    assert cross_entropy(p, q).item() == 0
    assert kl(p, q).item() == 0
    assert entropy(p).item() == 0


def test_positions_are_measured_one_by_one():
    p = torch.stack([logs(0.5, 0.5), logs(0.9, 0.1)])[None]
    q = torch.stack([logs(0.5, 0.5), logs(0.5, 0.5)])[None]
    for measure in (overlap, cross_entropy, kl):
        assert measure(p, q).shape == (1, 2)
        assert measure(p, q)[0, 1] == measure(p[0, 1], q[0, 1])
    assert entropy(p).shape == (1, 2)


@pytest.mark.parametrize("measure", [overlap, cross_entropy, kl])
def test_two_vocabularies_are_refused_with_the_likely_cause(measure):
    with pytest.raises(ValueError, match=r"got \(2, 5\) and \(2, 6\).*different vocabularies"):
        measure(torch.zeros(2, 5), torch.zeros(2, 6))
