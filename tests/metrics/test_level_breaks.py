"""Breaks in series: found where planted, and rarely where nothing changes."""

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.level_breaks import level_breaks


def figure(value, error):
    reach = stats.norm.ppf(0.975) * error
    return Estimate(value=value, low=value - reach, high=value + reach, n=50)


def series(levels, generator, *, error=0.1, groups=5, shared=0.0):
    """Runs of groups at these levels; `shared` is the part of the variance that all runs share."""
    same = generator.normal(0, error * np.sqrt(shared), groups)
    return [
        {
            f"g{group}": figure(
                level + same[group] + generator.normal(0, error * np.sqrt(1 - shared)), error
            )
            for group in range(groups)
        }
        for level in levels
    ]


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_a_series_in_which_nothing_changes_rarely_has_a_break(shared):
    generator, number = np.random.default_rng(0), 600

    false = sum(
        bool(level_breaks(series([2.0] * 12, generator, shared=shared))) for _ in range(number)
    )

    # At most 5%, within four standard errors; of runs that share documents, next to none.
    assert false / number < 0.05 + 4 * np.sqrt(0.05 * 0.95 / number)
    if shared:
        assert false / number < 0.01
    else:
        assert false > 0


def test_a_planted_break_is_found_where_it_is_and_said_once():
    generator, found = np.random.default_rng(1), 0
    for _ in range(100):
        runs = series([2.0] * 12, generator)
        for run in runs[7:]:
            run["g3"] = figure(1.2 + generator.normal(0, 0.1), 0.1)
        breaks = level_breaks(runs)
        found += [(each.group, each.run) for each in breaks] == [("g3", 7)]
        first = [each for each in breaks if each.group == "g3"]
        assert len({each.run for each in first}) == len(first)

    assert found > 80


def test_p_values_and_rates_by_hand():
    runs = [{"a": figure(2.0, 0.1), "b": figure(1.0, 0.3)}] * 2
    runs.append({"a": figure(2.6, 0.1), "b": figure(1.2, 0.3)})

    [one] = level_breaks(runs)

    assert (one.group, one.run, one.before, one.after) == ("a", 2, 2.0, 2.6)
    # Holm's first of two; the second run that is tested.
    assert one.p_value == pytest.approx(2 * 2 * stats.norm.sf(0.6 / np.hypot(0.1, 0.1)))
    assert one.allowed == pytest.approx(0.05 / 6)


def test_what_was_said_of_a_run_stays_said():
    generator = np.random.default_rng(2)
    runs = series([2.0, 2.0, 1.4, 1.4, 1.4, 2.1, 2.1], generator)

    whole = level_breaks(runs)

    assert whole
    for length in range(1, len(runs)):
        assert level_breaks(runs[:length]) == [each for each in whole if each.run < length]


def test_what_has_no_interval_is_no_evidence():
    bare = Estimate(value=0.1, n=3)

    assert level_breaks([{"a": figure(2, 0.1)}, {"a": bare}, {"a": None}, {}]) == []
    assert level_breaks([{"a": bare}, {"a": figure(2, 0.1)}, {"a": figure(2, 0.1)}]) == []
    assert level_breaks([]) == []
