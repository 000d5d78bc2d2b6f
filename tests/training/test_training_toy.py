"""A toy whose right answer is known: one distribution has to serve two groups.

The drafter has no context at all, so whatever it learns is a single q for the target's p_a and p_b.
The optimum of `w_a KL(p_a || q) + w_b KL(p_b || q)` is then the mixture `w_a p_a + w_b p_b`, and
every weighting has an end that can be computed without training: by a root on the line between p_a
and p_b, or by a general optimiser.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from lm_eval_specfair.training.group_sums import GroupSums
from lm_eval_specfair.training.losses import DIVERGENCES, chunked_loss
from lm_eval_specfair.training.weighting import parse

# One peaked, one flat: the fair point is not the middle.
P = np.array([[0.97, 0.01, 0.01, 0.01], [0.40, 0.20, 0.20, 0.20]])
TOKENS = np.array([900.0, 100.0])
STEPS, RATE = 400, 1.5


class Both:
    """Positions 0 and 1 are those of the two groups."""

    def outcomes(self, chunk, drafter_scores):
        return torch.from_numpy(P).log()[chunk], drafter_scores.log_softmax(-1)


def sums_of(measured: np.ndarray) -> GroupSums:
    ones = np.ones(2)
    return GroupSums(np.column_stack([ones, ones, measured]))


def trained(weighting: str, steps: int = STEPS) -> np.ndarray:
    """Where plain gradient descent with these weights ends; it starts at the data's own mixture."""
    start = torch.from_numpy((TOKENS / TOKENS.sum()) @ P).log()
    scores = start[:, None].clone().requires_grad_()  # a head over a hidden state that is always 1
    hidden = torch.ones(2, 1, dtype=torch.float64)
    rule = parse(weighting)
    with torch.no_grad():
        _, measured = chunked_loss(
            hidden, scores, None, torch.zeros(2), Both(), DIVERGENCES["forward-kl"]
        )
    rule.start(("a", "b"), TOKENS, sums_of(measured.numpy()))
    for step in range(steps):
        weights = torch.from_numpy(rule.weights())
        loss, measured = chunked_loss(
            hidden, scores, None, weights, Both(), DIVERGENCES["forward-kl"]
        )
        (gradient,) = torch.autograd.grad(loss, scores)
        with torch.no_grad():
            scores -= RATE * (1 - step / steps) * gradient
        rule.observe(sums_of(measured.numpy()))
    return scores.detach()[:, 0].softmax(0).numpy()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def mixture(share: float) -> np.ndarray:
    return share * P[0] + (1 - share) * P[1]


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.minimum(p, q).sum())


@pytest.mark.parametrize(
    ("weighting", "share"),
    [
        ("balanced", 0.5),
        ("mix", 0.9),
        # 9 to 1 to the power of a half is 3 to 1.
        ("temperature:temperature=2", 0.75),
        # (1 - 0.99^900) / (1 - 0.99^100) of the weight of b.
        ("class-balanced:beta=0.99", 1 / (1 + (1 - 0.99**900) / (1 - 0.99**100))),
    ],
)
def test_fixed_weights_end_at_their_mixture(weighting, share):
    assert trained(weighting) == pytest.approx(mixture(share), abs=2e-3)


WEIGHED = "s-cdf:apply=loss,signal=kl"
FAIR = brentq(lambda x: kl(P[0], mixture(x)) - kl(P[1], mixture(x)), 1e-6, 1 - 1e-6)


@pytest.mark.parametrize(
    "weighting",
    [
        f"{WEIGHED},floor=0,smoothing=0.5",
        "clip:smoothing=0.5",
        "worst-only:smoothing=0.5",
        "dro:rate=0.2",
    ],
)
def test_adaptive_weights_end_where_both_groups_fit_equally_well(weighting):
    # The minimax point, as of Blahut and Arimoto: the mixture with equal divergences.
    q = trained(weighting)
    assert q == pytest.approx(mixture(FAIR), abs=0.02)
    assert kl(P[0], q) == pytest.approx(kl(P[1], q), abs=0.06)


def test_the_fair_point_is_none_of_the_fixed_ones():
    assert abs(FAIR - 0.5) > 0.03
    assert abs(kl(P[0], mixture(0.5)) - kl(P[1], mixture(0.5))) > 0.05


def test_a_floor_stops_between_balance_and_the_fair_point():
    # Equal fit needs weights of 0.56 and 0.44. A floor of 0.3 leaves them [0.15, 0.85], one of 0.98
    # only [0.49, 0.51].
    assert trained(f"{WEIGHED},smoothing=0.5") == pytest.approx(mixture(FAIR), abs=0.02)
    assert trained(f"{WEIGHED},floor=0.98") == pytest.approx(mixture(0.51), abs=3e-3)


def test_the_variance_penalty_ends_at_the_minimum_of_mean_plus_variance():
    strength = 0.8

    def objective(scores):
        q = np.exp(scores) / np.exp(scores).sum()
        both = np.array([kl(p, q) for p in P])
        return both.mean() + strength * both.var()

    found = minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-10}).x
    expected = np.exp(found) / np.exp(found).sum()
    ended = trained(f"variance:strength={strength},smoothing=0.1", 800)
    assert ended == pytest.approx(expected, abs=5e-3)
    assert kl(P[0], expected) != pytest.approx(kl(P[1], expected), abs=0.02)


def test_the_constraint_binds_exactly_where_fairness_would_cost_too_much():
    # From the data's mixture, the fair point would take much of a's overlap; 5% are allowed.
    start, epsilon = overlap(P[0], mixture(0.9)), 0.05
    bound = (1 - epsilon) * start
    assert overlap(P[0], mixture(FAIR)) < bound - 0.05
    expected = brentq(lambda x: overlap(P[0], mixture(x)) - bound, FAIR, 0.999)
    q = trained(f"constrained:epsilon={epsilon},floor=0,smoothing=0.5", 800)
    assert overlap(P[0], q) == pytest.approx(bound, abs=1e-4)
    assert q == pytest.approx(mixture(expected), abs=1e-3)


def test_the_signed_form_levels_down():
    # U falls to 0, but where? Both groups end worse than at the fair point, which has U = 0 too.
    q = trained("signed:smoothing=0.5", 800)
    both, fair = [kl(p, q) for p in P], kl(P[0], mixture(FAIR))
    start = [kl(p, mixture(0.9)) for p in P]
    assert np.var(both) < 0.05 * np.var(start)
    assert min(both) > fair - 1e-3


def test_groups_that_can_both_be_served_are_both_served():
    # Where q may depend on the group, every sane weighting ends at q = p for both.
    for weighting in ("s-cdf:apply=loss", "clip:floor=0.1", "balanced", "dro"):
        scores = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
        rule = parse(weighting)
        rule.start(("a", "b"), TOKENS, sums_of(np.array([[0.5, 2.0, 1.0], [0.5, 1.5, 1.0]])))
        for _ in range(400):
            weights = torch.from_numpy(rule.weights())
            loss, measured = chunked_loss(
                torch.eye(2, dtype=torch.float64),
                scores,
                None,
                weights,
                Both(),
                DIVERGENCES["forward-kl"],
            )
            (gradient,) = torch.autograd.grad(loss, scores)
            with torch.no_grad():
                scores -= 2.0 * gradient
            rule.observe(sums_of(measured.numpy()))
        ended = scores.detach().softmax(0).T.numpy()
        assert ended == pytest.approx(P, abs=0.03), weighting
