"""Medians and 95th percentiles over documents, against scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.percentiles import PERCENTILES, percentile_estimate, replicates
from lm_eval_specfair.metrics.statistics.intervals import quantile_interval

from support.synthetic_records import generation

TASK = "specfair_demo_sw"
BY_NAME = {each.name: each for each in PERCENTILES}


@pytest.mark.parametrize(("size", "level"), [(20, 0.5), (45, 0.5), (200, 0.95), (333, 0.95)])
def test_the_interval_is_that_of_order_statistics(size, level):
    # Of the k-th of n values, from 1: it is above the quantile if fewer than k values are below.
    ordered = np.sort(np.random.default_rng(size).exponential(1, size))
    at_most = stats.binom.cdf(np.arange(size), size, level)
    low, high = np.flatnonzero(at_most <= 0.025)[-1], np.flatnonzero(1 - at_most <= 0.025)[0]

    assert quantile_interval(ordered, level) == (ordered[low], ordered[high])


def test_the_interval_covers_whatever_the_distribution():
    generator, covered, trials = np.random.default_rng(0), 0, 1_000
    for _ in range(trials):
        low, high = quantile_interval(np.sort(generator.pareto(1.1, 120)), 0.95)
        covered += low <= 20 ** (1 / 1.1) - 1 <= high

    assert 0.945 <= covered / trials <= 0.985  # order statistics come in steps: 95% or more


def test_too_few_documents_have_no_interval():
    assert quantile_interval(np.arange(40.0), 0.95) is None  # .95^40 is 13%
    assert quantile_interval(np.arange(5.0), 0.5) is None  # 2^-5 is 3.1%, above 2.5%
    assert quantile_interval(np.arange(6.0), 0.5) == (0, 5)


def test_resampled_quantiles_are_those_of_resampled_documents():
    generator = np.random.default_rng(0)
    values = np.sort(generator.exponential(1, 60))
    slow = np.quantile(generator.choice(values, (20_000, 60)), 0.95, axis=1, method="inverted_cdf")
    quick = replicates(values, 0.95, 20_000, generator)

    for share in (0.05, 0.5, 0.95):
        assert np.quantile(quick, share) == pytest.approx(np.quantile(slow, share), rel=0.02)


def test_each_document_counts_once_however_long():
    aggregator = Aggregator("language")
    for d in range(1, 21):
        record = generation(
            "specfair_demo_sw", d, decode_seconds=float(d), num_generated_bytes=10 * d
        )
        aggregator.add(record, TaskFacts("specfair_demo_sw"))
    counted = aggregator.aggregate(1)
    ratios = ["seconds_per_document", "seconds_per_kilobyte"]
    documents, bytewise = (of_groups["sw"] for _, of_groups in counted.documents_of(ratios))

    for label, expected in (("p50", 10), ("p95", 19)):
        percentile = BY_NAME[f"seconds_per_document_{label}"]
        found = percentile_estimate(percentile, documents)
        assert (found.value, found.n) == (expected, 20)
    # Every document takes .1 s a byte.
    assert bytewise.values == pytest.approx(100)
