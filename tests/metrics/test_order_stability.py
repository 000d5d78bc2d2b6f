"""Whether runs order groups alike: W beside the single one, intervals, and draws that agree.

python -m pytest tests/metrics/test_order_stability.py
"""

import numpy as np
import pytest

from lm_eval_specfair.metrics.order_stability import (
    ResampledValues,
    concordances,
    order_stability,
    resampled_values,
)
from lm_eval_specfair.metrics.statistics.rank_correlation import kendall_w


def values(drawn, groups="abcdef"):
    return ResampledValues(groups=list(groups), values=drawn[0], replicates=drawn)


@pytest.mark.parametrize("digits", [6, 0])
def test_many_concordances_are_those_of_each(digits):
    """With ties, too, where values are rounded to few."""
    tables = np.random.default_rng(digits).normal(size=(50, 3, 7)).round(digits)

    assert concordances(tables) == pytest.approx([kendall_w(table) for table in tables])


def test_a_table_without_any_order_has_none():
    assert np.isnan(concordances(np.ones((2, 3, 4)))).all()


def test_one_order_in_all_runs_is_1_in_all_resamples():
    drawn = np.tile(np.arange(6.0), (100, 1))

    found = order_stability(
        {"one": values(drawn), "other": values(2 * drawn)}, np.random.default_rng(0)
    )

    assert (found.w, found.low, found.high) == pytest.approx((1, 1, 1))
    assert found.p_value < 0.01


def test_noise_widens_the_interval_below_the_value():
    generator = np.random.default_rng(0)
    runs = {}
    for name in ("one", "other", "third"):
        drawn = np.arange(6.0) + generator.normal(size=(500, 6))
        drawn[0] = np.arange(6)
        runs[name] = values(drawn)

    found = order_stability(runs, generator)

    assert found.w == pytest.approx(1)
    assert 0.5 < found.low < found.high <= 1
    assert found.high - found.low > 0.05


def test_only_groups_that_all_runs_have_are_compared():
    drawn = np.random.default_rng(1).normal(size=(10, 6))
    one, other = values(drawn), values(drawn[:, ::-1], groups="fedcba")

    found = order_stability({"one": one, "other": other.of("fedc")}, np.random.default_rng(0))

    # The same values by name, whatever their place.
    assert list(found.groups) == ["c", "d", "e", "f"]
    assert found.w == pytest.approx(1)


def test_one_run_or_two_groups_have_no_order():
    one = values(np.random.default_rng(2).normal(size=(10, 6)))

    assert order_stability({"one": one}, np.random.default_rng(0)) is None
    few = {"one": one.of("ab"), "other": one.of("ab")}
    assert order_stability(few, np.random.default_rng(0)) is None


def test_runs_of_the_same_documents_are_drawn_alike(tmp_path):
    from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
    from lm_eval_specfair.reporting.runs import open_runs

    from support.synthetic_records import generation, write_folder

    counted = []
    for number in (1, 3):
        records = [
            generation(
                f"t_{language}",
                doc,
                group_fields={"language": language},
                num_4grams=27,
                num_repeated_4grams=number * (doc + place) + 1,
            )
            for place, language in enumerate(("de", "en", "sw"))
            for doc in range(6)
        ]
        [reader] = open_runs([write_folder(tmp_path / str(number), records)])
        aggregator = Aggregator("language")
        for batch in reader.batches():
            aggregator.add_batch(batch, reader.tasks)
        counted.append(aggregator.aggregate(5))
    one, other = (
        resampled_values(each, ["repeated_4grams"])["repeated_4grams"] for each in counted
    )

    assert one.groups == other.groups == ["de", "en", "sw"]
    # Shares are proportional up to a constant, so joint draws go together; others would not.
    correlation = np.corrcoef(one.replicates[:, 0], other.replicates[:, 0])[0, 1]
    assert correlation > 0.99
