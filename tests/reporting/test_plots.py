"""`acceptance.svg`: whole, safe and readable by those who do not see it."""

import xml.etree.ElementTree as ET

import pytest

from lm_eval_specfair.reporting.report.build_report import build_summary
from lm_eval_specfair.reporting.report.report_plots import as_svg

from support.synthetic_records import generation, many_languages, parallel_run, scored, write_folder

SVG = "{http://www.w3.org/2000/svg}"


def plot_of(tmp_path, records, **options):
    return as_svg(build_summary([write_folder(tmp_path / "run", records)], **options))


def read(svg):
    root = ET.fromstring(svg)  # raises where it is not well-formed
    assert root.tag == f"{SVG}svg"
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg", "title", "desc", "style", "rect", "text", "line", "circle", "path", "g",
    }  # fmt: skip
    return root


def texts(root):
    return [each.text.strip("\u2068\u2069") for each in root.iter(f"{SVG}text")]


def test_more_groups_make_a_taller_plot_of_one_width(tmp_path):
    two = read(plot_of(tmp_path / "two", parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)))
    thirty = read(plot_of(tmp_path / "thirty", many_languages(num_documents=6)))

    assert two.get("width") == thirty.get("width") == "800"
    assert int(thirty.get("height")) - int(two.get("height")) == 28 * 18


def test_speedups_get_a_panel_of_their_own(tmp_path):
    rates = {"sw": 0.4, "fr": 0.7}
    with_them = read(plot_of(tmp_path / "a", parallel_run(rates, num_documents=6)))
    without = plot_of(tmp_path / "b", parallel_run(rates, num_documents=6, num_baselines=0))

    assert "Speed-up over plain decoding" in texts(with_them)
    assert int(with_them.get("width")) > int(read(without).get("width"))
    assert "Speed-up" not in texts(read(without))


def test_the_marks_are_where_the_values_are(tmp_path):
    root = read(plot_of(tmp_path, parallel_run({"sw": 0.2, "fr": 0.9}, num_documents=20)))
    [panel, _] = root.findall(f"{SVG}svg")
    marks = [float(each.get("x").rstrip("%")) for each in panel.findall(f"{SVG}svg")]
    names = [text for text in texts(root) if text.endswith(("(fr)", "(sw)"))]
    ticks = {
        each.text: float(each.get("x").rstrip("%"))
        for each in panel.findall(f"{SVG}text")
        if each.get("text-anchor") == "middle"
    }
    values = [float(text.split()[0]) for text in texts(panel) if "[" in text]

    assert names == ["French (fr)", "Swahili (sw)"]
    (low, at_low), (high, at_high) = [
        (float(label), at) for label, at in (min(ticks.items()), max(ticks.items()))
    ]
    for value, mark in zip(values, marks, strict=True):
        expected = at_low + (value - low) / (high - low) * (at_high - at_low)
        assert mark == pytest.approx(expected, abs=0.5)


def test_who_does_not_see_it_is_told_what_it_shows(tmp_path):
    root = read(plot_of(tmp_path, parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)))

    assert root.get("role") == "img"
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "Mean acceptance length and speed-up by language"
    assert "2 groups" in description.text
    assert "measured speed-up of all requests" in description.text


@pytest.mark.parametrize(
    "name", ["漢字 ไทย", "a" * 500, "<script>&amp;</script>", "\ufffe\x00]]>", "عربي"]
)
def test_any_name_can_be_drawn(tmp_path, name):
    records = [generation("t", i, group_fields={"domain": name}) for i in range(6)]
    root = read(plot_of(tmp_path, records, group_by="domain"))
    assert any(name[:3].strip("\ufffe\x00") in text for text in texts(root))


def test_nothing_measured_is_said(tmp_path):
    root = read(plot_of(tmp_path, [scored("demo_sw", i) for i in range(6)]))
    assert "No group has a mean acceptance length." in texts(root)


def test_the_same_summary_gives_the_same_file(tmp_path):
    summary = build_summary(
        [write_folder(tmp_path / "run", parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6))]
    )
    assert as_svg(summary) == as_svg(summary)
