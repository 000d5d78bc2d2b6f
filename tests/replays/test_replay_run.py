"""A replay as a whole: folders, resumption, modelled costs, comparison with a decoded run, notes.

python -m pytest tests/replays/test_replay_run.py
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.records.requests_file import AskedRequest, append_requests
from lm_eval_specfair.replays import replay_models
from lm_eval_specfair.replays.replay_costs import costs_of_run
from lm_eval_specfair.replays.replay_folder import Departures
from lm_eval_specfair.replays.replay_models import split_drafter
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.replays.replaying import Departure
from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison
from lm_eval_specfair.reporting.report.build_report import build_summary
from lm_eval_specfair.reporting.viewer.request_trace import trace_of

from support.decoding_runs import decode, model_drafter, request
from support.synthetic_records import (
    DRAFT_SECONDS,
    HOST_SECONDS,
    PLAIN_SECONDS,
    VERIFY_SECONDS,
    generation,
    parallel_run,
    scored,
    write_folder,
)
from support.traces import assert_is_the_record

REPEATING = [5, 6, 7, 8, 5, 6, 7, 9, 5, 6, 7, 8, 5, 6, 7, 9]


def texts(tmp_path, number=12, **fields):
    path = tmp_path / "texts.jsonl"
    lines = [
        {
            "prompt_token_ids": [n + 1, *REPEATING],
            "response_token_ids": REPEATING[: 6 + n % 9],
            "max_new_tokens": 20,
            "language": ("sw", "uk")[n % 2],
            **fields,
        }
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lookup(source, output, **options):
    return replay([source], ["prompt_lookup"], output, show_progress=False, **options)


def test_a_replayed_texts_trace_is_its_record(tmp_path):
    lookup(texts(tmp_path), tmp_path / "out")

    records = list(read_records(tmp_path / "out"))
    for record in records:
        assert_is_the_record(trace_of(record))
    assert sum(len(step) for record in records for step in record.discarded_token_ids) > 0


# ------------------------------------------------------------------ resumption

KILLED = """
import os, signal, sys
from pathlib import Path
from lm_eval_specfair.replays import replay_folder
from lm_eval_specfair.replays.replay_run import replay

written, write = 0, replay_folder.RecordWriter.write
def counted(self, record):
    global written
    write(self, record)
    written += 1
    if written == 7:
        self._file.write(b'{"request_id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
replay_folder.RecordWriter.write = counted
replay([Path(sys.argv[1])], ["prompt_lookup"], Path(sys.argv[2]), lengths=[2, 3])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_replay_goes_on_and_nothing_is_lost_or_doubled(tmp_path):
    source = texts(tmp_path)
    arguments = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "killed")]
    killed = subprocess.run(arguments, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    folders = [tmp_path / "killed" / f"prompt_lookup-{length}" for length in (2, 3)]
    assert not any((folder / "run.json").exists() for folder in folders)
    assert sum(len(list(read_records(folder))) for folder in folders) == 7

    done = lookup(source, tmp_path / "killed", lengths=[2, 3])
    lookup(source, tmp_path / "whole", lengths=[2, 3])

    assert done.num_earlier == 3  # the fourth text had one of its two records
    assert any("3 more were on record" in note for note in done.notes())
    for folder in folders:
        whole = list(read_records(tmp_path / "whole" / folder.name))
        assert len(whole) == 12
        by_id = sorted(read_records(folder), key=lambda record: record.request_id)
        assert by_id == sorted(whole, key=lambda record: record.request_id)
        assert read_run(folder)["totals"]["num_requests"] == 12
        assert not (folder / "replay.json").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"seed": 1}, "holds a replay with other seed"), ({}, "already holds this replay")],
)
def test_a_finished_or_another_replay_is_not_written_over(tmp_path, change, complaint):
    source = texts(tmp_path)
    lookup(source, tmp_path / "out")
    before = (tmp_path / "out" / "records.jsonl").read_bytes()

    with pytest.raises(ConfigError, match=complaint):
        lookup(source, tmp_path / "out", **change)
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before


def test_other_texts_do_not_go_on_in_a_folder_of_a_killed_replay(tmp_path):
    lookup(texts(tmp_path), tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    (tmp_path / "out" / "replay.json").write_text('{"texts": "others"}')

    with pytest.raises(ConfigError, match="holds a replay with other texts"):
        lookup(texts(tmp_path), tmp_path / "out")


def test_departures_outlive_a_killed_replay(tmp_path):
    first = Departures(tmp_path)
    first.add(Departure(request_id="a", place=3, below=0.5))
    first.add(Departure(request_id="b", place=0, below=None))
    with (tmp_path / "departures.jsonl").open("ab") as file:
        file.write(b'{"request_id": "half')
    second = Departures(tmp_path)
    assert second.found == first.found
    second.add(Departure(request_id="c", place=1, below=2.0))

    assert list(Departures(tmp_path).found) == ["a", "b", "c"]


# ------------------------------------------------------------------ what a step costs


def test_a_modelled_speedup_is_the_closed_form_at_the_costs_given(tmp_path):
    lookup(texts(tmp_path), tmp_path / "out", costs=(0.1, 1.2, 0.05))
    summary = build_summary([tmp_path / "out"], min_requests=1)
    records = list(read_records(tmp_path / "out"))
    steps = sum(record.num_spec_steps for record in records)
    drafted = sum(record.num_draft_tokens for record in records)
    emitted = steps + sum(record.num_accepted_draft_tokens for record in records)

    assert summary.overall["modelled_speedup"].value == pytest.approx(
        emitted / (0.1 * drafted + (1.2 + 0.05) * steps)
    )
    assert summary.overall["measured_speedup"] is None
    assert summary.overall["seconds_per_kilobyte"] is None
    for name, cost in (
        ("cost_ratio", 0.1),
        ("verify_cost_ratio", 1.2),
        ("host_overhead_ratio", 0.05),
    ):
        assert summary.overall[name].value == pytest.approx(cost)
    assert any("(given)" in note and "c = 0.1, v = 1.2, o = 0.05" in note for note in summary.notes)


def test_without_costs_there_is_no_speedup(tmp_path):
    lookup(texts(tmp_path), tmp_path / "out")
    summary = build_summary([tmp_path / "out"], min_requests=1)

    assert summary.overall["modelled_speedup"] is None
    assert summary.overall["mean_acceptance_length"] is not None


def test_costs_of_a_decoded_run_are_those_it_measured(tmp_path):
    run = write_folder(tmp_path / "run", parallel_run({"sw": 0.6, "uk": 0.4}))
    costs = costs_of_run(run)

    # Of each step 4 tokens were drafted; noise is the same in all parts of a step.
    assert costs.draft == pytest.approx(DRAFT_SECONDS / PLAIN_SECONDS, rel=0.01)
    assert costs.verify == pytest.approx(VERIFY_SECONDS / PLAIN_SECONDS, rel=0.01)
    assert costs.overhead == pytest.approx(HOST_SECONDS / PLAIN_SECONDS, rel=0.01)
    assert costs.source.startswith("measured in the run run")


def test_plain_steps_are_not_added_to_seconds(tmp_path):
    run = write_folder(tmp_path / "run", parallel_run({"sw": 0.6}))
    alone = build_summary([run])
    lookup(texts(tmp_path), tmp_path / "out", costs=(9.0, 9.0, 9.0))
    both = build_summary([run, tmp_path / "out"])

    assert both.overall["cost_ratio"].value == pytest.approx(alone.overall["cost_ratio"].value)
    assert any("costs are not used" in note for note in both.notes)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--costs", "0.1,0,0.1"], "expected finite numbers, c at least 0 and v above 0"),
        (["--costs", "0.1"], "expected three numbers"),
        (["--measure-costs"], "name the target with --target"),
        (["--costs", "1,1,1", "--measure-costs"], "not allowed with argument"),
        (["--costs-from", "{plain}"], "did not time drafting"),
        (["--costs-from", "{missing}"], "holds no run.json"),
    ],
)
def test_costs_that_cannot_be_had_are_refused(tmp_path, capsys, arguments, complaint):
    places = {
        "plain": write_folder(tmp_path / "plain", [generation("t", 0)]),
        "missing": tmp_path / "missing",
    }
    source = str(texts(tmp_path))
    given = [argument.format(**places) for argument in arguments]
    command = ["replay", source, "--drafter", "prompt_lookup", *given, "-o", str(tmp_path / "out")]

    assert main(command) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ beside a decoded run


def decoded_run(tmp_path):
    """A run with scored texts, some baselines, and its prompts."""
    records = [
        generation(
            f"xnli_{language}",
            number,
            generated_token_ids=[7, 8, 9] * 10,
            baseline_seconds=0.9 if number < 4 else None,
            baseline_generated_tokens=30 if number < 4 else None,
        )
        for language in ("sw", "uk")
        for number in range(8)
    ]
    settings = {"target": "t", "drafter": "d", "num_speculative_tokens": 4, "dtype": "float32"}
    run = write_folder(
        tmp_path / "run", [*records, scored("xnli_sw", 0)], settings=settings, hardware={"gpu": "x"}
    )
    append_requests(
        run,
        [
            AskedRequest(request_id=r.request_id, prompt_token_ids=[1] * 12, max_new_tokens=30)
            for r in records
        ],
    )
    return run


def test_a_replay_is_compared_with_the_run_that_it_replayed(tmp_path):
    run = decoded_run(tmp_path)
    done = lookup(run, tmp_path / "out", costs=run)
    report = build_comparison(run, [tmp_path / "out"], num_resamples=200)

    assert report.metric.name == "modelled_speedup"
    assert sorted(report.comparison.groups) == ["sw", "uk"]
    assert any("all 16 greedy texts equal" in note for note in report.notes)
    assert any("was replayed, not timed" in note for note in report.notes)
    assert not any("another machine" in note for note in report.notes)
    assert sum(source.num_left_out for source in done.sources) == 1


# ------------------------------------------------------------------ what is said at the end


def test_mixed_settings_are_named(tmp_path):
    source = texts(tmp_path)
    mixed = tmp_path / "mixed.jsonl"
    lines = source.read_text().splitlines()
    sampled = [json.loads(line) | {"temperature": 0.7, "top_p": 0.9, "id": f"s{n}"}
               for n, line in enumerate(lines[:3])]  # fmt: skip
    mixed.write_text("".join(f"{line}\n" for line in [*lines, *map(json.dumps, sampled)]))
    done = replay(
        [mixed], ["prompt_lookup"], tmp_path / "out", target="embedded", show_progress=False
    )

    assert any("12 greedy; 3 at temperature 0.7, top-p 0.9" in note for note in done.notes())
    assert {record.settings.temperature for record in read_records(tmp_path / "out")} == {0, 0.7}


def test_texts_that_no_target_was_held_against_are_said_to_be(tmp_path):
    done = lookup(texts(tmp_path), tmp_path / "out")

    assert any("taken for the target's greedy ones" in note for note in done.notes())
    assert read_run(tmp_path / "out")["totals"]["texts_are_checked"] is False


def test_the_report_of_each_folder_is_printed_by_a_field(tmp_path, capsys):
    source = str(texts(tmp_path))
    output = str(tmp_path / "out")
    command = ["replay", source, "--drafter", "prompt_lookup", "--group-by", "language"]

    assert main([*command, "-o", output]) == 0
    printed = capsys.readouterr().out
    assert "Speculative decoding by language: 2 groups" in printed
    assert "Swahili" in printed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/model", ("org/model", None)),
        ("org/model@int8", ("org/model", "int8")),
        ("embedded@bfloat16", ("embedded", "bfloat16")),
    ],
)
def test_a_drafter_may_name_the_kind_of_its_weights(name, expected):
    assert split_drafter(name) == expected


def test_an_unknown_kind_of_weights_is_refused():
    with pytest.raises(ConfigError, match="after @ expected one of float32"):
        split_drafter("model@fp7")


@pytest.mark.slow  # torchao takes five seconds to import
def test_torchao_drafters_replay_as_they_decode(tmp_path):
    """Several quantizations in one call; int4 errs enough to draft otherwise."""
    pytest.importorskip("torchao")
    names = ("embedded", "embedded@int8", "embedded@int4", "embedded@bfloat16")
    target, *drafters = (
        replay_models.load(name, role, "cpu", "auto")
        for name, role in (("embedded", "target"), *((name, "drafter") for name in names))
    )
    prompts = [[n + 20, *range(40, 60 + n)] for n in range(6)]
    asked = [request(prompt, 24, name=f"texts/{n}") for n, prompt in enumerate(prompts, start=1)]
    decoded = {
        name: decode(target, model_drafter(drafter, 8192), asked)
        for name, drafter in zip(names, drafters, strict=True)
    }
    path = tmp_path / "texts.jsonl"
    lines = [
        {"prompt_token_ids": prompt, "response_token_ids": done.token_ids, "max_new_tokens": 24}
        for prompt, done in zip(prompts, decoded["embedded"], strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    replay([path], names, tmp_path / "out", device="cpu", show_progress=False)

    steps = {}
    for name, folder in zip(names, ("", "-int8", "-int4", "-bfloat16"), strict=True):
        records = {r.request_id: r for r in read_records(tmp_path / "out" / f"embedded{folder}")}
        steps[name] = [records[each.request_id].accepted_per_step for each in asked]
        assert steps[name] == [each.counters.accepted_per_step for each in decoded[name]]
        settings = read_run(tmp_path / "out" / f"embedded{folder}")["settings"]
        assert settings["drafter_weights"].endswith(folder.replace("-", "@"))
    assert steps["embedded"] != steps["embedded@int4"]


def test_a_replayed_record_that_was_changed_is_named_as_a_decoded_one_is(tmp_path):
    lookup(texts(tmp_path), tmp_path / "out")
    whole = build_summary([tmp_path / "out"], min_requests=1)
    path = tmp_path / "out" / "records.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    assert '"num_prompt_tokens": 17' in first
    changed = first.replace('"num_prompt_tokens": 17', '"num_prompt_tokens": 18')
    path.write_text("".join([changed, *others]))
    found = build_summary([tmp_path / "out"], min_requests=1)

    assert not whole.contradictions
    assert not whole.unchecked
    assert len(found.contradictions) == 1
