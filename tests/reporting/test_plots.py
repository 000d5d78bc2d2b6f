"""The plot: what it shows is looked at by people; here it is that it can be made and is whole."""

import struct

import pytest

from lm_eval_specfair.reporting.report.build_report import build_summary
from lm_eval_specfair.reporting.report.plots import plot

from support.synthetic_records import generation, many_languages, parallel_run, scored, write_folder


def size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def plot_of(tmp_path, records, **options):
    summary = build_summary([write_folder(tmp_path / "run", records)], **options)
    return plot(summary, dots_per_inch=40)


def test_more_groups_make_a_taller_plot(tmp_path):
    two = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)
    thirty = many_languages(num_documents=6)
    domains = [
        generation("t", 10 * i + j, group_fields={"domain": f"domain number {i}"})
        for i in range(40)
        for j in range(5)
    ]

    heights = [
        size(plot_of(tmp_path / "two", two))[1],
        size(plot_of(tmp_path / "thirty", thirty))[1],
        size(plot_of(tmp_path / "domains", domains, group_by="domain"))[1],
    ]

    assert heights == sorted(set(heights))


def test_speedups_get_a_panel_of_their_own(tmp_path):
    rates = {"sw": 0.4, "fr": 0.7}
    with_them = plot_of(tmp_path / "a", parallel_run(rates, num_documents=6))
    without = plot_of(tmp_path / "b", parallel_run(rates, num_documents=6, num_baselines=0))

    assert size(with_them)[0] > size(without)[0]


@pytest.mark.parametrize("name", ["漢字 ไทย", "$\\bad{$", "a" * 500, "\\frac{1}{2}", "_hidden"])
def test_any_name_can_be_drawn(tmp_path, name):
    # Warnings are errors here: a glyph that the font lacks would raise.
    records = [generation("t", i, group_fields={"domain": name}) for i in range(6)]

    assert size(plot_of(tmp_path, records, group_by="domain"))[0] < 400


def test_nothing_measured_is_said(tmp_path):
    assert size(plot_of(tmp_path, [scored("demo_sw", i) for i in range(6)]))


def test_the_same_summary_gives_the_same_file(tmp_path):
    records = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)
    summary = build_summary([write_folder(tmp_path / "run", records)])

    assert plot(summary, dots_per_inch=40) == plot(summary, dots_per_inch=40)
