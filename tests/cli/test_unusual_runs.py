"""Runs that are empty, small, broken or mixed: a result from each verb, or one clear refusal."""

import json
import re
import shutil

import numpy as np
import pytest
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.aggregate.sums import COLUMNS, Sums
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.synthetic_records import (
    GREEDY,
    PAIRED,
    extreme,
    generation,
    parallel_run,
    simulated,
    write_folder,
)

# Reports


def summary_of(tmp_path, records, **options):
    return build_summary([write_folder(tmp_path / "run", records)], **options)


def renders(summary):
    """Every text form can be made, and JSON holds no NaN."""
    texts = [render(summary, form) for form in ("table", "md", "csv", "json")]
    json.loads(texts[-1], parse_constant=lambda name: pytest.fail(name))
    return texts


def refused(action, words):
    with pytest.raises(ConfigError, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_an_empty_run_is_refused(tmp_path):
    refused(lambda: summary_of(tmp_path, []), "no records in .*; expected one for each request")


def test_one_group_has_figures_and_no_disparity(tmp_path):
    summary = summary_of(tmp_path, [generation("xnli_sw", d, **PAIRED) for d in range(6)])

    assert summary.groups["sw"]["modelled_speedup"].value == pytest.approx(1.5)
    assert set(summary.disparity.values()) == {None}
    assert summary.associations == []
    assert renders(summary)


def test_one_document_has_figures_without_intervals(tmp_path):
    same = [generation("xnli_sw", 0, request_id=f"{n}", **PAIRED) for n in range(6)]
    summary = summary_of(tmp_path, same)

    for figure in summary.groups["sw"].values():
        assert figure is None or (figure.low, figure.high) == (None, None)
    assert summary.groups["sw"]["seconds_per_document"].value == pytest.approx(3.6)
    assert summary.groups["sw"]["seconds_per_document_p95"].value == pytest.approx(3.6)
    assert renders(summary)


def intervals_of(item):
    """All (low, high) in what JSON holds."""
    if isinstance(item, dict):
        if {"low", "high"} <= item.keys():
            yield item["low"], item["high"]
        item = list(item.values())
    for each in item if isinstance(item, list) else []:
        yield from intervals_of(each)


def test_two_documents_a_group_have_no_interval_and_the_reader_learns_what_to_do(tmp_path, capsys):
    records = [
        each
        for each in parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=2)
        if each.request_type == "generate_until"
    ]
    folders = [write_folder(tmp_path / name, records, **ABOUT) for name in ("base", "other")]
    verbs = (["report", folders[0]], ["compare", *folders])
    for verb in (list(map(str, words)) for words in verbs):
        assert main(verb) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ", 0 groups" in said or ": 0 groups" in said
        for words in ("No group has 5 requests", "--limit", "--min-requests", "need 6 documents"):
            assert words in said
        assert "2 requests, generated and scored together" not in said
        assert main([*verb, "--min-requests", "1", "--format", "json"]) == 0
        found = list(intervals_of(json.loads(capsys.readouterr().out)))
        assert len(found) > 50
        assert set(found) == {(None, None)}
        assert main([*verb, "--min-requests", "1"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "fewer than 6 documents" in said or "which need 6" in said


def test_one_document_in_each_of_two_groups_has_a_spread_without_interval(tmp_path):
    records = [
        generation(f"xnli_{tag}", 0, num_accepted_draft_tokens=kept)
        for tag, kept in (("sw", 10), ("fr", 30))
    ]
    summary = summary_of(tmp_path, records, min_requests=1)
    spread = summary.disparity["mean_acceptance_length"]

    assert spread.statistics["difference"].value == pytest.approx(2)
    assert spread.statistics["difference"].low is None
    assert spread.deviations == {"fr": None, "sw": None}
    assert renders(summary)


def test_groups_with_no_document_in_common_are_drawn_apart(tmp_path):
    records = [
        generation(f"xnli_{tag}", first + d, num_accepted_draft_tokens=10 + d)
        for tag, first in (("sw", 0), ("fr", 100))
        for d in range(8)
    ]
    summary = summary_of(tmp_path, records)

    assert not summary.is_parallel
    assert summary.disparity["mean_acceptance_length"].statistics["difference"].value == 0
    assert renders(summary)


def test_all_accepted_is_the_longest_and_none_accepted_the_shortest_step(tmp_path):
    records = [extreme("xnli_fr", d, accepted=True) for d in range(6)]
    records += [extreme("xnli_sw", d, accepted=False) for d in range(6)]
    summary = summary_of(tmp_path, records)
    french, swahili = (
        {name: each.value for name, each in summary.groups[group].items() if each}
        for group in ("fr", "sw")
    )

    assert (french["conditional_acceptance_rate"], french["mean_acceptance_length"]) == (1, 5)
    assert (swahili["conditional_acceptance_rate"], swahili["mean_acceptance_length"]) == (0, 1)
    assert french["modelled_speedup"] == pytest.approx(2.5)
    assert swahili["modelled_speedup"] == pytest.approx(0.5)
    assert french["textbook_speedup"] > 1 > swahili["textbook_speedup"]
    assert swahili["conditional_acceptance_at_1"] == 0
    assert "conditional_acceptance_at_2" not in swahili
    spread = summary.disparity["conditional_acceptance_rate"].statistics
    assert (spread["ratio"].value, spread["difference"].value) == (0, 1)
    assert summary.disparity["modelled_speedup"].statistics["share_that_lose"].value == 0.5
    assert renders(summary)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_whole_run_without_a_single_exception_can_be_reported(tmp_path, accepted):
    records = [
        extreme(f"xnli_{tag}", d, accepted=accepted) for tag in ("sw", "fr") for d in range(6)
    ]
    summary = summary_of(tmp_path, records)

    assert summary.disparity["conditional_acceptance_rate"].statistics["difference"].value == 0
    assert renders(summary)


OPTIONAL = [
    "overlap_sum",
    "num_distribution_positions",
    "num_examined_draft_tokens",
    "num_draft_tokens",
    "acceptance_histogram",
    "decode_seconds",
    "draft_seconds",
    "num_generated_bytes",
    "num_spec_steps",
    "settings",
]


@pytest.mark.parametrize("field", OPTIONAL)
def test_a_missing_field_takes_only_its_own_figures_away(tmp_path, field):
    whole = [generation(f"xnli_{tag}", d, **PAIRED) for tag in ("sw", "fr") for d in range(6)]
    summary = summary_of(tmp_path, [structs.replace(each, **{field: None}) for each in whole])

    needed = {"overlap_sum": "overlap", "decode_seconds": "seconds_per_kilobyte"}
    if field in needed:
        assert summary.overall[needed[field]] is None
    assert summary.overall["target_passes_per_document"] is not None or field == "num_spec_steps"
    assert renders(summary)


def test_records_of_an_older_schema_lack_fields_or_are_refused(tmp_path):
    # Before the references' probabilities were recorded, lines had no such fields: no misfit.
    folder = write_folder(tmp_path / "old", [generation("xnli_sw", d) for d in range(6)])
    new = ("target_reference_probability_sum", "drafter_reference_probability_sum")
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    short = [{name: value for name, value in line.items() if name not in new} for line in lines]
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in short))
    summary = build_summary([folder])
    assert summary.overall["target_misfit"] is None
    assert summary.overall["overlap"].value == 0.75

    (folder / "run.json").write_text('{"schema_version": 0}')
    refused(lambda: build_summary([folder]), "this version reads schema 1, got 0")


def test_a_truncated_last_line_is_passed_over_and_a_broken_one_refused(tmp_path):
    folder = write_folder(tmp_path / "run", [generation("xnli_sw", d) for d in range(7)])
    path = folder / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert build_summary([folder]).counts.requests == 6

    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:50] + b"\n", *lines[3:]]))
    refused(lambda: build_summary([folder]), r"records.jsonl:3: expected one JSON object per line")


def test_two_runs_in_one_folder_are_refused(tmp_path):
    generator = np.random.default_rng(0)
    one = [simulated("xnli_sw", d, 0.6, generator) for d in range(6)]
    other = [simulated("xnli_sw", d, 0.6, generator) for d in range(6)]

    refused(lambda: summary_of(tmp_path, one + other), "two runs written into one folder")


def test_figures_on_too_few_requests_are_listed(tmp_path):
    records = [
        generation(f"xnli_{tag}", d, **(PAIRED if d < 2 or tag == "fr" else {}))
        for tag in ("sw", "fr")
        for d in range(8)
    ]
    summary = summary_of(tmp_path, records)

    assert summary.groups["sw"]["measured_speedup"] is None
    assert summary.groups["fr"]["measured_speedup"].n == 8
    assert summary.figures_not_reported == {"sw": {"measured_speedup": 2}}
    assert summary.disparity["measured_speedup"] is None
    assert "sw (measured speed-up)" in " ".join(render(summary, "table").split())


def test_every_metric_is_nan_and_not_an_error_on_nothing():
    nothing = Sums(np.zeros((3, len(COLUMNS))))
    for metric in METRICS:
        assert np.isnan(metric.evaluate(nothing, nothing)).all(), metric.name
    assert GREEDY.temperature == 0


# Compared, gated, packed, and made a policy of

ABOUT = {
    "settings": {
        "target": "big",
        "target_weights": "sha256:1",
        "drafter": "small",
        "dtype": "float32",
        "num_speculative_tokens": 4,
        "baseline": 8,
    },
    "hardware": {"processor": "EPYC"},
    "versions": {"python": "3.11"},
}
# What holds together, as a submission checks: 20 accepted of 40 in 10 steps.
WHOLE = {"acceptance_histogram": [2, 2, 2, 2, 2], **PAIRED}
PARALLEL = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)


def all_or_none(*, accepted):
    return [
        structs.replace(extreme(f"xnli_{tag}", d, accepted=accepted), accepted_per_step=each)
        for tag in ("sw", "fr")
        for d in range(6)
        for each in [[4 if accepted else 0] * (10 + d)]
    ]


RUNS = {
    "empty": [],
    "one group": parallel_run({"sw": 0.4}, num_documents=6),
    "one document": [
        generation(f"xnli_{tag}", 0, request_id=f"{tag}/{n}", **WHOLE)
        for tag in ("sw", "fr")
        for n in range(6)
    ],
    "one request": [generation("xnli_sw", 0, **WHOLE)],
    "nothing in common": [
        generation(f"xnli_{tag}", first + d, **WHOLE | {"num_generated_bytes": 72 + d % 3})
        for tag, first in (("sw", 0), ("fr", 100))
        for d in range(6)
    ],
    "all accepted": all_or_none(accepted=True),
    "none accepted": all_or_none(accepted=False),
    "no language": [generation("gsm8k", d, **WHOLE) for d in range(6)],
    "only scored": [each for each in PARALLEL if each.request_type == "loglikelihood"],
    "all failed": [structs.replace(each, failure="no numbers") for each in PARALLEL],
    "some failed": [
        structs.replace(each, failure="no numbers" if each.doc_id == 1 else None)
        for each in PARALLEL
    ],
    "missing fields": [
        structs.replace(each, num_examined_draft_tokens=None, overlap_sum=None, num_spec_steps=None)
        for each in PARALLEL
    ],
    "two runs": PARALLEL * 2,
}
NO_SPEED = "speed-up|speed-ups"
# What is refused, and in which words; all else must give a result.
REFUSALS = {
    ("empty", "compare"): "no records in .*base",
    ("empty", "gate"): "no records in .*base",
    ("empty", "policy"): "got no drafts",
    ("empty", "pack"): "no records in",
    ("one request", "gate"): "a gate needs at least one group",
    ("one request", "policy"): "at least 5 requests",
    ("one request", "pack"): NO_SPEED,
    ("no language", "gate"): "a gate needs at least one group",
    ("no language", "policy"): "at least 5 requests",
    ("no language", "pack"): NO_SPEED,
    ("only scored", "gate"): "does not have in every group",
    ("only scored", "policy"): "got no drafts",
    ("only scored", "pack"): NO_SPEED,
    ("all failed", "compare"): "all 24 requests failed",
    ("all failed", "gate"): "all 24 requests failed",
    ("all failed", "policy"): "got no drafts",
    ("all failed", "pack"): "xnli_sw/0/0' failed",
    ("some failed", "pack"): "xnli_sw/1/0' failed",
    ("missing fields", "gate"): "does not have in every group",
    ("missing fields", "policy"): "also decoded plainly|say how many drafted tokens",
    ("missing fields", "pack"): NO_SPEED,
    **{
        ("two runs", verb): "recorded twice"
        for verb in ("compare", "gate", "plan", "policy", "pack")
    },
    **{
        (name, "plan"): words
        for name, words in (
            ("empty", "no records in .*base"),
            ("one request", "needs at least one group"),
            ("no language", "needs at least one group"),
            ("only scored", "does not have in every group"),
            ("missing fields", "does not have in every group"),
            ("all failed", "all 24 requests failed"),
        )
    },
}
VERBS = {
    "compare": ("compare", "BASE", "OTHER", "--format", "html"),
    "gate": ("compare", "BASE", "OTHER", "--gate", "default", "--format", "json"),
    "plan": ("plan", "BASE", "OTHER", "--format", "json"),
    "policy": ("policy", "BASE", "--format", "json"),
    "pack": ("submission", "pack", "BASE", "--name", "x"),
}

# A comparison with a gate is one without, and more.
CASES = [
    (name, verb)
    for name in RUNS
    for verb in VERBS
    if verb != "compare" or (name, "gate") in REFUSALS
]


@pytest.mark.parametrize(("name", "verb"), CASES)
def test_each_verb_has_a_result_or_one_clear_line(tmp_path, capsys, name, verb):
    base = write_folder(tmp_path / "base", RUNS[name], **ABOUT)
    shutil.copytree(base, tmp_path / "other")
    folders = {"BASE": str(base), "OTHER": str(tmp_path / "other")}

    status = main([folders.get(word, word) for word in VERBS[verb]])
    out, err = capsys.readouterr()

    if (name, verb) in REFUSALS:
        assert (status, out) == (2, "")
        assert err.startswith("specfair: error: ")
        assert err.count("\n") == 1, err
        assert re.search(REFUSALS[name, verb], err), err
    else:
        assert status == 0, err
        if "json" in VERBS[verb]:
            json.loads(out, parse_constant=lambda each: pytest.fail(each))
