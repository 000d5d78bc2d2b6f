"""From a pilot's folders to the documents that a gate needs: what is planned, printed, refused."""

import csv
import io
import json

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.comparison.gate import Gate, Margins
from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison
from lm_eval_specfair.reporting.comparison.build_plan import build_plan
from lm_eval_specfair.reporting.comparison.plan_text import closing_line, render_plan

from support.synthetic_records import parallel_run, write_folder

RATES = {"sw": 0.4, "fr": 0.7, "de": 0.6}
ABOUT = {"settings": {"target": "big", "drafter": "small", "num_speculative_tokens": 4}}


@pytest.fixture
def pair(tmp_path):
    """Two runs in which a document is as hard for both drafters."""
    worse = {name: rate - 0.1 for name, rate in RATES.items()}
    return [
        write_folder(tmp_path / name, parallel_run(rates, num_documents=14), **ABOUT)
        for name, rates in (("base", RATES), ("other", worse))
    ]


def needed(folders, **options):
    return {limit.name: limit.needed for limit in build_plan(folders, **options).limits}


def test_smaller_losses_and_more_power_need_more_documents(pair):
    usual = needed(pair, loss=0.1)
    for more in ({"loss": 0.05}, {"loss": 0.1, "power": 0.95}, {"loss": 0.1, "allowed": 0.03}):
        asked = needed(pair, **more)
        assert asked.keys() == usual.keys() == {f"any_group: {name}" for name in RATES}
        assert all(asked[name] > usual[name] for name in usual)


def test_half_the_loss_needs_four_times_the_documents(pair):
    # On the scale of logarithms, and where t is nearly normal.
    few, many = (build_plan(pair, loss=loss).limits[0].needed for loss in (0.04, 0.0202))

    assert many / few == pytest.approx(4, rel=0.03)


def test_one_run_plans_as_if_pairing_took_nothing_out(pair):
    base, other = pair
    alone, together = build_plan([base], loss=0.1), build_plan([base, other], loss=0.1)

    assert not alone.is_paired
    assert together.is_paired
    assert "unpaired: as if the two runs to be compared shared no document" in render_plan(
        alone, "md"
    )
    assert "unpaired" not in render_plan(together, "md")
    assert needed([base], loss=0.1) != needed(pair, loss=0.1)


def test_a_comparison_and_a_plan_say_the_same_of_the_documents_at_hand(pair):
    base, other = pair
    gate = Gate(margins=Margins(any_group=0.0))
    compared = build_comparison(base, [other], gate=gate).detections["other"].limits
    planned = build_plan(pair, gate=gate, loss=0.1)

    assert {limit.name: limit.found for limit in planned.limits} == pytest.approx(
        {name: each.loss for name, each in compared.items()}
    )
    assert {limit.name: limit.documents for limit in planned.limits} == {
        name: each.documents for name, each in compared.items()
    }


def test_a_limit_that_allows_the_loss_never_finds_it(pair):
    plan = build_plan(pair, gate=Gate(), loss=0.03)
    by_name = {limit.name: limit.needed for limit in plan.limits}

    assert by_name["mean"] > 6
    assert by_name["worst_group"] is None
    assert "allows 3.0% or more never calls such a loss broken" in render_plan(plan, "table")


def test_a_pilot_of_few_documents_is_too_small(tmp_path):
    folder = write_folder(tmp_path / "few", parallel_run(RATES, num_documents=4), **ABOUT)
    plan = build_plan([folder])

    assert {limit.needed for limit in plan.limits} == {None}
    assert "Pilot too small, with fewer than 6 documents: sw, fr, de." in render_plan(
        plan, "table"
    ) or "Pilot too small, with fewer than 6 documents: de, fr, sw." in render_plan(plan, "table")
    assert closing_line(plan) is None


def test_very_many_documents_are_counted_not_their_units(tmp_path):
    # More than 1,000 are drawn in units; a plan is in documents all the same.
    folders = [
        write_folder(tmp_path / f"{count}", parallel_run({"sw": 0.5}, num_documents=count), **ABOUT)
        for count in (1_000, 2_500)
    ]
    few, many = (build_plan([folder], metric="mean_acceptance_length") for folder in folders)

    assert [plan.limits[0].documents for plan in (few, many)] == [1_000, 2_500]
    assert many.limits[0].needed == pytest.approx(few.limits[0].needed, rel=0.15)


def test_the_command_prints_each_form(pair, capsys):
    folders = list(map(str, pair))
    for form in ("table", "md", "csv"):
        assert main(["plan", *folders, "--margin", "0.1", "--format", form]) == 0
        out = capsys.readouterr().out
        if form != "csv":
            assert "find a loss of 10% in modelled speed-up in 80% of cases" in out
            assert "Swahili (sw)" in out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows][-1] == "mean"
    assert main(["plan", folders[0], "--json", "--power", "0.9"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["is_paired"], plan["power"], plan["margin"]) == (False, 0.9, 0.05)
    assert int(rows[-1]["needed"]) < plan["groups"]["sw"]["needed"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"loss": 0.0}, "--margin must lie between 0 and 1, got 0"),
        ({"loss": 1.0}, "--margin must lie between"),
        ({"loss": float("nan")}, "--margin must lie between"),
        ({"power": 1.0}, "--power must lie between"),
        ({"allowed": 0.05}, "--allowed must be at least 0 and below --margin 0.05"),
        ({"allowed": float("nan")}, "--allowed must be"),
        ({"false_alarm_rate": 0.7}, "--false-alarm-rate must lie between 0 and 0.5"),
        ({"false_alarm_rate": 0.0}, "--false-alarm-rate must lie between 0 and 0.5"),
        ({"metric": "speed"}, "--metric must be one of conditional_acceptance_rate"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(tmp_path, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_plan([tmp_path / "nowhere"], **options)


def test_a_run_says_at_its_end_what_its_documents_can_show(pair):
    line = closing_line(build_plan([pair[0]]))

    assert line.startswith("compared with another drafter's run, with 14 documents a language, a")
    assert "(the median; from " in line
    assert "is found in 80% of cases" in line
