"""The maths of group weighting, against autograd, closed forms and brute force."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.group_sums import COLUMNS, GroupSums
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.weighting import RULES, Weighting, WeightingConfig, parse
from lm_eval_specfair.training.weighting.base import GroupStates, normalised
from lm_eval_specfair.training.weighting.baselines import (
    GroupDro,
    balanced,
    class_balanced,
    cvar,
    focal,
    temperature,
    worst_only,
)
from lm_eval_specfair.training.weighting.constrained import Constrained
from lm_eval_specfair.training.weighting.s_cdf import clip, shift, signed, variance


def groups(misfit, overlap=None, num_tokens=None):
    m = len(misfit)
    return GroupStates(
        names=tuple("abcdefghij"[:m]),
        misfit=np.array(misfit, dtype=float),
        overlap=np.array(overlap if overlap is not None else [0.5] * m, dtype=float),
        num_tokens=np.array(num_tokens if num_tokens is not None else [100] * m, dtype=float),
    )


def sums(kl, *, entropy=1.0, overlap=0.5, num_tokens=10.0, bytes_per_token=2.0) -> GroupSums:
    """Sums of groups with these means per token."""
    kl = np.array(kl, dtype=float)
    columns = {
        "num_tokens": np.broadcast_to(num_tokens, kl.shape),
        "num_bytes": np.broadcast_to(np.multiply(num_tokens, bytes_per_token), kl.shape),
        "cross_entropy": (kl + entropy) * num_tokens,
        "entropy": np.broadcast_to(np.multiply(entropy, num_tokens), kl.shape),
        "overlap": np.broadcast_to(np.multiply(overlap, num_tokens), kl.shape),
    }
    return GroupSums(np.stack([columns[name] for name in COLUMNS], -1))


def started(spelled: str, probed: GroupSums, num_tokens=None) -> Weighting:
    weighting = parse(spelled)
    m = len(probed.values)
    weighting.start(tuple("abcdefghij"[:m]), np.array(num_tokens or [100.0] * m), probed)
    return weighting


# ---------------------------------------------------------------- gradients, by autograd


def losses_of_groups(theta: torch.Tensor) -> torch.Tensor:
    """Five smooth functions of the same six parameters, one for each group."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return (mixing @ theta).exp() + (mixing.roll(1, 0) @ theta.sin()) ** 2


@pytest.fixture
def theta():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()


def descent(rule, theta):
    """`sum_T w_T grad e_T` with the rule's weights as constants."""
    misfit = losses_of_groups(theta)
    weights = torch.from_numpy(rule(groups(misfit.detach().tolist())))
    return torch.autograd.grad((weights * misfit).sum(), theta)[0]


def gradient(of, theta):
    return torch.autograd.grad(of(losses_of_groups(theta)), theta)[0]


def test_the_signed_form_descends_on_the_variance_exactly(theta):
    # U with its mean differentiated too: autograd knows nothing of a dropped term.
    expected = gradient(lambda e: ((e - e.mean()) ** 2).mean(), theta)
    m = 5
    torch.testing.assert_close(descent(signed, theta), expected * m / 2, rtol=1e-9, atol=1e-9)


def test_shift_by_minimum_is_the_variance_plus_an_adaptive_penalty_of_the_mean(theta):
    e = losses_of_groups(theta).detach()
    grad_u = gradient(lambda e: ((e - e.mean()) ** 2).mean(), theta)
    grad_mean = gradient(lambda e: e.mean(), theta)
    expected = 5 / 2 * (grad_u + 2 * (e.mean() - e.min()) * grad_mean)
    torch.testing.assert_close(descent(shift, theta), expected, rtol=1e-9, atol=1e-9)


def test_clip_is_the_semi_variance_plus_mad_times_the_mean(theta):
    e = losses_of_groups(theta).detach()
    grad_semi = gradient(lambda e: ((e - e.mean()).clamp(min=0) ** 2).mean(), theta)
    grad_mean = gradient(lambda e: e.mean(), theta)
    mean_absolute_deviation = (e - e.mean()).abs().mean()
    expected = 5 / 2 * (grad_semi + mean_absolute_deviation * grad_mean)
    torch.testing.assert_close(descent(clip, theta), expected, rtol=1e-9, atol=1e-9)


def test_the_variance_penalty_descends_on_mean_plus_lambda_variance(theta):
    expected = gradient(lambda e: e.mean() + 0.7 * e.var(unbiased=False), theta)
    found = descent(partial(variance, strength=0.7), theta) / 5
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("rule", [shift, clip, worst_only])
def test_with_two_groups_only_the_worse_is_trained(rule):
    assert normalised(rule(groups([0.4, 1.9]))).tolist() == [0.0, 1.0]


def test_rules_tell_three_groups_apart():
    three = groups([1.0, 2.0, 4.0])
    # min 1; mean 7/3.
    assert normalised(shift(three)).tolist() == pytest.approx([0, 1 / 4, 3 / 4])
    assert normalised(clip(three)).tolist() == [0, 0, 1]
    assert normalised(signed(three)) == pytest.approx(np.array([-4, -1, 5]) / 10)
    assert normalised(shift(three), floor=0.3) == pytest.approx([0.1, 0.275, 0.625])


def test_equal_groups_get_equal_weights():
    for rule in (
        shift,
        clip,
        signed,
        worst_only,
        partial(
            cvar,
        ),
        GroupDro(),
    ):
        assert normalised(rule(groups([2.0, 2.0, 2.0]))) == pytest.approx([1 / 3] * 3)


def test_cvar_is_the_most_that_any_weights_below_its_bound_can_make_of_the_misfit():
    # The dual form: the largest weighted mean with no weight above 1 / (share m), by a solver.
    misfit = np.random.default_rng(0).uniform(size=7)
    for share in (1 / 7, 0.3, 0.5, 0.95, 1.0):
        weights = normalised(partial(cvar, share=share)(groups(misfit)))
        bound = 1 / (share * 7)
        theirs = optimize.linprog(-misfit, A_eq=np.ones((1, 7)), b_eq=[1], bounds=(0, bound))
        assert weights @ misfit == pytest.approx(-theirs.fun)
        assert weights.max() <= bound + 1e-12


def test_cvar_lies_between_the_worst_group_and_all_alike():
    uneven = groups([1.0, 4.0, 2.0, 4.0])
    assert cvar(uneven, share=0.25).tolist() == [0, 0.5, 0, 0.5]  # a tie shares
    assert normalised(cvar(uneven, share=0.1)).tolist() == [0, 0.5, 0, 0.5]
    assert cvar(uneven, share=0.75).tolist() == [0, 1, 1, 1]
    assert cvar(uneven, share=1.0).tolist() == balanced(uneven).tolist()


def test_class_balanced_counts_effective_samples_by_brute_force():
    # The effective number is a geometric series, 1 + beta + ... + beta^(n - 1).
    beta, counts = 0.9, [1, 3, 40]
    series = [sum(beta**k for k in range(n)) for n in counts]
    weights = class_balanced(groups([1, 1, 1], num_tokens=counts), beta=beta)
    assert weights == pytest.approx([1 / each for each in series])


def test_class_balanced_keeps_its_digits_where_beta_is_near_one():
    # For beta -> 1 the effective number is the number.
    weights = class_balanced(groups([1, 1], num_tokens=[1000, 10]), beta=1 - 1e-12)
    assert weights[1] / weights[0] == pytest.approx(100, rel=1e-6)


def test_temperature_lies_between_the_mix_and_balance():
    data = groups([1, 1], num_tokens=[800, 200])
    assert normalised(temperature(data, temperature=1.0)) == pytest.approx([0.8, 0.2])
    assert normalised(temperature(data, temperature=2.0)) == pytest.approx([2 / 3, 1 / 3])
    assert normalised(temperature(data, temperature=1e9)) == pytest.approx([0.5, 0.5])


def test_focal_weights_are_powers_of_the_chance_of_rejection():
    weights = focal(groups([1, 1], overlap=[0.8, 0.4]), gamma=2)
    assert weights == pytest.approx([0.04, 0.36])
    assert focal(groups([1, 1], overlap=[0.8, 0.4]), gamma=0).tolist() == [1, 1]


def test_group_dro_is_exponentiated_gradient_by_brute_force():
    rule, g = GroupDro(rate=0.3), np.full(3, 1 / 3)
    for misfit in ([1.0, 2.0, 0.5], [0.9, 1.0, 1.1], [3.0, 0.1, 0.2]):
        found = normalised(rule(groups(misfit)))
        g = g * np.exp(0.3 * np.array(misfit))
        g /= g.sum()
        assert found == pytest.approx(g)


def test_group_dro_does_not_overflow():
    rule = GroupDro(rate=50.0)
    for _ in range(100):
        weights = rule(groups([100.0, 1.0]))
    assert weights.tolist() == [1.0, 0.0]


def test_the_dual_variable_grows_while_the_dominant_group_is_below_its_bound():
    rule = Constrained(balanced, epsilon=0.1, rate=2.0, floor=0.0)
    at = lambda overlap: groups([1, 1], overlap=[overlap, 0.3], num_tokens=[900, 100])  # noqa: E731
    assert rule(at(0.8)) == pytest.approx([0.5, 0.5])  # the start: nothing is missing
    assert rule(at(0.72)) == pytest.approx([0.5, 0.5])  # just at 90%
    # 0.08 below the bound of 0.72 is a tenth of the start; 2.0 * 0.1.
    assert rule(at(0.64)) == pytest.approx([0.7, 0.5])
    assert rule(at(0.64)) == pytest.approx([0.9, 0.5])
    # Above the bound it falls again, and never below 0.
    assert rule(at(0.80)) == pytest.approx([0.7, 0.5])
    for _ in range(9):
        weights = rule(at(0.80))
    assert weights == pytest.approx([0.5, 0.5])


def test_the_protected_group_can_be_named_and_must_exist():
    rule = Constrained(balanced, dominant="b", epsilon=0.0, rate=1.0, floor=0.0)
    rule(groups([1, 1], overlap=[0.9, 0.5], num_tokens=[900, 100]))
    weights = rule(groups([1, 1], overlap=[0.1, 0.25], num_tokens=[900, 100]))
    assert weights == pytest.approx([0.5, 1.0])
    with pytest.raises(ConfigError, match=r"dominant.*'zz'.*a, b"):
        Constrained(balanced, dominant="zz")(groups([1, 1]))


# ---------------------------------------------------------------- invariants


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=25)
@given(
    data=st.lists(
        st.tuples(st.floats(0.01, 5), st.floats(0.05, 0.95), st.integers(1, 10**6)),
        min_size=2,
        max_size=7,
    ),
    random=st.randoms(use_true_random=False),
)
def test_weights_do_not_depend_on_the_order_of_groups(name, data, random):
    order = list(range(len(data)))
    random.shuffle(order)
    names = tuple(f"g{n}" for n in range(len(data)))

    def weights_after_three_steps(places):
        kl, overlap, num_tokens = (np.array(x, dtype=float) for x in zip(*data, strict=True))
        weighting = parse(name if name != "constrained" else "constrained:dominant=g0")
        at = lambda scale: sums(kl * scale, overlap=overlap, num_tokens=num_tokens)  # noqa: E731
        pick = lambda each: GroupSums(each.values[places])  # noqa: E731
        weighting.start(tuple(names[p] for p in places), num_tokens[places], pick(at(1.0)))
        for scale in (0.9, 0.5, 0.7):
            weighting.observe(pick(at(scale)))
            weights = weighting.weights()
        return weights

    plain = weights_after_three_steps(list(range(len(data))))
    assert weights_after_three_steps(order) == pytest.approx(plain[order], abs=1e-9)
    assert np.abs(plain).sum() == pytest.approx(1, abs=1e-9) or name == "signed"


@settings(deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=9),
    st.floats(0, 1),
)
def test_the_floor_guarantees_each_group_its_share(weights, floor):
    found = normalised(np.maximum(np.array(weights), 0), floor)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= floor / len(weights) - 1e-12


# ---------------------------------------------------------------- signals


def test_the_signal_is_what_was_asked_for():
    probed = sums([0.5, 1.0], entropy=np.array([3.0, 1.0]), overlap=np.array([0.9, 0.6]))
    # KL puts b above a, the cross-entropy a above b: entropies differ.
    assert started("worst-only", probed).weights().tolist() == [0, 1]
    assert started("worst-only:signal=cross-entropy", probed).weights().tolist() == [1, 0]
    assert started("worst-only:signal=tv", probed).weights().tolist() == [0, 1]


def test_per_byte_turns_the_order_round_where_tokens_are_short():
    # Per token b fits worse; but its tokens stand for ten bytes each, those of a for one.
    probed = sums([0.5, 1.0], bytes_per_token=np.array([1.0, 10.0]))
    assert started("worst-only", probed).weights().tolist() == [0, 1]
    assert started("worst-only:unit=byte", probed).weights().tolist() == [1, 0]


def test_the_running_signal_is_an_exponential_mean_and_absent_groups_keep_theirs():
    weighting = started("signed:smoothing=0.75", sums([1.0, 2.0, 4.0]))
    weighting.observe(sums([3.0, 9.0, 4.0], num_tokens=np.array([10.0, 0.0, 10.0])))
    # a: 0.75 * 1 + 0.25 * 3 = 1.5; b was not seen: 2; c: 4. Mean 2.5.
    assert weighting.weights() == pytest.approx(np.array([-1.0, -0.5, 1.5]) / 3)


def test_only_the_literal_form_measures_a_batch_before_it_learns_from_it():
    assert [name for name in RULES if parse(name).measures_first] == ["s-cdf-literal"]
    weighting = started("s-cdf-literal", sums([1.0, 2.0]))
    weighting.observe(sums([5.0, 2.0]))  # beta = 0: what was before does not count
    assert weighting.weights().tolist() == [1.0, 0.0]


def test_sampling_draws_by_the_weights_and_refuses_negative_ones():
    weighting = started("s-cdf:signal=kl,floor=0.5", sums([1.0, 3.0]))
    weights = weighting.weights()
    assert weighting.sampling(weights).tolist() == weights.tolist() == [0.25, 0.75]
    weighed = started("s-cdf:apply=loss", sums([1.0, 3.0]))
    assert weighed.sampling(weights).tolist() == [0.5, 0.5]
    with pytest.raises(ConfigError, match="negative"):
        started("signed:apply=sampling", sums([1.0, 3.0])).weights()


@pytest.mark.parametrize("name", RULES)
def test_a_state_that_went_through_json_gives_the_same_weights(name):
    probed, batch = sums([0.1, 0.7, 0.3]), sums([0.123456789012345, 1 / 3, 2 / 7])
    ours, other = started(name, probed), started(name, sums([9.0, 9.0, 9.0]))
    ours.observe(batch)
    ours.weights()
    other.restore(json.loads(json.dumps(ours.state())))
    for weighting in (ours, other):
        weighting.observe(sums([0.2, 0.4, 0.6]))
    assert ours.weights().tolist() == other.weights().tolist()


# ---------------------------------------------------------------- what users write


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("s_cdf", r"one of s-cdf, s-cdf-literal.*'s_cdf'"),
        ("s-cdf:flor=0.1", r"floor.*'flor=0.1'"),
        ("s-cdf:floor=2", "floor must be a number <= 1.0, got '2'"),
        ("s-cdf:floor=much", "floor must be a number, got 'much'"),
        ("s-cdf:smoothing=1", "smoothing"),
        ("s-cdf:signal=loss", "kl, cross-entropy, tv"),
        ("s-cdf:unit=word", "token, byte"),
        ("dro:rate=-1", "rate must be a number > 0.0"),
        ("temperature:temperature=0", "must be a number > 0.0"),
        ("class-balanced:beta=1", "beta must be a number < 1.0"),
        ("balanced:gamma=2", "gamma"),
        ("constrained:epsilon=nan", "epsilon must be a number >= 0.0"),
        ("dro:rate=inf", "finite"),
    ],
)
def test_what_cannot_be_is_refused(spelled, message):
    with pytest.raises(ConfigError, match=message):
        parse(spelled)


def test_the_default_is_what_the_published_table_recommends_and_the_papers_form_has_a_name():
    recommended = WeightingConfig(signal="tv", smoothing=0.9, floor=0.3, apply="sampling")
    assert parse(TrainConfig().weighting).config == parse("s-cdf").config == recommended
    literal = WeightingConfig(signal="cross-entropy", smoothing=0.0, floor=0.0)
    assert parse("s-cdf-literal").config == literal


def test_sums_divide_once_and_unmeasured_is_nan():
    both = sums([1.0, 2.0], num_tokens=np.array([10.0, 0.0]))
    assert both.per_token("kl")[0] == pytest.approx(1.0)
    assert math.isnan(both.per_token("kl")[1])
    # f_4(0.5) = 1 + 1/2 + 1/4 + 1/8 + 1/16; over 1 + 4 * 0.25.
    assert both.speedup(4, 0.25)[0] == pytest.approx(1.9375 / 2)
