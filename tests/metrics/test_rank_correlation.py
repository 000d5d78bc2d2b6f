"""Rank correlations and concordance, against scipy and against enumeration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.rank_agreement import association
from lm_eval_specfair.metrics.statistics.multiple_testing import deviations_from_mean
from lm_eval_specfair.metrics.statistics.rank_correlation import (
    concordance_p,
    kendall,
    kendall_w,
    spearman,
)
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.synthetic_records import parallel_run, write_folder

GENERATOR = np.random.default_rng(0)


def tau_numerator(x, y):
    return (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum()


@pytest.mark.parametrize("has_ties", [False, True])
def test_few_groups_have_an_exact_p_value(has_ties):
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 2 if has_ties else 3, 5, 4])
    orders = [np.array(order) for order in itertools.permutations(y)]
    for coefficient, statistic in (
        (kendall, tau_numerator),
        (spearman, lambda x, y: np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]),
    ):
        found = np.array([statistic(x, order) for order in orders])
        expected = 2 * (found >= statistic(x, y) - 1e-9).mean()

        assert coefficient(x, y, GENERATOR)[1] == pytest.approx(expected)


def test_perfect_agreement_of_few_groups_is_one_order_in_all():
    x = np.arange(5.0)

    # Of 5! orders two agree perfectly or are exactly reversed.
    assert kendall(x, x, GENERATOR) == pytest.approx((1, 2 / 120))
    assert spearman(x, -x, GENERATOR) == pytest.approx((-1, 2 / 120))


def test_many_groups_with_ties_have_the_p_value_of_random_orders():
    generator = np.random.default_rng(4)
    x = np.round(generator.normal(0, 2, 25))
    y = 0.3 * x + generator.normal(0, 1, 25)
    orders = [generator.permutation(y) for _ in range(20_000)]
    found = np.array([tau_numerator(x, order) for order in orders])
    expected = (np.abs(found) >= abs(tau_numerator(x, y))).mean()

    error = (expected / 9_999 + expected / 20_000) ** 0.5
    _, p_value = kendall(x, y, np.random.default_rng(0))
    assert p_value == pytest.approx(expected, abs=4 * error)


def test_missing_and_equal_values_make_no_association():
    x = np.array([1.0, 2, 3, np.nan, 5])

    assert association(("a", "b"), x, np.ones(5), GENERATOR) is None
    assert association(("a", "b"), x[:4], x[:4], GENERATOR) is None
    assert association(("a", "b"), x, -x, GENERATOR).num_groups == 4
    assert association(("a", "b"), x, -x, GENERATOR).spearman == pytest.approx(-1)


def test_kendalls_w_is_the_spread_of_rank_sums_over_its_largest():
    table = np.round(GENERATOR.normal(0, 1, (4, 9)), 1)
    ranks = np.stack([stats.rankdata(row) for row in table])
    counts = [np.unique(row, return_counts=True)[1] for row in table]
    ties = sum((count**3 - count).sum() for count in counts)
    deviations = ((ranks.sum(0) - 4 * 10 / 2) ** 2).sum()

    assert kendall_w(table) == pytest.approx(12 * deviations / (16 * (9**3 - 9) - 4 * ties))
    assert kendall_w(np.tile(np.arange(6.0), (3, 1))) == pytest.approx(1)
    assert kendall_w(np.array([[1.0, 2, 3], [3.0, 2, 1]])) == pytest.approx(0)


def test_orders_that_agree_are_rare_by_chance():
    same = np.tile(np.arange(4.0), (2, 1))

    # Two orders of four groups agree once in 4! = 24.
    assert concordance_p(same, GENERATOR) == pytest.approx(1 / 24)
    assert concordance_p(GENERATOR.normal(0, 1, (3, 8)), GENERATOR) > 0.001


def test_equal_groups_are_seldom_named_as_different():
    # Tokens per step of 20 documents of 14 steps each, drafts of 4 accepted with chance .6.
    generator, wrong, trials, n, m = np.random.default_rng(1), 0, 300, 20, 10
    for _ in range(trials):
        runs = np.minimum(generator.geometric(0.4, (14, n, m)) - 1, 4)
        documents = 1 + runs.mean(0)
        weights = generator.multinomial(n, np.full(n, 1 / n), size=400) / n
        found = deviations_from_mean(documents.mean(0), weights @ documents, np.full(m, n))
        wrong += min(found) <= 0.05

    # 5% of families at most, and two standard errors of 300 trials.
    assert wrong / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


def test_a_group_that_lags_is_named():
    documents = GENERATOR.normal(0, 1, (30, 6))
    documents[:, 2] -= 2
    weights = GENERATOR.multinomial(30, np.full(30, 1 / 30), size=400) / 30
    found = deviations_from_mean(documents.mean(0), weights @ documents, np.full(6, 30))

    # It also pulls the mean down, which the others are a little above.
    assert found[2] < 0.001
    assert min(each for place, each in enumerate(found) if place != 2) > 100 * found[2]


def test_two_runs_that_order_the_languages_alike_are_concordant(tmp_path):
    rates = {"sw": 0.4, "fr": 0.8, "de": 0.7, "en": 0.9, "th": 0.2}
    folders = [
        write_folder(tmp_path / str(seed), parallel_run(rates, num_documents=15, seed=seed))
        for seed in (1, 2)
    ]
    found = {each.figure: each for each in build_summary(folders).concordances}

    assert set(found) >= {"conditional_acceptance_rate", "modelled_speedup"}
    first = found["conditional_acceptance_rate"]
    assert (first.over, first.w) == ("runs", pytest.approx(1))
    assert sorted(first.groups) == sorted(rates)
    assert first.p_value == pytest.approx(1 / 120, abs=0.006)
    assert build_summary(folders[:1]).concordances == []
