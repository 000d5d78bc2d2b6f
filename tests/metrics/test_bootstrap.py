"""Intervals: they cover what they should, and say so where they can't."""

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.definitions.closed_forms import expected_tokens_per_step
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH
from lm_eval_specfair.metrics.statistics.bootstrap import resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import bootstrap_estimate
from lm_eval_specfair.metrics.statistics.intervals import (
    acceleration,
    bca_interval,
    critical_value,
    percentile_interval,
)

from support.synthetic_records import addends, generation, parallel_run

BY_NAME = {metric.name: metric for metric in METRICS}


def block(*documents):
    """One group; each document is a list of requests."""
    rows = [np.sum([addends(record) for record in records], axis=0) for records in documents]
    return np.stack(rows)[:, None]


def estimate(*of):
    return bootstrap_estimate(*of).estimate


def quotient_interval(numerator, denominator, generator, num_resamples=1_000):
    """The interval of a ratio of sums, one row a document."""
    n = len(numerator)
    times = generator.multinomial(n, np.full(n, 1 / n), size=num_resamples)
    left_out = (numerator.sum() - numerator) / (denominator.sum() - denominator)
    value = numerator.sum() / denominator.sum()
    replicates = (times @ numerator) / (times @ denominator)
    return bca_interval(value, replicates, [left_out], n)


@pytest.mark.parametrize("num_documents", [20, 60])
def test_intervals_cover_the_truth_95_times_in_100(num_documents):
    # Steps of one document share an acceptance rate, so that documents, not steps, are the sample.
    generator, trials, gamma = np.random.default_rng(num_documents), 1_000, 4
    # E[tokens per step] = sum_k E[alpha^k]; the moments of Beta(6, 4): E[a^k] = prod (6+i)/(10+i).
    truth = 1 + sum(
        np.prod([(6 + i) / (10 + i) for i in range(k)]).item() for k in range(1, gamma + 1)
    )
    covered = 0
    for _ in range(trials):
        rates = generator.beta(6, 4, size=num_documents)
        steps = generator.integers(5, 25, size=num_documents)
        drafts = generator.random((num_documents, 25, gamma)) < rates[:, None, None]
        kept = drafts.cumprod(axis=2).sum(axis=2) + 1
        tokens = np.where(np.arange(25) < steps[:, None], kept, 0).sum(axis=1)
        low, high = quotient_interval(tokens, steps, generator)
        covered += low <= truth <= high

    assert 0.93 <= covered / trials <= 0.97


def test_the_interval_is_the_students_for_a_mean_of_symmetric_documents():
    # 40 documents, half 0 and half 2 tokens above one a step: mean 2, s^2 = 40 / 39.
    numerator = np.repeat([1.0, 3.0], 20)
    generator = np.random.default_rng(0)

    low, high = quotient_interval(numerator, np.ones(40), generator, num_resamples=200_000)

    # t_{39, .975} = 2.0227 standard errors of sqrt(40 / 39 / 40) = 0.16013.
    assert (low, high) == pytest.approx((2 - 0.3239, 2 + 0.3239), abs=0.03)


def test_intervals_of_skewed_documents_are_scipys(monkeypatch):
    # A ratio of two independent samples' means; scipy uses the normal critical value.
    monkeypatch.setattr(
        "lm_eval_specfair.metrics.statistics.intervals.critical_value", lambda n: 1.959964
    )
    generator = np.random.default_rng(0)
    above, below = generator.exponential(2, 12) ** 2, generator.exponential(1, 18) + 0.5

    def statistic(x, y, axis=-1):
        return x.mean(axis) / y.mean(axis)

    theirs = stats.bootstrap(
        (above, below), statistic, n_resamples=60_000, method="BCa", rng=generator
    ).confidence_interval
    replicates = statistic(
        *(generator.choice(sample, (60_000, len(sample))) for sample in (above, below))
    )
    left_out = [
        statistic(np.array([np.delete(above, i) for i in range(12)]), below[None]),
        statistic(above[None], np.array([np.delete(below, i) for i in range(18)])),
    ]
    ours = bca_interval(statistic(above, below), replicates, left_out, 12)

    assert ours == pytest.approx(tuple(theirs), rel=0.02)


def test_few_documents_reach_farther():
    assert critical_value(2) == pytest.approx(12.7062 * 2**0.5, rel=1e-4)
    assert critical_value(1_000_000) == pytest.approx(1.959964, rel=1e-4)


def test_requests_of_one_document_are_one_draw():
    # Ten requests each, all alike within a document: as much information as one request each.
    once = [[generation("t", d, num_accepted_draft_tokens=10 + d)] for d in range(20)]
    tenfold = [records * 10 for records in once]

    alone, together = (
        estimate(resample([block(*each)], np.random.default_rng(0)), MEAN_ACCEPTANCE_LENGTH, 0)
        for each in (once, tenfold)
    )

    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert (alone.n, together.n) == (20, 200)


def test_one_document_has_no_interval():
    resampled = resample([block([generation("t", 0), generation("t", 0)])], np.random.default_rng())
    only = estimate(resampled, MEAN_ACCEPTANCE_LENGTH, 0)

    assert (only.value, only.low, only.high, only.n) == (3.0, None, None, 2)


def test_documents_that_agree_have_an_interval_of_one_point():
    resampled = resample(
        [block(*[[generation("t", d)] for d in range(9)])], np.random.default_rng()
    )
    alike = estimate(resampled, MEAN_ACCEPTANCE_LENGTH, 0)

    assert (alike.value, alike.low, alike.high) == pytest.approx((3, 3, 3))


def test_what_most_resamples_lack_has_no_interval():
    # 2 of 40 documents were decoded both ways: a resample misses both 13 times in 100.
    paired = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}
    documents = [[generation("t", d, **(paired if d < 2 else {}))] for d in range(40)]
    speedup = estimate(
        resample([block(*documents)], np.random.default_rng(0)), BY_NAME["measured_speedup"], 0
    )

    assert (speedup.value, speedup.low, speedup.high, speedup.n) == (1.5, None, None, 2)


def test_what_was_not_measured_has_no_estimate():
    resampled = resample([block([generation("t", 0)])], np.random.default_rng())

    assert estimate(resampled, BY_NAME["bits_per_byte"], 0) is None
    assert estimate(resampled, BY_NAME["measured_speedup"], None) is None


def test_an_infinite_divergence_has_no_estimate_and_leaves_the_others_alone():
    documents = [[generation("t", d, num_infinite_positions=int(d == 3))] for d in range(9)]
    resampled = resample([block(*documents)], np.random.default_rng())

    assert estimate(resampled, BY_NAME["kl"], 0) is None
    assert estimate(resampled, BY_NAME["cross_entropy"], None) is None
    assert estimate(resampled, BY_NAME["overlap"], 0).value == 0.75


def test_translations_are_drawn_together():
    documents = [[generation("t", d, num_accepted_draft_tokens=d)] for d in range(20)]
    one, generator = block(*documents), np.random.default_rng(0)

    together = resample([np.concatenate([one, one], axis=1)], generator).replicates
    apart = resample([one, one], generator).replicates

    assert (together[:, 0] == together[:, 1]).all()
    assert (apart[:, 0] != apart[:, 1]).any()


def test_chunks_do_not_show(monkeypatch):
    one = block(*[[generation("t", d, num_accepted_draft_tokens=d)] for d in range(20)])
    whole = resample([one], np.random.default_rng(0), num_resamples=50).replicates
    monkeypatch.setattr("lm_eval_specfair.metrics.statistics.bootstrap._CHUNK", 60)

    assert (resample([one], np.random.default_rng(0), num_resamples=50).replicates == whole).all()


def test_a_resample_draws_as_many_documents_as_there_are():
    one = block(*[[generation("t", d)] for d in range(7)])

    assert (Sums(resample([one], np.random.default_rng()).replicates)["requests"] == 7).all()


def test_the_whole_run_counts_when_one_document_is_left_out():
    # Group 1's modelled speed-up depends on group 0's documents, through the costs of a step.
    quick, slow = (
        generation("t", 0, baseline_seconds=seconds, baseline_generated_tokens=30)
        for seconds in (0.9, 1.8)
    )
    resampled = resample([block([quick], [slow]), block([quick], [quick])], np.random.default_rng())
    of_group_0, of_group_1 = resampled.left_out(BY_NAME["modelled_speedup"], 1).values()

    # Without the quick one the plain step takes (1.8 + .9 + .9) / 90 s, without the slow one .03 s;
    # a speculative step takes .06 s and emits 3 tokens.
    assert of_group_0 == pytest.approx([3 * 0.04 / 0.06, 3 * 0.03 / 0.06])
    assert of_group_1 == pytest.approx([3 * 0.04 / 0.06] * 2)


def test_percentiles_of_few_documents_have_no_interval():
    assert percentile_interval(np.arange(100.0), 1) is None
    assert percentile_interval(np.full(100, np.nan), 9) is None


def test_simulated_runs_agree_with_the_closed_form():
    records = parallel_run({"sw": 0.5}, num_documents=400)
    documents = [[each] for each in records if each.request_type == "generate_until"]
    length = estimate(
        resample([block(*documents)], np.random.default_rng(0)), MEAN_ACCEPTANCE_LENGTH, 0
    )

    # The documents' rates scatter by 0.06 around 0.5, which lifts the mean by 1% (Jensen).
    assert length.low <= expected_tokens_per_step(0.5, 4) * 1.01 <= length.high


def test_acceleration_by_hand_over_blocks_of_several_sizes():
    # Influences 4/3, 2/3, -2 of three documents, 1 and -1 of two; a single one has none.
    blocks = [np.array([1.0, 2.0, 6.0, np.nan]), np.array([0.0, 4.0]), np.array([9.0])]

    assert acceleration(blocks) == pytest.approx(-16 / 3 / (74 / 9) ** 1.5 / 6)
    assert acceleration([np.array([5.0])]) == 0
