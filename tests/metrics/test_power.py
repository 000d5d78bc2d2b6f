"""Which loss documents show, and how many one needs: closed form, published numbers, simulation."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.comparison.detection import Precision
from lm_eval_specfair.metrics.comparison.gate import DisparityLimit, Gate, Margins
from lm_eval_specfair.metrics.comparison.loss_limits import loss_limits
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement
from lm_eval_specfair.metrics.comparison.planning import plan_limits
from lm_eval_specfair.metrics.comparison.verdict import judge
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.metrics.statistics.power import (
    detectable_effect,
    documents_needed,
    power_of,
)

from support.paired_runs import STEPS, drawn_runs, expected_length

NO_TEXTS = TextAgreement(compared=0, differing=0, examples=[])
OFF = {"mean": None, "worst_group": None, "dominant_group": None}
RATES = np.array([0.4, 0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("effect", "level", "power", "documents"),
    [  # Cohen's d, one sample; as G*Power 3.1 prints them
        (0.5, 0.05, 0.8, 27),
        (0.5, 0.025, 0.8, 34),
        (0.2, 0.025, 0.8, 199),
        (0.8, 0.025, 0.8, 15),
        (0.5, 0.025, 0.95, 54),
    ],
)
def test_documents_needed_are_the_published_ones(effect, level, power, documents):
    assert documents_needed(effect, 1.0, level, power) == documents


@pytest.mark.parametrize(("number", "level"), [(6, 0.05), (10, 0.0125), (40, 0.001)])
def test_the_power_is_that_of_simulated_t_tests(number, level):
    generator, effect = np.random.default_rng(number), detectable_effect(1.0, number, level)
    deviation = np.sqrt(number)  # so that the standard error is 1
    drawn = generator.normal(effect, deviation, (20_000, number))
    found = stats.ttest_1samp(drawn, 0, axis=1, alternative="greater").pvalue <= level

    assert power_of(effect, deviation, number, level) == pytest.approx(0.8, abs=1e-6)
    assert found.mean() == pytest.approx(0.8, abs=0.012)  # four standard errors


@hypothesis.given(
    st.floats(0.005, 2), st.floats(0.01, 2), st.floats(1e-4, 0.2), st.floats(0.3, 0.99)
)
def test_no_fewer_documents_would_do(effect, deviation, level, power):
    needed = documents_needed(effect, deviation, level, power)

    assert power_of(effect, deviation, needed, level) >= power
    assert needed == MIN_DOCUMENTS or power_of(effect, deviation, needed - 1, level) < power


def test_what_cannot_be_told_is_none():
    assert detectable_effect(1.0, MIN_DOCUMENTS - 1, 0.05) is None
    assert detectable_effect(0.0, 20, 0.05) is None
    assert detectable_effect(float("nan"), 20, 0.05) is None
    assert documents_needed(0.0, 1.0, 0.05) is None
    assert documents_needed(0.1, float("nan"), 0.05) is None
    assert documents_needed(1e-9, 1.0, 0.05) is None
    assert documents_needed(0.1, 0.0, 0.05) == MIN_DOCUMENTS


def slower(rates, share, places):
    """Rates of which some give a mean acceptance length that is lower by a share."""
    grid = np.linspace(0.03, 0.97, 400)
    lower = np.interp(expected_length(rates) * (1 - share), expected_length(grid), grid)
    return np.array([lower[p] if p in places else rate for p, rate in enumerate(rates)])


GATES = {
    "any_group: g1": (Margins(**OFF, any_group=0.0), [1], (0.73, 0.87)),
    "mean": (Margins(**(OFF | {"mean": 0.02})), [0, 1, 2, 3], (0.73, 0.87)),
    # Extremes are biased by noise, so a little less is found.
    "worst_group": (Margins(**(OFF | {"worst_group": 0.05})), [0, 1, 2, 3], (0.65, 0.87)),
}


def found_share(name, gate, places, loss, documents, *, trials, is_parallel):
    """How often the gate finds a loss in so many documents."""
    generator, found = np.random.default_rng(documents), 0
    candidate = slower(RATES, loss, places)
    for _ in range(trials):
        runs = drawn_runs(
            [RATES, candidate], generator, num_documents=documents, is_parallel=is_parallel
        )
        [verdict] = judge(gate, runs, [NO_TEXTS])
        found += next(check.state for check in verdict.checks if check.name == name) == "broken"
    return found / trials


def pilot_runs(places, loss, documents=1_500, *, is_parallel):
    """A pilot so large that its variance is as good as the true one."""
    rates = [RATES, slower(RATES, loss, places)]
    generator = np.random.default_rng(1)
    return drawn_runs(rates, generator, num_documents=documents, is_parallel=is_parallel)


@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize("name", GATES)
def test_a_gate_finds_the_stated_loss_in_80_cases_of_100(name, is_parallel):
    margins, places, (least, most) = GATES[name]
    gate = Gate(metric=STEPS, margins=margins, disparity=DisparityLimit(max_increase=None))
    documents, loss = 20, 0.12
    for _ in range(2):  # the variance depends on the loss, a little
        base, candidate = pilot_runs(places, loss, is_parallel=is_parallel)
        limits = list(loss_limits(gate, base, candidate))
        limit = next(each for each in limits if each.name == name)
        large = Precision.of(gate.judged, base, limit.groups, limit.logarithm)
        here = Precision(
            metric=large.metric,
            documents=documents,
            num_units=documents,
            error=large.error * np.sqrt(large.documents / documents),
        )
        loss = here.detectable_loss(limit.margin, gate.false_alarm_rate / len(limits))

    found = found_share(
        name, gate, places, loss, documents, trials=200, is_parallel=is_parallel
    )  # three standard errors are 8 points
    assert least <= found <= most, (loss, found)


@pytest.mark.parametrize(("name", "loss"), [("any_group: g1", 0.12), ("mean", 0.07)])
@pytest.mark.parametrize("power", [0.5, 0.9])
def test_the_planned_number_of_documents_finds_the_loss_as_often_as_asked(name, loss, power):
    margins, places, _ = GATES[name]
    gate = Gate(metric=STEPS, margins=margins, disparity=DisparityLimit(max_increase=None))
    base, candidate = pilot_runs(places, loss, is_parallel=False)
    limits = plan_limits(gate, base, candidate, loss=loss, power=power)
    planned = next(limit for limit in limits if limit.name == name)

    assert MIN_DOCUMENTS < planned.low <= planned.needed <= planned.high < 1.3 * planned.low
    found = found_share(name, gate, places, loss, planned.needed, trials=200, is_parallel=False)
    assert found == pytest.approx(power, abs=0.1), planned.needed


def test_the_interval_of_a_plan_holds_the_right_number_whatever_the_pilot():
    margins, places, _ = GATES["any_group: g1"]
    gate = Gate(metric=STEPS, margins=margins, disparity=DisparityLimit(max_increase=None))

    def planned(base, candidate):
        limits = plan_limits(gate, base, candidate, loss=0.12, power=0.8)
        return next(limit for limit in limits if limit.name == "any_group: g1")

    right = planned(*pilot_runs(places, 0.12, is_parallel=False)).needed
    generator, held, trials = np.random.default_rng(4), 0, 120
    rates = [RATES, slower(RATES, 0.12, places)]
    for _ in range(trials):
        one = planned(*drawn_runs(rates, generator, num_documents=12, is_parallel=False))
        held += one.low <= right <= one.high
    assert held / trials >= 0.95 - 0.08  # four standard errors
