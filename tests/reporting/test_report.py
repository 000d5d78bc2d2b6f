"""From a run's folder to the numbers and texts of a report."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Settings
from lm_eval_specfair.reporting.report.build_report import build_summary, render, write_report
from lm_eval_specfair.reporting.report.notes import footnotes

from support.synthetic_records import (
    GREEDY,
    LANGUAGES,
    generation,
    many_languages,
    parallel_run,
    scored,
    write_folder,
)

PAIRED = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30, "baseline_agrees": True}
PLAIN = Settings(num_speculative_tokens=0, temperature=0.0, top_k=None, top_p=None)


def two_languages(**changes):
    """Swahili as in `generation`; French with 30 of 40 accepted."""
    french = {
        "num_accepted_draft_tokens": 30,
        "num_examined_draft_tokens": 35,
        "num_generated_tokens": 40,
    }
    return [
        each
        for i in range(6)
        for each in (
            generation("specfair_demo_sw", i, **changes),
            generation("specfair_demo_fr", i, **(changes | french)),
        )
    ]


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("runs") / "thirty", many_languages())
    return build_summary([folder])


def summary_of(tmp_path, records, **run):
    return build_summary([write_folder(tmp_path / "run", records, **run)])


def values(figures):
    return {name: each.value for name, each in figures.items() if each is not None}


def test_figures_by_hand(tmp_path):
    records = [generation("specfair_demo_sw", i, **PAIRED) for i in range(6)]
    summary = summary_of(tmp_path, records + [scored("specfair_demo_sw", i) for i in range(6)])

    # A plain step takes .9 / 30 = .03 s, a speculative one .06 s for 3 tokens; 30 tokens of 90
    # bytes a document, 10 steps and the prompt's pass.
    a, c = 20 / 28, 1 / 12
    expected = {
        "conditional_acceptance_rate": a,
        "draft_acceptance_rate": 0.5,
        "overlap": 0.75,
        "total_variation": 0.25,
        "mean_acceptance_length": 3.0,
        "kl": 0.5,
        "cross_entropy": 1.5,
        "untruncated_kl": 0.5,
        "untruncated_cross_entropy": 1.5,
        "target_entropy": 1.0,
        "kl_per_byte": 0.5 / 3,
        "cross_entropy_per_byte": 0.5,
        "total_variation_per_byte": 0.25 / 3,
        "kl_per_document": 15.0,
        "cross_entropy_per_document": 45.0,
        "total_variation_per_document": 7.5,
        "bytes_per_token": 3.0,
        "scored_bytes_per_token": 2.5,
        "bits_per_byte": 2.0,
        "drafter_bits_per_byte": 4.0,
        "seconds_per_kilobyte": 600 / 90,
        "steps_per_kilobyte": 10_000 / 90,
        "target_passes_per_kilobyte": 11_000 / 90,
        "seconds_per_document": 0.6,
        "steps_per_document": 10.0,
        "target_passes_per_document": 11.0,
        "modelled_cost_per_kilobyte": 30_000 / 90 / 1.5,
        "modelled_cost_per_document": 20.0,
        "measured_speedup": 1.5,
        "modelled_speedup": 1.5,
        "textbook_speedup": (1 + a + a**2 + a**3 + a**4) / (1 + 4 * c),
    }
    found = values(summary.groups["sw"])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # Beside them there are bounds, positions and percentiles.
    others = {"bound", "_at_", "_p50", "_p95"}
    assert all(any(part in name for part in others) for name in set(found) - set(expected))
    assert found["seconds_per_document_p95"] == pytest.approx(0.6)
    assert found["acceptance_at_4"] == pytest.approx(0.2)
    # Of a speculative step .01 s go into 4 drafted tokens, .04 s into verifying, .01 s elsewhere.
    costs = {name: summary.overall[name].value for name in summary.overall if "_ratio" in name}
    assert costs == pytest.approx(
        {"cost_ratio": 1 / 12, "verify_cost_ratio": 4 / 3, "host_overhead_ratio": 1 / 3}
    )
    assert summary.groups["sw"]["overlap"].n == 6
    assert summary.group_requests == {"sw": 12}


def test_figures_are_pooled_and_not_averaged(tmp_path):
    # 10 steps with 20 accepted and 90 steps with none: 1 + 20/100, not (3 + 1) / 2.
    long = {"num_spec_steps": 90, "num_accepted_draft_tokens": 0}
    records = [generation("specfair_demo_sw", i, **(long if i % 2 else {})) for i in range(6)]

    assert summary_of(tmp_path, records).groups["sw"]["mean_acceptance_length"].value == 1.2


def test_costs_are_pooled_over_the_run_and_tau_is_the_groups(tmp_path):
    records = [
        *(generation("specfair_demo_sw", i, **PAIRED) for i in range(6)),
        *(generation("specfair_demo_fr", i, num_accepted_draft_tokens=40) for i in range(6)),
    ]
    summary = summary_of(tmp_path, records)

    # No French request was decoded plainly; a step costs 2 plain ones wherever it was measured.
    assert summary.groups["fr"]["measured_speedup"] is None
    assert summary.groups["fr"]["modelled_speedup"].value == pytest.approx(5 / 2)


def test_a_run_without_drafter_has_no_acceptance(tmp_path):
    plain = {
        "num_draft_tokens": 0,
        "num_accepted_draft_tokens": 0,
        "num_examined_draft_tokens": 0,
        "num_spec_steps": 30,
        "acceptance_histogram": [30],
        "settings": PLAIN,
    }
    summary = summary_of(tmp_path, [generation("specfair_demo_sw", i, **plain) for i in range(6)])

    units = ("_per_token", "_per_kilobyte", "_per_document", "_p50", "_p95")
    assert all(name.endswith(units) for name in values(summary.groups["sw"]))
    assert summary.groups["sw"]["steps_per_document"].value == 30
    assert "mean acceptance length (tokens)" in render(summary, "table")


def test_a_drafter_that_found_nothing_to_draft_gives_one_token_a_step(tmp_path):
    nothing = dict.fromkeys(
        ("num_draft_tokens", "num_accepted_draft_tokens", "num_examined_draft_tokens"), 0
    )
    summary = summary_of(tmp_path, [generation("specfair_demo_sw", i, **nothing) for i in range(6)])

    assert summary.groups["sw"]["mean_acceptance_length"].value == 1
    assert summary.groups["sw"]["conditional_acceptance_rate"] is None


def test_a_speedup_above_the_tokens_per_step_is_flagged(tmp_path):
    impossible = PAIRED | {"baseline_seconds": 2.1}  # 3.5 times as fast with 3 tokens a step
    records = [generation("specfair_demo_sw", i, **impossible) for i in range(6)]
    summary = summary_of(tmp_path, records)

    assert [(flag.metric, flag.group) for flag in summary.flags] == [
        ("measured_speedup", None),
        ("measured_speedup", "sw"),
    ]
    assert "INVALID: Swahili (sw): measured speed-up 3.50 exceeds the 3.00" in " ".join(
        render(summary, "table").split()
    )
    assert summary_of(tmp_path / "other", two_languages(**PAIRED)).flags == []


def test_small_groups_are_listed_and_count_in_the_whole(tmp_path):
    records = [generation("specfair_demo_sw", i) for i in range(6)] + [
        generation("specfair_demo_fr", 0)
    ]
    summary = summary_of(tmp_path, records)

    assert list(summary.groups) == ["sw"]
    assert summary.not_reported == {"fr": 1}
    assert summary.overall["overlap"].n == 7
    assert "fr (1)" in " ".join(render(summary, "table").split())


def test_requests_without_a_language_are_shown_but_not_compared(tmp_path):
    records = two_languages() + [
        generation("gsm8k", i, num_accepted_draft_tokens=1) for i in range(6)
    ]
    summary = summary_of(tmp_path, records)

    assert list(summary.groups) == ["fr", "sw", "(none)"]
    assert summary.disparity["mean_acceptance_length"].worst == "sw"
    assert any("Add a field `language`" in note for note in summary.notes)


def test_a_tasks_metadata_names_the_group(tmp_path):
    records = [generation("gsm8k", i) for i in range(6)]
    tasks = {"gsm8k": {"metadata": {"language": "eng_Latn", "version": 3}}, "other": {}}

    assert list(summary_of(tmp_path, records, tasks=tasks).groups) == ["en"]


def test_translations_are_recognised(tmp_path):
    assert summary_of(tmp_path, two_languages()).is_parallel
    missing_one = two_languages()[:-1]
    assert not summary_of(tmp_path / "b", missing_one).is_parallel


def test_what_translations_share_is_no_uncertainty_of_their_difference(tmp_path):
    # Of document i, 10 + 10 i tokens are accepted in 100 Swahili steps, 100 more in French ones.
    steps = {"num_spec_steps": 100, "num_draft_tokens": 400}
    swahili, french, others = (
        [
            generation(
                f"specfair_demo_{tag}", first + i, num_accepted_draft_tokens=more + 10 * i, **steps
            )
            for i in range(20)
        ]
        for tag, first, more in (("sw", 0, 10), ("fr", 0, 110), ("fr", 50, 110))
    )
    together = summary_of(tmp_path / "a", swahili + french).disparity["mean_acceptance_length"]
    apart = summary_of(tmp_path / "b", swahili + others).disparity["mean_acceptance_length"]

    exact, rough = (each.statistics["difference"] for each in (together, apart))
    assert (exact.value, exact.low, exact.high) == pytest.approx((1, 1, 1))
    assert rough.value == pytest.approx(1)
    assert rough.low < 0.8
    assert rough.high > 1.2


def test_infinite_divergences_are_not_reported_and_said(tmp_path):
    summary = summary_of(tmp_path, two_languages(num_infinite_positions=2))

    assert summary.groups["sw"]["kl"] is None
    assert summary.disparity["cross_entropy"] is None
    assert summary.groups["sw"]["overlap"] is not None
    assert summary.overall["untruncated_kl"] is None
    assert any("infinite" in note for note in summary.notes)


CUT = Settings(num_speculative_tokens=4, temperature=0.7, top_k=None, top_p=0.9)


def test_divergences_before_a_cut_are_reported_beside(tmp_path):
    records = two_languages(
        num_infinite_positions=2, settings=CUT,
        untruncated_kl_sum=56.0, untruncated_cross_entropy_sum=70.0,
    )  # fmt: skip
    summary = summary_of(tmp_path, records)

    assert summary.overall["kl"] is None
    assert summary.groups["sw"]["untruncated_kl"].value == pytest.approx(2)  # 28 positions
    assert summary.disparity["untruncated_cross_entropy"].statistics["unfairness"] is not None
    assert any("top-p left the drafter" in n and "`untruncated_kl`" in n for n in summary.notes)


def test_without_a_cut_the_two_are_the_same(tmp_path):
    summary = summary_of(tmp_path, two_languages())

    assert summary.groups["sw"]["untruncated_kl"] == summary.groups["sw"]["kl"] is not None


@pytest.mark.parametrize(
    ("drafter", "settings", "cause"),
    [
        ("prompt_lookup", GREEDY, "prompt lookup proposes one token without a distribution"),
        ("prompt_lookup", CUT, "prompt lookup proposes one token without a distribution"),
        ("some/model", GREEDY, "the drafter's vocabulary lacks tokens of the target's"),
        ("some/model", CUT, "top-k or top-p left the drafter without a token"),
    ],
)
def test_the_cause_of_infinite_divergences_is_the_right_one(tmp_path, drafter, settings, cause):
    records = two_languages(num_infinite_positions=28, settings=settings)
    folder = write_folder(tmp_path / "run", records, settings={"drafter": drafter})

    notes = [note for note in build_summary([folder]).notes if "infinite" in note]

    assert len(notes) == 1
    assert cause in notes[0]


def test_baselines_that_differ_are_counted(tmp_path):
    records = [
        generation("specfair_demo_sw", i, **(PAIRED | {"baseline_agrees": i > 0})) for i in range(6)
    ]
    summary = summary_of(tmp_path, records)

    assert (summary.counts.agreeing_baselines, summary.counts.differing_baselines) == (5, 1)
    assert any(note.startswith("1 of 6 greedy requests") for note in summary.notes)


def test_several_runs_are_pooled(tmp_path):
    swahili = write_folder(tmp_path / "a", two_languages()[::2], seed=1, name="x")
    french = write_folder(tmp_path / "b", two_languages()[1::2], seed=2, name="x", finished=None)
    apart = build_summary([swahili, french])
    together = summary_of(tmp_path, two_languages())

    assert apart.groups == together.groups
    assert apart.run["folders"] == ["a", "b"]
    assert apart.run["name"] == "x"
    assert apart.run["differing"]["seed"] == [1, 2]
    assert any("The run in b did not finish" in note for note in apart.notes)


def test_runs_of_other_targets_are_pooled_and_said(tmp_path):
    settings = {"target": "a", "target_weights": "sha256:1", "num_speculative_tokens": 4}
    first = write_folder(tmp_path / "a", two_languages(), settings=settings)
    moved = write_folder(tmp_path / "b", two_languages(), settings=settings | {"target": "b"})
    other = write_folder(
        tmp_path / "c", two_languages(), settings=settings | {"target_weights": "sha256:2"}
    )
    older = write_folder(tmp_path / "d", two_languages())

    def said(*folders):
        return [note for note in build_summary(folders).notes if "The runs differ in" in note]

    assert said(first) == said(first, moved) == []
    assert "differ in target: every estimate pools them" in said(first, other)[0]
    assert "num_speculative_tokens" in said(first, older)[0]


def test_records_of_tasks_that_the_run_does_not_name_are_said(tmp_path):
    named = {"specfair_demo_sw": {}, "specfair_demo_fr": {}}
    whole = write_folder(tmp_path / "whole", two_languages(), tasks=named)
    mixed = write_folder(tmp_path / "mixed", two_languages(), tasks={"specfair_demo_sw": {}})

    def said(folder):
        return [note for note in build_summary([folder]).notes if "two runs" in note]

    assert said(whole) == []
    assert "such as specfair_demo_fr: were two runs written into one folder?" in said(mixed)[0]


def test_a_report_made_twice_is_the_same(tmp_path):
    folder = write_folder(tmp_path / "run", parallel_run({"sw": 0.4, "fr": 0.7}))

    assert render(build_summary([folder]), "json") == render(build_summary([folder]), "json")


def test_what_cannot_be_read_is_one_clear_line(tmp_path):
    empty = write_folder(tmp_path / "empty", [])
    twice = write_folder(tmp_path / "twice", [generation("specfair_demo_sw", 0)] * 2)
    cases = [
        ([], "expected at least one folder"),
        ([tmp_path / "nowhere"], "holds no run.json"),
        ([empty], "no records in"),
        ([twice], "'specfair_demo_sw/0/0' was recorded twice"),
        ([twice, tmp_path / "twice" / ".." / "twice"], "is named twice"),
    ]
    for folders, expected in cases:
        with pytest.raises(ConfigError, match=expected) as caught:
            build_summary(folders)
        assert "\n" not in str(caught.value)


def test_the_json_report_has_the_agreed_shape(thirty):
    report = json.loads(render(thirty, "json"))

    assert report["schema_version"] == 2
    assert {"run", "overall", "groups", "disparity"} <= set(report)
    assert set(report["groups"]) == set(LANGUAGES)
    figure = report["groups"]["en"]["mean_acceptance_length"]
    assert set(figure) == {"value", "low", "high", "n"}
    assert figure["low"] < figure["value"] < figure["high"]
    spread = report["disparity"]["mean_acceptance_length"]
    assert (spread["best"], spread["worst"]) == ("en", "km")
    assert set(spread["difference"]) == {"value", "low", "high", "n"}
    assert report["disparity"]["cross_entropy"]["unfairness"]["value"] > 0


def test_an_unmeasured_figure_is_null(tmp_path):
    report = json.loads(render(summary_of(tmp_path, two_languages()), "json"))

    assert report["overall"]["measured_speedup"] is None
    assert report["groups"]["sw"]["bits_per_byte"] is None
    assert report["disparity"]["measured_speedup"] is None


def test_the_table_is_sorted_narrow_and_plain(thirty):
    lines = render(thirty, "table").splitlines()
    names = [line.split("(")[0].strip() for line in lines if re.search(r"\([a-z]{2}\) ", line)]

    assert names[0] == "English"
    assert names[-1] == "Khmer"
    assert len(names) == 30
    assert max(map(len, lines)) <= 130
    assert all(line.isascii() for line in lines)
    assert [line.split()[0] for line in lines if line.startswith(("Larg", "Small", "Diff", "Rat"))]


def test_the_csv_holds_every_figure_once(thirty):
    rows = list(csv.DictReader(io.StringIO(render(thirty, "csv"))))
    english = [row for row in rows if row["group"] == "en" and row["section"] == "group"]

    assert len({row["metric"] for row in english}) == len(english)
    assert len(english) == sum(each is not None for each in thirty.groups["en"].values())
    assert {row["section"] for row in rows} == {"overall", "group", "disparity"}
    (length,) = [row for row in english if row["metric"] == "mean_acceptance_length"]
    assert float(length["value"]) == thirty.groups["en"]["mean_acceptance_length"].value


HOSTILE = [
    "=1+1",
    "@SUM(A1)",
    "a|b",
    "<script>alert(1)</script>",
    "[x](http://e.org)",
    "$x$",
    "漢字",
]


@pytest.fixture
def hostile(tmp_path):
    records = [
        generation("t", 100 * i + j, group_fields={"domain": name})
        for i, name in enumerate(HOSTILE)
        for j in range(6)
    ]
    return build_summary([write_folder(tmp_path / "run", records)], group_by="domain")


def test_group_names_cannot_break_out_of_a_report(hostile):
    page, markdown, sheet = (render(hostile, form) for form in ("html", "md", "csv"))

    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;" in page
    assert "<script" not in markdown
    assert r"a\|b" in markdown
    assert "](http" not in markdown
    cells = [cell for row in csv.reader(io.StringIO(sheet)) for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_the_page_needs_nothing_else(thirty):
    page = render(thirty, "html")

    assert not re.search(r"https?://|<img|<link|@import|url\(", page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("Swedish (sv)") >= 2


def test_an_unknown_format_is_refused(thirty):
    with pytest.raises(ValueError, match="format must be table, md, json, csv or html, got 'pdf'"):
        render(thirty, "pdf")


def test_a_report_is_five_files(thirty, tmp_path):
    files = write_report(thirty, tmp_path / "new" / "folder")

    names = ["report.md", "report.json", "report.csv", "report.html", "acceptance.svg"]
    assert [file.name for file in files] == names
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(names)
    assert json.loads(files[1].read_text()) == json.loads(render(thirty, "json"))
    assert "](acceptance.svg)" in files[0].read_text()
    assert write_report(thirty, tmp_path / "new" / "folder") == files


def test_a_folder_that_cannot_be_written_is_said(thirty, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=r"cannot write .*folder that can be written"):
        write_report(thirty, tmp_path / "file" / "folder")


def test_a_table_is_made_without_matplotlib():
    code = (
        "import sys; import lm_eval_specfair.reporting.report.build_report;"
        "print({'matplotlib', 'jinja2', 'scipy.stats'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_intervals_of_the_same_requests_do_not_move_with_the_groups(tmp_path):
    rates = {"ja": 0.7, "ko": 0.5, "en": 0.6, "de": 0.55, "fr": 0.4}
    folder = write_folder(tmp_path / "run", parallel_run(rates, num_documents=12))

    usual = build_summary([folder])
    for group_by, same in (("script", {"Jpan": "ja", "Kore": "ko"}), ("task", {"xnli_ja": "ja"})):
        other = build_summary([folder], group_by=group_by)
        assert other.overall == usual.overall
        for group, language in same.items():
            assert other.groups[group] == usual.groups[language]
    assert build_summary([folder], group_by="script").groups.keys() > {"Latn"}


def test_an_interval_without_width_is_said_to_be_one(tmp_path):
    varied = [generation("t_fr", n, num_accepted_draft_tokens=20 + n % 3) for n in range(8)]
    alike = [generation("t_de", n) for n in range(8)]
    folder = write_folder(tmp_path / "run", varied + alike)

    (note,) = [
        line for line in footnotes(build_summary([folder], group_by="task")) if "width" in line
    ]
    assert note.startswith("An interval without width (t_de): all documents gave the same value")

    folder = write_folder(tmp_path / "varied", varied)
    lines = footnotes(build_summary([folder], group_by="task"))
    assert not any("width" in line for line in lines)
