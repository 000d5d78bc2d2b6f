"""Groups that share requests: each has all of its own, the whole run counts nothing twice."""

import json
import time

import numpy as np
import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.summary import summarise

from support.synthetic_records import generation, write_folder

TASKS = {"x_sw": ["africa", "coast"], "x_yo": ["africa"], "x_de": [], "x_fr": ["coast"]}


def records(per_task=12):
    numbers = np.random.default_rng(5)
    for task in TASKS:
        for doc_id in range(per_task):
            accepted = int(numbers.integers(5, 28))
            yield generation(task, doc_id, num_accepted_draft_tokens=accepted)


def aggregator(group_by="community", lists=True):
    made = Aggregator(group_by)
    for record in records():
        community = TASKS[record.task] if lists else TASKS[record.task][:1]
        made.add(record, TaskFacts(record.task, {"community": community}))
    return made


def rate(chosen):
    """Accepted / examined, added up by hand."""
    examined = sum(r.num_examined_draft_tokens for r in chosen)
    return sum(r.num_accepted_draft_tokens for r in chosen) / examined


def test_figures_of_overlapping_groups_are_those_of_their_requests():
    summary = summarise(aggregator(), {}, num_resamples=200)

    assert set(summary.groups) == {"africa", "coast", NO_GROUP}
    for group, figures in summary.groups.items():
        chosen = [r for r in records() if group in (TASKS[r.task] or [NO_GROUP])]
        assert figures["conditional_acceptance_rate"].value == pytest.approx(rate(chosen))
        assert summary.group_requests[group] == len(chosen)


def test_the_whole_run_counts_each_request_once():
    overlapping = summarise(aggregator(), {}, num_resamples=4000)
    alone = summarise(aggregator("task"), {}, num_resamples=4000)

    assert overlapping.counts == alone.counts
    for name, figure in alone.overall.items():
        found = overlapping.overall[name]
        if figure is None:
            assert found is None
            continue
        assert found.n == figure.n
        assert found.value == pytest.approx(figure.value)
        if figure.low is not None:
            # The one draws within tasks and the other does not: about equal, not equal.
            assert found.high - found.low == pytest.approx(figure.high - figure.low, rel=0.35)
    for made in (aggregator(), aggregator("task")):
        total = np.sum([block.sum((0, 1)) for block in made.aggregate(1).blocks], axis=0)
        assert Sums(total)["requests"] == 48
    whole = overlapping.overall["conditional_acceptance_rate"]
    assert whole.value == pytest.approx(rate(list(records())))


def test_groups_without_shared_requests_are_read_as_before():
    shared, single = aggregator(), aggregator(lists=False)

    assert len(shared.aggregate(1).blocks) == 1
    assert len(single.aggregate(1).blocks) == 3
    assert not shared.aggregate(1).is_parallel


def test_two_reports_of_one_run(tmp_path, capsys):
    write_folder(tmp_path / "run", list(records()))

    status = main(
        ["report", str(tmp_path / "run"), "--group-by", "lang,family", "--format", "json"]
    )

    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert set(report["groups"]) == {
        "language: sw", "language: yo", "language: de", "language: fr",
        "family: Atlantic-Congo", "family: Indo-European",
    }  # fmt: skip
    assert report["group_names"]["language: sw"] == "Swahili (sw)"
    assert report["group_requests"]["family: Atlantic-Congo"] == 24
    assert report["overall"]["conditional_acceptance_rate"]["n"] == 48


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("script", {"Latn"}),
        ("family", {"Atlantic-Congo", "Indo-European"}),
        ("resource_class", {"2", "5"}),
        ("macroarea", {"Africa", "Eurasia"}),
    ],
)
def test_a_run_is_read_by_what_follows_from_its_languages(tmp_path, capsys, key, expected):
    write_folder(tmp_path / "run", list(records(per_task=5)))

    assert main(["report", str(tmp_path / "run"), "--group-by", key, "--format", "json"]) == 0

    assert set(json.loads(capsys.readouterr().out)["groups"]) == expected


def test_a_groups_file_is_read_by_the_command_line(tmp_path, capsys):
    write_folder(tmp_path / "run", [generation("gsm8k", number) for number in range(6)])
    file = tmp_path / "groups.yaml"
    file.write_text("tasks: {gsm8k: {language: en}}", encoding="utf-8")
    command = ["report", str(tmp_path / "run"), "--format", "json"]

    assert main(command) == 0
    assert set(json.loads(capsys.readouterr().out)["groups"]) == {NO_GROUP}
    assert main([*command, "--groups", str(file)]) == 0
    assert set(json.loads(capsys.readouterr().out)["groups"]) == {"en"}
    assert main([*command, "--groups", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the groups file" in capsys.readouterr().err


def test_grouping_a_million_records_is_no_work():
    made, record = Aggregator("family"), generation("global_mmlu_full_sw_law", 0)
    start = time.process_time()
    for _ in range(10_000):
        made.add(record, TaskFacts(record.task, {}, {"dataset_name": "sw"}))

    assert time.process_time() - start < 5  # 0.3 s where nothing else runs
