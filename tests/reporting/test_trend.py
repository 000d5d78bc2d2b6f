"""A folder of measurements as a trend: dates, series, breaks, and every form."""

import json
import shutil

import jsonschema
import pytest

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.reporting.json_schema import json_schema

from support.synthetic_records import generation, write_folder

KEPT = {"sw": 10, "fr": 20, "de": 26}
BREAK = 3


def a_run(folder, day, *, swahili=0, target="t", documents=10, **about):
    """A run of one day; its Swahili keeps more or fewer drafts. Documents differ a little."""
    records = [
        generation(
            f"specfair_demo_{language}",
            doc,
            num_accepted_draft_tokens=kept
            + (swahili if language == "sw" else 0)
            + (doc * 7 + day * 3) % 5,
        )
        for language, kept in KEPT.items()
        for doc in range(documents)
    ]
    settings = {"target": target, "drafter": f"d{day}", "dtype": "float32", "batch_size": 1}
    return write_folder(
        folder,
        records,
        settings=settings,
        finished=f"2026-03-{day:02}T04:00:00+00:00",
        hardware={"processor": "p"},
        **about,
    )


@pytest.fixture(scope="module")
def nightly(tmp_path_factory):
    """Six nights, Swahili worse from the fourth on, and one run of another target."""
    folder = tmp_path_factory.mktemp("nightly")
    for day in range(1, 7):
        a_run(folder / f"{9 - day}", day, swahili=-8 if day > BREAK else 0)
    a_run(folder / "apart" / "x", 2, target="u")
    return folder


@pytest.fixture(scope="module")
def trend(nightly):
    return sf.trend(nightly)


def test_the_planted_break_is_found_and_nothing_else(trend):
    first, second = trend.trend.series

    assert [point.date.day for point in first.points] == [1, 2, 3, 4, 5, 6]
    assert [(each.group, each.run) for each in first.breaks] == [("sw", BREAK)]
    assert [point.name for point in second.points] == ["apart/x"]
    assert second.apart == ['settings: target ("t" and "u")']
    assert next(iter(first.groups)) == "sw"
    assert trend.verdict == [
        "In 6 measurements from 2026-03-01 to 2026-03-06, 1 of 3 languages left a former level of "
        "mean acceptance length.",
        "Swahili fell from 2.20 to 1.40 at 5 (2026-03-04).",
        "1 more series was measured under other conditions, none with a break.",
    ]
    frame = trend.by_group
    assert frame["is_break"].sum() == 1
    assert frame.xs("sw", level="group")["value"].iloc[0] == pytest.approx(2.2)


def test_nothing_breaks_in_equal_runs(tmp_path):
    for day in range(1, 5):
        a_run(tmp_path / str(day), day)

    trend = sf.trend(tmp_path)

    assert trend.trend.series[0].breaks == []
    assert trend.verdict[0].endswith(
        "no language is shown to have left its level of mean acceptance length; changes smaller "
        "than the intervals cannot be told."
    )


def test_every_form_has_the_same_verdict(trend, tmp_path):
    data = json.loads(trend.render("json"))
    jsonschema.Draft202012Validator(json_schema("trend")).validate(data)
    page, markdown = trend.render("html"), trend.render("md")
    table = " ".join(trend.render("table").split())

    assert data["verdict"] == trend.verdict
    assert data["series"][0]["breaks"][0]["point"] == BREAK
    for each in trend.verdict:
        assert f"<p>{each}</p>" in page
        assert f"- {each}\n" in markdown
        assert each in table
    assert page.count("<figure>") == 2 * 3
    assert "the former level, 2.20" in page
    assert "http" not in page.split("<main>")[1]
    assert {path.name for path in trend.save(tmp_path)} == {"trend.md", "trend.json", "trend.html"}


def test_comparisons_are_read_with_what_their_gates_said(nightly, tmp_path, capsys):
    gate = tmp_path / "gate.yaml"
    gate.write_text("metric: mean_acceptance_length\n")
    base = nightly / "8"
    for place, name in enumerate(("7", "5"), start=1):
        out = tmp_path / "gated" / f"night{place}"
        command = ["compare", str(base), str(nightly / name), "--gate", str(gate), "-o", str(out)]
        assert main(command) == place - 1
        shutil.copytree(nightly / name, out / "runs" / name)  # what it compared, not read again
    capsys.readouterr()

    assert main(["trend", str(tmp_path / "gated"), "--format", "json"]) == 0

    data = json.loads(capsys.readouterr().out)
    [series] = data["series"]
    states = [(point["kind"], point["gate"], point["passed"]) for point in series["points"]]
    assert [each[0] for each in states] == ["comparison"] * 2
    assert [each[2] for each in states] == [True, False]
    assert [point["date"][:10] for point in series["points"]] == ["2026-03-02", "2026-03-04"]
    assert "The gate turned down 1 of 2: 5 (2026-03-04)." in data["verdict"]


def test_times_of_other_machines_are_apart_and_counts_are_not(tmp_path):
    paired = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30, "baseline_agrees": True}
    for day, machine in ((1, "a"), (2, "b")):
        write_folder(
            tmp_path / machine,
            [generation("specfair_demo_sw", doc, **paired) for doc in range(8)],
            settings={"target": "t"},
            hardware={"processor": machine},
            finished=f"2026-03-{day:02}T04:00:00+00:00",
        )

    assert len(sf.trend(tmp_path).trend.series) == 1
    apart = sf.trend(tmp_path, metric="measured_speedup").trend.series[1].apart
    assert apart == ['hardware: processor ("a" and "b")']


def test_what_cannot_be_used_is_named_and_hides_nothing(tmp_path):
    for day in (1, 2):
        a_run(tmp_path / str(day), day)
    a_run(tmp_path / "killed", 3).joinpath("run.json").write_text('{"finished": null}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")

    trend = sf.trend(tmp_path)

    assert len(trend.trend.series[0].points) == 2
    assert set(trend.trend.left_out) == {"killed", "broken"}
    assert "2 places could not be used." in trend.verdict


@pytest.mark.parametrize("what", ["nothing", "no metric", "no folder"])
def test_a_folder_with_nothing_to_read_is_refused(tmp_path, what):
    metric = None
    if what == "no metric":
        a_run(tmp_path / "1", 1)
        metric = "measured_speedup"
    folder = tmp_path / "none" if what == "no folder" else tmp_path

    with pytest.raises(ConfigError, match=r"expected a folder|nothing below"):
        sf.trend(folder, metric=metric)
