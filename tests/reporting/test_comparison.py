"""From two runs' folders to a comparison: what is refused, what is computed, what is printed."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import jsonschema
import numpy as np
import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.comparison.gate import DisparityLimit, Gate, Margins, parse_gate
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun, resample_alike
from lm_eval_specfair.metrics.comparison.verdict import judge
from lm_eval_specfair.metrics.definitions.speedup import MODELLED_SPEEDUP
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES
from lm_eval_specfair.records import Settings
from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison
from lm_eval_specfair.reporting.comparison.compare_tables import tables
from lm_eval_specfair.reporting.comparison.compare_text import as_json, as_junit, render
from lm_eval_specfair.reporting.json_schema import json_schema
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.pages import Elements
from support.synthetic_records import PAIRED, addends, generation, parallel_run, write_folder

TARGET = {"target": "big", "target_weights": "sha256:1", "dtype": "float32", "baseline": 8}
HOSTILE = '=cmd|" /C calc"!A0 <script>alert(1)</script> [x](javascript:y) @all | `\x1b[31m'


def settings(**changes):
    return {"settings": TARGET | {"drafter": "small", "num_speculative_tokens": 4} | changes}


def folders(tmp_path, *runs, **about):
    return [
        write_folder(tmp_path / name, records, **(settings() | about))
        for name, records in zip(("base", "first", "second"), runs, strict=False)
    ]


def compared(tmp_path, *runs, **options):
    base, *candidates = folders(tmp_path, *runs)
    return build_comparison(base, candidates, **({"num_resamples": 300} | options))


def languages(*, sw=20, fr=20, documents=8, **changes):
    """Tokens accepted in 10 steps, the same in all documents but for the odd ones' one more."""
    return [
        generation(f"demo_{name}", i, num_accepted_draft_tokens=accepted + i % 2, **changes)
        for name, accepted in (("sw", sw), ("fr", fr))
        for i in range(documents)
    ]


def test_changes_by_hand(tmp_path):
    # Swahili: 1 + 205 / 100 tokens a step, then 1 + 305 / 100; French the other way round.
    report = compared(tmp_path, languages(sw=20, fr=30), languages(sw=30, fr=20))
    [candidate] = report.comparison.candidates
    swahili = candidate.groups["sw"]["mean_acceptance_length"]

    assert swahili.base.value == pytest.approx(3.05)
    assert swahili.candidate.value == pytest.approx(4.05)
    # Each document changes by the same, whatever is drawn.
    difference = swahili.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((1, 1, 1))
    assert swahili.relative.value == pytest.approx(1 / 3.05)
    assert swahili.p_adjusted < 0.001
    assert candidate.groups["fr"]["mean_acceptance_length"].difference.value == pytest.approx(-1)
    overall = candidate.overall["mean_acceptance_length"]
    assert (overall.difference.value, overall.p_value) == (0, 1)
    spread = candidate.spreads["mean_acceptance_length"]["ratio"]
    assert (spread.base.value, spread.candidate.value) == pytest.approx((3.05 / 4.05, 3.05 / 4.05))
    assert spread.difference.value == pytest.approx(0)


def test_every_measure_of_spread_of_a_report_has_a_change(tmp_path):
    before = parallel_run({"sw": 0.4, "fr": 0.7, "de": 0.6}, num_documents=8)
    after = parallel_run({"sw": 0.5, "fr": 0.7, "de": 0.6}, num_documents=8, seed=1)
    report = compared(tmp_path, before, after, all_measures=True)
    [candidate] = report.comparison.candidates
    own = {"difference_bias", "unfairness_uncorrected", "relative_unfairness_uncorrected"}

    for metric, folder in (("modelled_speedup", "base"), ("overlap", "base")):
        spread = build_summary([tmp_path / folder], all_measures=True).disparity[metric]
        changes = candidate.spreads[metric]
        assert set(changes) == {name for name, each in spread.statistics.items() if each} - own
        for name, change in changes.items():
            # The report draws more often, and so corrects for noise a little differently.
            assert change.base.value == pytest.approx(spread.statistics[name].value, rel=0.02), name
            assert change.difference.value == pytest.approx(
                change.candidate.value - change.base.value
            ), name
            assert change.difference.low <= change.difference.value <= change.difference.high
            assert change.p_value <= change.p_adjusted <= 1
    assert "Theil" in render(report, "md")
    # Over all measures: of as many claims, the smallest p-value is taken so many times.
    changes = candidate.spreads["modelled_speedup"]
    least = min(changes.values(), key=lambda change: change.p_value)
    assert least.p_adjusted == pytest.approx(min(1, len(changes) * least.p_value))


@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_report_and_a_comparison_give_the_same_interval_of_the_same_number(tmp_path, is_parallel):
    rates = {"sw": 0.4, "fr": 0.7, "de": 0.6}
    before, after = (parallel_run(rates, num_documents=14, seed=seed) for seed in (0, 1))
    if not is_parallel:  # one French text less: each language is drawn on its own
        before, after = (
            [each for each in run if not (each.task.endswith("_fr") and each.doc_id == 3)]
            for run in (before, after)
        )
    compared_runs = compared(
        tmp_path, before, after, all_measures=True, num_resamples=NUM_RESAMPLES
    )
    [candidate] = compared_runs.comparison.candidates
    reports = [build_summary([tmp_path / name], all_measures=True) for name in ("base", "first")]

    assert [report.is_parallel for report in reports] == [is_parallel] * 2
    for report, side in zip(reports, ("base", "candidate"), strict=True):
        for group in ("sw", "fr", "de"):
            for metric, change in candidate.groups[group].items():
                assert change is None or report.groups[group][metric] == getattr(change, side)
        for metric, change in candidate.overall.items():
            assert change is None or report.overall[metric] == getattr(change, side)
        for metric, changes in candidate.spreads.items():
            statistics = report.disparity[metric].statistics
            for name, change in changes.items():
                assert statistics[name] == getattr(change, side), (metric, name)
    assert len(candidate.spreads) > 20
    gate = Gate(
        metric="modelled_speedup",
        disparity=DisparityLimit(statistic="difference", max_increase=0.1, at_most=0.5),
    )
    [verdict] = judge(gate, compared_runs.comparison.runs, [candidate.texts])
    observed = {check.name: check.observed for check in verdict.checks}
    assert (
        observed["disparity.max_increase"]
        == candidate.spreads[gate.metric]["difference"].difference
    )
    assert (
        observed["disparity.at_most"] == reports[1].disparity[gate.metric].statistics["difference"]
    )


def test_runs_of_very_many_documents_are_compared():
    # More documents than are left out one by one where a cost depends on all of them.
    one = addends(generation("t", 0, baseline_seconds=2.0, baseline_generated_tokens=30))
    times = np.random.default_rng(0).integers(1, 4, (10, 600, 1, 1))
    blocks = [one * part for part in times]
    [resampled] = resample_alike([blocks], np.random.default_rng(1), 60)
    run = MeasuredRun(name="run", resampled=resampled, numbers={f"g{i}": i for i in range(10)})

    assert run.mean(MODELLED_SPEEDUP).estimate.low is not None


def test_a_users_own_groups_are_compared(tmp_path, capsys):
    base, first = folders(tmp_path, languages(), languages(sw=30))
    groups = tmp_path / "groups.yaml"
    groups.write_text('tasks: {"demo_*": {team: [all, "one more"]}}\n')
    command = ["compare", str(base), str(first), "--group-by", "team", "--format", "json"]

    assert main(command) == 2
    assert "no request says anything about 'team'" in capsys.readouterr().err
    assert main([*command, "--groups", str(groups)]) == 0
    assert set(json.loads(capsys.readouterr().out)["candidates"]["first"]["groups"]) == {
        "all",
        "one more",
    }


def test_a_run_compared_with_itself_does_not_differ(tmp_path):
    records = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=8)
    report = compared(tmp_path, records, records, gate=parse_gate({"when_undecided": "fail"}))
    [candidate] = report.comparison.candidates

    for changes in candidate.groups.values():
        for change in changes.values():
            if change is not None:
                difference = change.difference
                assert (difference.value, difference.low, difference.high) == (0, 0, 0)
                assert change.p_value == 1
    assert report.passed
    assert {check.state for check in report.verdicts[0].checks} == {"kept"}


def test_intervals_are_those_of_a_brute_force_that_draws_documents_in_pairs(tmp_path):
    runs = [
        parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=30, num_baselines=0, seed=seed)
        for seed in (1, 2)
    ]
    report = compared(tmp_path, *runs, num_resamples=4_000)
    change = report.comparison.candidates[0].groups["sw"]["mean_acceptance_length"]

    of_runs = []
    for records in runs:
        chosen = [r for r in records if r.task == "xnli_sw" and r.request_type == "generate_until"]
        chosen.sort(key=lambda r: r.doc_id)
        of_runs.append([(r.num_accepted_draft_tokens, r.num_spec_steps) for r in chosen])
    generator, differences = np.random.default_rng(3), []
    for _ in range(4_000):
        drawn = generator.integers(30, size=30)
        lengths = []
        for counts in of_runs:
            accepted = sum(counts[i][0] for i in drawn)
            steps = sum(counts[i][1] for i in drawn)
            lengths.append(1 + accepted / steps)
        differences.append(lengths[1] - lengths[0])
    spread = np.std(differences)
    half = (change.difference.high - change.difference.low) / 2

    # 2.045 is the 97.5% point of Student's distribution with 29 degrees of freedom.
    assert half == pytest.approx(2.045 * (30 / 29) ** 0.5 * spread, rel=0.08)


def test_pairing_takes_out_what_makes_a_document_hard_for_every_drafter(tmp_path):
    def run(extra):
        # Documents between 0 and 38 accepted tokens, the candidate always one more.
        return [
            generation("specfair_demo_sw", i, num_accepted_draft_tokens=2 * i + extra)
            for i in range(20)
        ]

    change = (
        compared(tmp_path, run(0), run(1))
        .comparison.candidates[0]
        .groups["sw"]["mean_acceptance_length"]
    )

    assert change.base.high - change.base.low > 0.5
    assert (change.difference.low, change.difference.high) == pytest.approx((0.1, 0.1))


def test_the_order_in_which_requests_finished_does_not_matter(tmp_path):
    base, other = (
        parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=8, seed=seed) for seed in (1, 2)
    )
    straight = compared(tmp_path / "a", base, other)
    turned = compared(tmp_path / "b", base, other[::-1])

    assert straight.comparison.candidates == turned.comparison.candidates


@pytest.mark.parametrize(("family_wise", "claims"), [(False, 2), (True, 4)])
def test_holm_runs_over_the_groups_of_one_candidate_or_of_all_where_asked(
    tmp_path, family_wise, claims
):
    records = [
        parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=12, num_baselines=0, seed=seed)
        for seed in (1, 2, 3)
    ]
    report = compared(tmp_path, *records, family_wise=family_wise)
    changes = [
        candidate.groups[group]["overlap"]
        for candidate in report.comparison.candidates
        for group in ("sw", "fr")
    ]
    smallest = min(changes, key=lambda change: change.p_value)

    assert smallest.p_adjusted == pytest.approx(min(1, claims * smallest.p_value))


def with_companions(tmp_path):
    """A base, a candidate that loses, and eleven more: copies of the base, one not lossless."""
    rates = {"sw": 0.4, "fr": 0.7}
    worse = {name: rate - 0.15 for name, rate in rates.items()}
    options = {"num_documents": 10, "num_baselines": 10}
    drawn = [parallel_run(rates, **options), parallel_run(worse, seed=1, **options)]
    drawn += [drawn[0]] * 5
    drawn += [parallel_run(rates, seed=seed, **options) for seed in range(2, 8)]
    return [
        write_folder(
            tmp_path / f"run{place:02}",
            # One text that all have, another in the last.
            [
                *records,
                generation(
                    "xnli_sw", 10, generated_token_ids=[8 if place == 12 else 7] * 30, **PAIRED
                ),
            ],
            **settings(dtype="float32"),
        )
        for place, records in enumerate(drawn)
    ]


def test_markdown_of_many_candidates_fits_into_a_comment_and_names_what_is_left_out(tmp_path):
    names = [f"{place:02}-" + "k\u0627" * 30 for place in range(34)]  # two-byte characters too
    rates = {"sw": 0.4, "fr": 0.7}
    drawn = parallel_run(rates, num_documents=6, num_baselines=6)
    worse = parallel_run({"sw": 0.1, "fr": 0.2}, num_documents=6, num_baselines=6)
    folders = [
        write_folder(tmp_path / name, worse if place == 33 else drawn, **settings())
        for place, name in enumerate(names)
    ]
    gate = Gate(metric="mean_acceptance_length", margins=Margins(any_group=0.05))
    report = build_comparison(folders[0], folders[1:], gate=gate, num_resamples=100)
    text, page, data = (render(report, form) for form in ("md", "html", "json"))

    assert len(text) < 65_536
    assert len(text.encode()) < 65_536
    assert len(text.encode()) > 55_000
    # Who fails is told first, with the reasons.
    assert text.count("**fails**") == 1
    assert f"<summary>Gate: {names[33]} FAILS" in text
    assert text.count("<details>") == text.count("</details>")
    [line] = [each for each in text.splitlines() if each.startswith("**Left out**")]
    assert "65,536 characters" in line
    assert "--format html" in line
    assert re.search(r"and \d+ more", line)
    assert all(name in page for name in names)
    assert set(json.loads(data)["candidates"]) == set(names[1:])
    # Small ones are whole, as before.
    small = build_comparison(folders[0], folders[33:34], gate=gate, num_resamples=100)
    assert "Left out" not in render(small, "md")
    # All tables but that of the runs, and the notes.
    assert render(small, "md").count("<details>") == len(tables(small))


@pytest.mark.parametrize("gate", [Gate(), Gate(margins=Margins(any_group=0.05))])
def test_a_candidate_is_judged_the_same_to_the_last_bit_alone_and_among_eleven(tmp_path, gate):
    base, candidate, *companions = with_companions(tmp_path)
    alone = build_comparison(base, [candidate], gate=gate, num_resamples=200)
    among = build_comparison(base, [*companions, candidate], gate=gate, num_resamples=200)
    one, several = as_json(alone), as_json(among)

    assert several["candidates"]["run01"] == one["candidates"]["run01"]
    assert several["verdicts"][-1] == one["verdicts"][0]
    assert one["verdicts"][0]["state"] == "broken"
    assert [each.passed for each in among.verdicts] == [True] * 10 + [False] * 2


def test_one_rate_over_all_candidates_is_had_by_asking_and_its_price_is_said(tmp_path):
    base, candidate, *companions = with_companions(tmp_path)
    runs = [candidate, *companions]
    own = build_comparison(base, runs, gate=Gate(), num_resamples=200)
    asked = [
        build_comparison(base, runs, gate=Gate(), num_resamples=200, family_wise=True),
        build_comparison(base, runs, gate=parse_gate({"family_wise": True}), num_resamples=200),
    ]

    assert as_json(asked[0]) == as_json(asked[1])
    single, together = own.verdicts[0].checks[0], asked[0].verdicts[0].checks[0]
    assert together.p_broken > 5 * single.p_broken
    assert together.observed == single.observed
    price = [line for line in render(asked[0], "md").splitlines() if "One rate of" in line]
    [figures] = [re.findall(r"from ([\d.]+)% on", line) for line in price]
    assert float(figures[0]) > float(figures[1]) > 2
    assert "One rate of" not in render(own, "md")


def test_a_run_is_on_the_pareto_front_unless_another_is_as_good_in_both(tmp_path):
    report = compared(
        tmp_path, languages(sw=20, fr=30), languages(sw=25, fr=27), languages(sw=19, fr=38)
    )
    length = {
        name: standings["mean_acceptance_length"]
        for name, standings in report.comparison.standings.items()
    }

    # Means 2.55, 2.65 and 2.9 above one; worst 2.05, 2.55 and 1.95.
    assert {name: list(each.beaten_by) for name, each in length.items()} == {
        "base": ["first"],
        "first": [],
        "second": [],
    }
    assert length["second"].worst_group == "sw"
    assert length["second"].mean.value == pytest.approx(1 + (1.95 + 3.85) / 2)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("target_weights", "sha256:2", "target_weights was 'sha256:1', is 'sha256:2'"),
        ("dtype", "bfloat16", "dtype was 'float32', is 'bfloat16'"),
        ("baseline", 0, "baseline was 8, is 0"),
        ("batch_size", 4, "batch_size was None, is 4"),
    ],
)
def test_other_settings_are_refused(tmp_path, name, value, complaint):
    base = write_folder(tmp_path / "base", languages(), **settings())
    other = write_folder(tmp_path / "other", languages(), **settings(**{name: value}))

    with pytest.raises(ConfigError, match=f"cannot compare other with base: {complaint}"):
        build_comparison(base, [other])


def test_drafter_draft_length_and_the_targets_path_may_differ(tmp_path):
    base = write_folder(tmp_path / "base", languages(), **settings())
    other = write_folder(
        tmp_path / "other",
        languages(
            sw=10,
            fr=10,
            settings=Settings(num_speculative_tokens=2, temperature=0, top_k=None, top_p=None),
        ),
        **settings(drafter="x", drafter_weights="y", num_speculative_tokens=2, target="/else/big"),
    )

    assert build_comparison(base, [other], num_resamples=50).comparison.groups == ["fr", "sw"]


def other_settings(**changes):
    greedy = {"num_speculative_tokens": 4, "temperature": 0.0, "top_k": None, "top_p": None}
    return Settings(**(greedy | changes))


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        (languages()[:-1], "1 request only in the base, such as 'demo_fr/7/0'"),
        (
            [*languages(), generation("demo_sw", 99)],
            "1 request only in the candidate, such as 'demo_sw/99/0'",
        ),
        (languages()[:8], "tasks only in the base: 'demo_fr'"),
        (
            [*languages(), generation("demo_xh", 0)],
            "tasks only in the candidate: 'demo_xh'",
        ),
        (
            languages(settings=other_settings(temperature=0.5)),
            r"16 requests differ in temperature, such as 0\.0 and 0\.5 in 'demo_sw/0/0'",
        ),
        (languages(settings=other_settings(top_k=5)), "16 requests differ in top_k"),
        (languages(settings=other_settings(top_p=0.5)), "16 requests differ in top_p"),
        (languages(num_prompt_tokens=13), "differ in num_prompt_tokens, such as 12 and 13"),
        (
            languages(baseline_seconds=1.0, baseline_generated_tokens=30),
            "differ in a plain baseline, such as False and True",
        ),
        (
            languages(group_fields={"language": "de"}),
            "16 requests differ in group, such as 'sw' and 'de'",
        ),
    ],
)
def test_other_requests_are_refused(tmp_path, records, complaint):
    with pytest.raises(ConfigError, match=complaint) as refusal:
        compared(tmp_path, languages(), records)
    assert "\n" not in str(refusal.value)


def test_an_escape_in_a_name_reaches_no_terminal(tmp_path):
    odd = [generation("demo_sw\x1b[2J", i) for i in range(6)]

    with pytest.raises(ConfigError) as refusal:
        compared(tmp_path, languages(), odd)
    assert "\x1b" not in str(refusal.value)


def test_a_language_that_only_the_tasks_configuration_says_is_compared(tmp_path):
    tasks = {"toy": {"metadata": {}, "config": {"dataset_name": "yor_Latn"}}}
    records = [generation("toy", i) for i in range(6)]
    base, first = folders(tmp_path, records, records, tasks=tasks)
    report = build_comparison(base, [first], num_resamples=100)

    assert report.comparison.groups == ["yo"]
    assert report.comparison.num_ungrouped == 0


def test_a_folder_named_twice_is_refused(tmp_path):
    [base] = folders(tmp_path, languages())

    with pytest.raises(ConfigError, match="named twice"):
        build_comparison(base, [tmp_path / "other" / ".." / "base"])


def test_no_records_and_records_written_twice_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no records in"):
        compared(tmp_path / "a", [], [])
    with pytest.raises(ConfigError, match="recorded twice"):
        compared(tmp_path / "b", languages(), languages() * 2)


def test_another_machine_is_noted(tmp_path):
    base = write_folder(tmp_path / "base", languages(), **settings(), hardware={"gpu": "H200"})
    other = write_folder(tmp_path / "other", languages(), **settings(), hardware={"gpu": "L4"})

    [note, *_] = build_comparison(base, [other], num_resamples=50).notes
    assert "other ran on another machine than base (gpu was 'H200', is 'L4')" in note


def with_texts(last_token):
    return [
        generation(
            f"demo_{name}",
            i,
            generated_token_ids=[1] * 29 + [last_token if (name, i) == ("sw", 3) else 3],
        )
        for name in ("sw", "fr")
        for i in range(6)
    ]


def test_greedy_texts_are_compared_and_a_difference_fails_the_gate(tmp_path):
    gate = parse_gate(
        {
            "metric": "overlap",
            "margins": {"mean": 0.5, "worst_group": 0.5, "dominant_group": 0.5},
            "disparity": {"max_increase": 0.5},
        }
    )
    same = compared(tmp_path / "a", with_texts(3), with_texts(3), gate=gate)
    other = compared(tmp_path / "b", with_texts(3), with_texts(4), gate=gate)
    texts = other.comparison.candidates[0].texts

    assert (texts.compared, texts.differing, list(texts.examples)) == (12, 1, ["demo_sw/3/0"])
    differing = "1 of 12 greedy texts differ from the base's, such as demo_sw/3/0"
    assert any(differing in note for note in other.notes)
    assert (same.passed, other.passed) == (True, False)


def test_sampled_texts_are_not_compared(tmp_path):
    sampled = [
        generation(
            "demo_sw", i, generated_token_ids=[i] * 30, settings=other_settings(temperature=1.0)
        )
        for i in range(6)
    ]

    assert compared(tmp_path, sampled, sampled).comparison.candidates[0].texts.compared == 0


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    runs = [
        [
            generation(
                "t",
                100 * place + i,
                group_fields={"domain": name},
                num_accepted_draft_tokens=20 + extra + place,
            )
            for place, name in enumerate((HOSTILE, "-2+3", "حقوق"))
            for i in range(6)
        ]
        for extra in (0, -15)
    ]
    gate = parse_gate({"metric": "mean_acceptance_length"})
    return compared(folder, *runs, group_by="domain", gate=gate)


def test_hostile_names_do_nothing_in_a_page(hostile):
    page = render(hostile, "html")
    elements = Elements(page).found

    assert [tag for tag, _ in elements].count("script") == 1
    assert "<script>alert" not in page
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", page)
    assert all(not name.startswith("on") for _, attributes in elements for name in attributes)
    drawn = [attributes for tag, attributes in elements if tag == "svg"]
    assert all(
        each.get("aria-hidden") or each.get("aria-label")
        for each in drawn
        if each.keys() != {"x", "y", "overflow"}
    )
    # What sorting needs: a key in every cell, and a place that says it.
    assert all(
        "data-value" in attributes
        for tag, attributes in elements
        if tag == "td" and "class" not in attributes
    )
    tables = [attributes["class"] for tag, attributes in elements if tag == "table"]
    assert tables.count("numbers sortable") == [a.get("role") for _, a in elements].count("status")


def test_the_page_draws_each_groups_change_and_each_runs_standing(tmp_path):
    # Swahili gains a token a step, French loses one; German has too few requests.
    report = compared(
        tmp_path,
        [*languages(sw=20, fr=30), generation("demo_de", 0)],
        [*languages(sw=30, fr=20), generation("demo_de", 0)],
    )
    page = render(report, "html")
    rows = re.findall(
        r'<bdi>(\w+) \(\w+\)</bdi></th><td class="track">.*?class="dot (s\d)".*?>([+-][^<]+)</td>',
        page,
        re.DOTALL,
    )

    assert rows == [
        ("French", "s1", "-1.00 [-1.00, -1.00]"),
        ("Swahili", "s0", "+1.00 [+1.00, +1.00]"),
    ]
    # Both runs have the same mean and worst group; none stands behind the other.
    assert page.count("Mean over groups 3.55") == 2
    assert page.count("Worst group 3.05") == 2
    drawing = page[page.index('class="drawing"') : page.index("</figure>")]
    assert "dot s1" not in drawing
    totals = re.findall(r"<tbody>\s*<tr><th[^>]*><bdi>All requests", page)
    assert len(totals) == 1


def test_hostile_names_do_nothing_in_text(hostile):
    table, markdown = render(hostile, "table"), render(hostile, "md")
    cells = [cell for row in csv.reader(io.StringIO(render(hostile, "csv"))) for cell in row]

    assert "\x1b" not in table + markdown
    assert "<script>" not in markdown
    assert not re.search(r"(?<!\\)\]\(", markdown)
    assert "@all" not in markdown
    named = [cell for cell in cells if "cmd" in cell or "2+3" in cell]
    assert named
    assert all(cell.startswith("'") for cell in named)


def test_junit_holds_a_case_for_each_limit(hostile):
    suites = ET.fromstring(as_junit(hostile))
    [suite] = suites

    assert suite.get("name") == "first"
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    # All groups lose 1.5 of 3 to 3.2 tokens a step.
    assert cases["mean"] == cases["worst_group"] == cases["dominant_group"] == ["failure"]
    assert int(suite.get("tests")) == len(cases)
    assert int(suite.get("failures")) == [*cases.values()].count(["failure"])


def test_json_and_csv_hold_all_figures(hostile):
    data = json.loads(render(hostile, "json"))
    rows = list(csv.DictReader(io.StringIO(render(hostile, "csv"))))
    change = data["candidates"]["first"]["groups"]["-2+3"]["mean_acceptance_length"]
    [row] = [
        row for row in rows if row["group"] == "'-2+3" and row["metric"] == "mean_acceptance_length"
    ]

    assert change["difference"]["value"] == pytest.approx(-1.5)
    assert float(row["difference"]) == change["difference"]["value"]
    assert float(row["p_adjusted"]) == change["p_adjusted"]
    assert data["verdicts"][0]["state"] == "broken"
    assert data["standings"]["base"]["mean_acceptance_length"]["worst_group"].startswith("=cmd")


def test_the_json_comparison_follows_the_published_schema_and_no_other_does(hostile):
    validator = jsonschema.Draft202012Validator(json_schema("comparison"))

    jsonschema.Draft202012Validator.check_schema(json_schema("comparison"))
    comparison = as_json(hostile)
    validator.validate(comparison)
    assert comparison["verdicts"]
    assert comparison.keys() == json_schema("comparison")["properties"].keys()
    for break_it in (
        lambda c: c.pop("standings"),
        lambda c: c.update(schema_version=2),
        lambda c: c["candidates"]["first"]["overall"]["overlap"].update(p_value=1.5),
        lambda c: c["candidates"]["first"]["greedy_texts"].pop("differing"),
        lambda c: c["candidates"]["first"]["groups"].update(sw=0.5),
        lambda c: c["standings"]["base"]["overlap"].pop("worst_group"),
        lambda c: c["verdicts"][0].update(state="passed"),
        lambda c: c["verdicts"][0]["checks"][0].pop("limit"),
    ):
        broken = as_json(hostile)
        break_it(broken)
        assert not validator.is_valid(broken)


def test_columns_sort_by_the_numbers_that_they_show(hostile):
    for table in tables(hostile):
        for column in range(len(table.header)):
            cells = [row[column] for row in table.rows]
            shown = [re.match(r"[<+]?(-?[0-9.]+)(%?)", cell.text) for cell in cells]
            if table.is_text(column):
                assert column == 0 or not all(shown)
                continue
            for cell, number in zip(cells, shown, strict=True):
                assert (cell.value is None) == (cell.text in ("-", ""))
                if cell.value is not None and not cell.text.startswith("<"):
                    scale = 100 if number[2] else 1
                    assert float(number[1]) == pytest.approx(scale * cell.value, abs=0.0501)


def test_exit_statuses_and_files(tmp_path, capsys):
    base, good, bad = folders(tmp_path, languages(), languages(sw=25, fr=25), languages(sw=5))
    gate = tmp_path / "gate.yaml"
    gate.write_text("metric: mean_acceptance_length\ndisparity: {max_increase: null}\n")
    junit = tmp_path / "new" / "junit.xml"

    assert main(["compare", str(base), str(good), "--gate", str(gate)]) == 0
    assert "Gate: first passes" in capsys.readouterr().out
    both = ["compare", str(base), str(good), str(bad), "--gate", str(gate)]
    assert main([*both, "--junit", str(junit)]) == 1
    assert "Gate: second FAILS" in capsys.readouterr().out
    assert len(ET.parse(junit).getroot()) == 2
    junit.write_text("as it was")
    assert main([*both, "--junit", str(junit), "--metric", "no such"]) == 2
    assert junit.read_text() == "as it was"
    assert main(["compare", str(base), str(bad)]) == 0
    assert main(["compare", str(base), str(bad), "--junit", str(junit)]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("specfair: error: --junit writes a gate's verdicts")
