"""The page: whole, safe and said in words too. How it looks is looked at by people."""

import base64
import dataclasses
import hashlib
import re

import jsonschema
import numpy as np
import pytest

from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.json_schema import json_schema
from lm_eval_specfair.reporting.page import drawings
from lm_eval_specfair.reporting.page import forest_plot as charts
from lm_eval_specfair.reporting.report.build_report import as_json, build_summary
from lm_eval_specfair.reporting.report.report_html import as_html

from support.pages import Page
from support.synthetic_records import (
    generation,
    many_languages,
    parallel_run,
    scored,
    simulated,
    write_folder,
)

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7*7 }}",
    "</style><b>",
    "]]>&amp;",
    "=1+1",
    "العربية",
    "עברית (he)",
    "漢字かな交じり文",
    "a very long name of a domain that goes on and on and on",
]


def with_more(summary):
    """The figures that some runs have: answer quality, acceptance by draft position."""

    def more(figures, number):
        extra = {
            f"conditional_acceptance_at_{i}": Estimate(value=v, low=v - 0.1, high=v + 0.1, n=20)
            for i, v in enumerate(np.linspace(0.8 - number / 60, 0.5 - number / 90, 4), start=1)
        }
        quality = Estimate(value=0.2 + number / 60, low=None, high=None, n=20)
        return {**figures, **extra, "answer_quality": quality}

    groups = {g: more(figures, i) for i, (g, figures) in enumerate(summary.groups.items())}
    return dataclasses.replace(summary, groups=groups, overall=more(summary.overall, 10))


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("runs") / "thirty", many_languages())
    return with_more(build_summary([folder]))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    generator = np.random.default_rng(0)
    records = [
        simulated(
            "t",
            100 * i + j,
            0.2 + 0.05 * i,
            generator,
            baseline=True,
            group_fields={"domain": name},
        )
        for i, name in enumerate(HOSTILE)
        for j in range(6)
    ]
    folder = write_folder(tmp_path_factory.mktemp("runs") / "hostile", records, note=HOSTILE[0])
    return with_more(build_summary([folder], group_by="domain"))


def test_the_page_asks_nobody_for_anything_and_forbids_it(thirty):
    text = as_html(thirty)
    page = Page(text)

    assert not [
        tag for tag, _ in page.elements if tag in ("img", "link", "iframe", "object", "use")
    ]
    assert not [a for _, a in page.elements if {"src", "href", "style", "srcset"} & set(a)]
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", text)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_hostile_names_are_shown_and_do_nothing(hostile):
    page = Page(as_html(hostile))

    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag not in ("img", "b")
    assert len(page.all("script")) == len(page.all("style")) == 1
    shown = "".join(page.texts)
    for name in HOSTILE[:-1]:  # the last is shortened
        assert shown.count(name) >= 3, name


def test_names_are_isolated_from_the_text_around_them(hostile):
    text = as_html(hostile)

    for name in ("العربية", "עברית (he)"):
        for match in re.finditer(re.escape(name), text):
            before = text[max(0, match.start() - 60) : match.start()]
            inside = re.search(
                r"(<bdi>|\u2068|data-value=\"|aria-label=\"|&#x2068;)[^<>]*$", before
            )
            assert inside or "<pre>" in text[: match.start()], before


def test_every_plot_says_in_words_what_it_shows(thirty):
    page = Page(as_html(thirty))

    drawings_ = [a for a in page.all("svg") if a.get("class") == "drawing"]
    assert len(drawings_) == 3
    assert all(a["role"] == "img" and len(a["aria-label"]) > 60 for a in drawings_)
    others = [a for a in page.all("svg") if a.get("class") != "drawing" and "x" not in a]
    assert all(a.get("aria-hidden") == "true" for a in others)
    # The rows of a forest plot are a table, each with its value in words.
    length = thirty.groups["en"]["mean_acceptance_length"]
    words = f"{length.value:.2f} [{length.low:.2f}, {length.high:.2f}]"
    assert "".join(page.texts).count(words) >= 2
    assert all("scope" in a or a.get("class") == "track" for a in page.all("th"))


def test_the_table_can_be_sorted_by_what_it_shows(thirty):
    text = as_html(thirty)
    table = text[text.index('class="numbers sortable"') : text.index("</tbody>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL)

    assert len(rows) == 30
    for row in rows:
        for value, shown in re.findall(r'<td data-value="([^"]+)">([^<]+)</td>', row):
            assert float(value) == pytest.approx(float(shown.split()[0]), abs=0.0051)
        assert len(re.findall("data-value", row)) == 10  # name, n and eight figures
    assert "aria-sort" in text
    assert 'data-kind="text"' in table


def test_plots_without_data_are_left_out(tmp_path):
    records = [generation("demo_sw", i, acceptance_histogram=None) for i in range(6)]
    summary = build_summary([write_folder(tmp_path / "run", records)])
    page = Page(as_html(summary))

    assert not [a for a in page.all("svg") if a.get("class") == "drawing"]
    assert "Fewer than two groups were measured." in "".join(page.texts)
    assert drawings.by_position(summary) is None
    assert charts.forest(summary, {"answer_quality": "quality"}, caption="") is None


def test_marks_lie_where_their_values_are(thirty):
    plot = charts.forest(thirty, {"mean_acceptance_length": "tokens"}, caption="")
    assert plot is not None
    first, last = plot.ticks[0], plot.ticks[-1]
    per_unit = (last.at - first.at) / (float(last.label) - float(first.label))

    for row, figures in zip(plot.rows, thirty.groups.values(), strict=True):
        figure, (mark,) = figures["mean_acceptance_length"], row.marks
        for place, value in ((mark.at, figure.value), (mark.low, figure.low)):
            assert place == pytest.approx(
                first.at + per_unit * (value - float(first.label)), abs=0.1
            )
        assert 0 <= mark.low <= mark.at <= mark.high <= 100


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.12, 0.93], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([1.43, 2.91], ["1.0", "1.5", "2.0", "2.5", "3.0"]),
        ([-3.0, 9.0], ["-5", "0", "5", "10"]),
        ([2.0, 2.0], ["2.0", "2.5"]),
        ([0.0, 0.0], ["0.0", "0.2"]),
        ([1e-5, 4e-5], ["0.00001", "0.00002", "0.00003", "0.00004"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, labels):
    axis = charts.Axis(values, 0, 100)

    assert [tick.label for tick in axis.ticks] == labels
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_labels_of_points_hide_nothing(thirty):
    plot = drawings.scatter(
        thirty,
        "modelled_speedup",
        "measured_speedup",
        labels=("x", "y"),
        caption="",
        diagonal=True,
    )
    assert plot is not None
    boxes = []
    for point in plot.points:
        assert drawings.LEFT <= point.x <= drawings.WIDTH - drawings.RIGHT
        if point.label:
            x, y = point.label_at
            width = drawings.text_width(point.label)
            left = x - {"start": 0, "middle": width / 2, "end": width}[point.anchor]
            boxes.append((left, y - 9, left + width, y + 2))
    assert len(boxes) >= 15
    for i, one in enumerate(boxes):
        assert one[0] > 0
        assert one[2] <= drawings.WIDTH
        for other in boxes[:i]:
            assert (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )


def test_acceptance_by_position_names_best_and_worst_and_skips_what_is_unknown(thirty):
    vague = Estimate(value=0.9, low=0.1, high=1.0, n=2)
    groups = dict(thirty.groups)
    groups["en"] = {**groups["en"], "conditional_acceptance_at_3": vague}
    plot = drawings.by_position(dataclasses.replace(thirty, groups=groups))
    assert plot is not None

    by_kind = {
        kind: [line for line in plot.lines if line.kind == kind] for kind in ("best", "worst")
    }
    assert [len(lines) for lines in by_kind.values()] == [2, 2]
    english = next(line for line in plot.lines if line.name.startswith("English"))
    assert english.kind == "best"
    assert len(english.points) == 2
    labelled = sorted(line.label_y for line in plot.lines if line.kind)
    assert min(np.diff(labelled)) >= 12


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_changes_are_drawn_the_greatest_loss_first(lower_is_better):
    figures = {
        name: Estimate(value=value, low=value - 0.5, high=value + 0.5, n=9)
        for name, value in (("a", 1.0), ("b", -2.0), ("c", 0.0))
    }
    plot = charts.changes(figures, caption="Change", lower_is_better=lower_is_better)

    assert [row.name for row in plot.rows] == (
        ["a", "c", "b"] if lower_is_better else ["b", "c", "a"]
    )
    losses = [row.name for row in plot.rows if row.marks[0].series == 1]
    assert losses == (["a"] if lower_is_better else ["b"])
    marks = {row.name: row.marks[0] for row in plot.rows}
    # The axis is linear: an interval of 1 is as wide as the step from 0 to 1.
    assert marks["a"].at - plot.reference.at == pytest.approx(
        marks["a"].high - marks["a"].low, abs=0.02
    )
    assert marks["c"].at == plot.reference.at
    assert charts.changes({}, caption="Change") is None


@pytest.mark.parametrize("kind", ["thirty", "hostile"])
def test_the_json_report_follows_the_published_schema(kind, request):
    report = as_json(request.getfixturevalue(kind))
    validator = jsonschema.Draft202012Validator(json_schema("report"))

    jsonschema.Draft202012Validator.check_schema(json_schema("report"))
    validator.validate(report)
    for break_it in (
        lambda r: r.pop("groups"),
        lambda r: r.update(schema_version=1),
        lambda r: r["overall"].update(overlap=0.5),
        lambda r: r["overall"]["overlap"].pop("n"),
        lambda r: next(iter(r["disparity"].values())).pop("worst"),
        lambda r: r["counts"].update(requests=-1),
    ):
        broken = as_json(request.getfixturevalue(kind))
        break_it(broken)
        assert not validator.is_valid(broken)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs of five languages with references, and too few plain baselines in each language."""
    folder, rates = tmp_path_factory.mktemp("runs"), [0.7, 0.6, 0.5, 0.4, 0.3]
    chosen = dict(zip(("en", "fr", "de", "sw", "th"), rates, strict=True))
    runs = []
    for seed, name in enumerate(("one", "two")):
        records = parallel_run(chosen, num_documents=12, num_baselines=2, seed=seed)
        references = [
            scored(
                f"given_{tag}",
                i,
                target_reference_probability_sum=6 + rate,
                drafter_reference_probability_sum=5 + 2 * rate,
            )
            for tag, rate in chosen.items()
            for i in range(6)
        ]
        runs.append(write_folder(folder / name, [*records, *references]))
    return build_summary(runs, min_requests=5, all_measures=True, bounds=True)


def test_a_report_with_everything_follows_the_schema_and_no_other_does(two_runs):
    report = as_json(two_runs)
    validator = jsonschema.Draft202012Validator(json_schema("report"))

    validator.validate(report)
    # What it is about is there, and the schema knows every key.
    assert report["associations"]
    assert report["concordances"]
    assert report["resource_classes"]
    assert report["figures_not_reported"]
    assert report.keys() == json_schema("report")["properties"].keys()
    for break_it in (
        lambda r: r["deviations"]["overlap"].update(sw=1.5),
        lambda r: r["associations"][0].pop("spearman_p_adjusted"),
        lambda r: r["associations"][0].update(kendall=2),
        lambda r: r["concordances"][0].update(over="moods"),
        lambda r: r["concordances"][0].update(w=None),
        lambda r: r["resource_classes"].update(sw=2),
        lambda r: next(iter(r["figures_not_reported"].values())).update(overlap="few"),
    ):
        broken = as_json(two_runs)
        break_it(broken)
        assert not validator.is_valid(broken)


def test_what_is_measured_is_drawn(two_runs):
    text = as_html(two_runs)
    words = " ".join("".join(Page(text).texts).split())

    assert "Share of drafted tokens accepted, by draft position" in words
    assert "Speed-up against drafter's misfit on references" in words
    assert "Speed-up against target's misfit on references" in words
    found = next(each for each in two_runs.associations if each.other == "resource_class")
    assert f"<td>{found.spearman:.2g}</td><td>{found.spearman_p_adjusted:.2g}</td>" in text
    order = two_runs.concordances[0]
    assert f"<td>{order.w:.2g}</td><td>{order.p_value:.2g}</td>" in text
    # English accepts .7, Thai .3, the mean of five .5; each has 24 documents.
    above, below = re.search(
        "differ from the mean of groups in modelled speed-up, p below 0.05 after Holm's correction "
        r"over 5 groups: above: ([^;]+); below: ([^.]+)\.",
        words,
    ).groups()
    assert above.split(", ")[0] == "en"
    assert {"sw", "th"} <= set(below.split(", "))
    assert not {"en", "fr"} & set(below.split(", "))
    # Every figure is explained, those of theory and by position too.
    assert "overlap_bound_pinsker: bound of overlap, below: Pinsker's, from KL." in words
    assert "acceptance_at_4: share of steps that accepted the draft at position 4." in words
    assert "seconds_per_document_p95: p95 over documents" in words


def test_a_schema_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="version must be one of 1 to 2, got 7"):
        json_schema("report", 7)


def test_the_schema_of_older_reports_stays_published(thirty):
    jsonschema.Draft202012Validator.check_schema(json_schema("report", 1))
    jsonschema.Draft202012Validator(json_schema("report", 1)).validate(
        as_json(thirty) | {"schema_version": 1}
    )
