"""The closed forms: values worked by hand, limits, and the model simulated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.metrics.definitions.closed_forms import (
    expected_tokens_per_step,
    modelled_speedup,
    textbook_speedup,
)


@pytest.mark.parametrize(
    ("alpha", "gamma", "tokens"),
    [
        (0.0, 4, 1.0),  # nothing is ever accepted
        (1.0, 4, 5.0),  # everything is, and the bonus token comes on top
        (0.7, 0, 1.0),  # plain decoding
        (0.5, 2, 1.75),  # 1 + 1/2 + 1/4
        (0.9, 3, 3.439),  # 1 + .9 + .81 + .729
    ],
)
def test_tokens_per_step_by_hand(alpha, gamma, tokens):
    assert expected_tokens_per_step(alpha, gamma) == pytest.approx(tokens, rel=1e-15)


@given(st.floats(0, 0.99), st.integers(0, 30))
@settings(deadline=None)
def test_tokens_per_step_equal_the_geometric_quotient(alpha, gamma):
    quotient = (1 - alpha ** (gamma + 1)) / (1 - alpha)

    assert expected_tokens_per_step(alpha, gamma) == pytest.approx(quotient, rel=1e-12)


def test_tokens_per_step_keep_their_digits_near_certainty():
    # 1 + a + a^2 with a = 1 - e is 3 - 3 e + e^2; the quotient has no digit of e left.
    assert 3 - expected_tokens_per_step(1 - 1e-15, 2) == pytest.approx(3e-15, rel=0.2)


def test_simulated_steps_emit_the_expected_tokens():
    generator = np.random.default_rng(0)
    alpha, gamma, steps = 0.6, 4, 100_000
    kept = (generator.random((steps, gamma)) < alpha).cumprod(axis=1).sum(axis=1)
    emitted = kept + 1

    standard_error = emitted.std() / steps**0.5
    assert abs(emitted.mean() - expected_tokens_per_step(alpha, gamma)) < 4 * standard_error


@pytest.mark.parametrize(
    ("alpha", "gamma", "cost", "speedup"),
    [
        (0.0, 4, 0.25, 0.5),  # all drafting is in vain: 1 / (4 / 4 + 1)
        (1.0, 3, 0.0, 4.0),  # free and always right
        (0.5, 2, 0.125, 1.4),  # 1.75 / 1.25
    ],
)
def test_textbook_speedup_by_hand(alpha, gamma, cost, speedup):
    assert textbook_speedup(alpha, gamma, cost) == pytest.approx(speedup, rel=1e-15)


def test_one_drafted_token_breaks_even_where_its_cost_is_its_chance():
    # (1 + alpha) / (1 + c) = 1 at c = alpha.
    assert textbook_speedup(0.3, 1, 0.3) == pytest.approx(1.0)


def test_modelled_speedup_by_hand():
    # A step costs 4 * 0.1 + 1.5 + 0.1 = 2 plain passes and emits 3 tokens.
    speedup = modelled_speedup(
        3.0,
        num_draft_tokens_per_step=4,
        cost_ratio=0.1,
        verify_cost_ratio=1.5,
        host_overhead_ratio=0.1,
    )

    assert speedup == pytest.approx(1.5)


@given(st.floats(1, 10), st.integers(0, 9), st.floats(0, 1), st.floats(1, 3), st.floats(0, 1))
@settings(deadline=None)
def test_no_speedup_exceeds_the_tokens_per_step(length, gamma, cost, verify, host):
    speedup = modelled_speedup(
        length,
        num_draft_tokens_per_step=gamma,
        cost_ratio=cost,
        verify_cost_ratio=verify,
        host_overhead_ratio=host,
    )

    assert speedup <= length


@pytest.mark.parametrize(("alpha", "gamma"), [(-0.1, 4), (1.1, 4), (float("nan"), 4), (0.5, -1)])
def test_what_is_no_chance_and_no_count_is_refused(alpha, gamma):
    with pytest.raises(ValueError, match="must"):
        expected_tokens_per_step(alpha, gamma)


@pytest.mark.parametrize("change", [{"cost_ratio": -1}, {"host_overhead_ratio": -3}])
def test_a_step_that_costs_nothing_is_refused(change):
    costs = {"cost_ratio": 0.1, "verify_cost_ratio": 1.0, "host_overhead_ratio": 0.0} | change

    with pytest.raises(ValueError, match="must"):
        modelled_speedup(2.0, num_draft_tokens_per_step=4, **costs)


def test_a_step_without_a_token_is_refused():
    with pytest.raises(ValueError, match="mean_acceptance_length must be at least 1"):
        modelled_speedup(
            0.5,
            num_draft_tokens_per_step=4,
            cost_ratio=0.1,
            verify_cost_ratio=1.0,
            host_overhead_ratio=0.0,
        )
