"""Snapshots of `/metrics`: their text, what changed between two, and what one record can hold."""

import json
from pathlib import Path

import pytest

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.logs.counter_snapshots import counted_between, read_series
from lm_eval_specfair.records import read_records

from support.commands import refused

RECORDED = Path(__file__).parents[1] / "serving" / "recorded" / "vllm-0.32.0.json"
NAME = "vllm:spec_decode_num"


def snapshot(path, histogram, *, requests=0, engine="vllm", model="m", extra="", gamma=None):
    """A server that took these steps, by number accepted, each with as many drafts as the most."""
    steps, longest = sum(histogram), gamma or len(histogram) - 1
    labels = f'engine="0",model_name="{model}"'
    lines = [
        "# HELP vllm:spec_decode_num_drafts_total of drafts",
        f"{engine}:spec_decode_num_drafts_total{{{labels}}} {float(steps)}",
        f"{engine}:spec_decode_num_draft_tokens_total{{{labels}}} {steps * longest}.0",
        f"{engine}:spec_decode_num_accepted_tokens_total{{{labels}}} "
        f"{sum(kept * times for kept, times in enumerate(histogram))}",
        *(
            f"{engine}:spec_decode_num_accepted_tokens_per_pos_total"
            f'{{{labels},position="{place}"}} {sum(histogram[place + 1 :])}'
            for place in range(len(histogram) - 1)
        ),
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} {requests}.0',
        f'vllm:request_success_total{{{labels},finished_reason="length"}} {requests}.0',
        f"vllm:prompt_tokens_total{{{labels}}} {requests * 10}",
        f"vllm:generation_tokens_total{{{labels}}} 7e2",
        extra,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_a_server_counted_between_two_snapshots(tmp_path):
    before = snapshot(tmp_path / "a", [5, 1, 0], requests=1)
    after = snapshot(tmp_path / "b", [9, 4, 6], requests=3)
    found = counted_between(before, after)
    assert (found.num_steps, found.num_drafted, found.num_accepted) == (13, 26, 15)
    assert found.histogram == [4, 3, 6]
    assert found.num_examined == 15 + 4 + 3  # each step that kept less than 2 met one it rejected
    assert (found.num_requests, found.num_prompt_tokens) == (4, 20)


def test_adaptive_drafts_leave_open_how_many_were_examined(tmp_path):
    before = snapshot(tmp_path / "a", [0, 0, 0])
    after = snapshot(tmp_path / "b", [3, 3, 3], gamma=1)
    assert counted_between(before, after).num_examined is None


def test_the_counters_of_vllms_server_agree_with_each_other(tmp_path):
    text = json.loads(RECORDED.read_text("utf-8"))["metrics"]["text"]
    (tmp_path / "none").write_text("")
    (tmp_path / "now").write_text(text)
    found = counted_between(tmp_path / "none", tmp_path / "now")
    assert sum(found.histogram) == found.num_steps > 20
    assert found.num_drafted == 4 * found.num_steps
    assert sum(n * times for n, times in enumerate(found.histogram)) == found.num_accepted


def test_labels_may_hold_anything(tmp_path):
    path = tmp_path / "text"
    path.write_text(
        'a{x="1, 2} \\" \\\\ \\n",y=""} 3 1700000000000\n'
        'b 4\n\n# c 5\nd{} +Inf\ne{z="\u2028"} NaN\n'
    )
    series = read_series(path)
    assert series["a", (("x", '1, 2} " \\ \n'), ("y", ""))] == 3
    assert series["b", ()] == 4
    assert series["d", ()] == float("inf")
    for wrong in ("a", "a{x} 1", 'a{x="1} 2', "a one", "<html>"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="expected a sample"):
            read_series(path)


def test_snapshots_that_are_of_no_one_server_are_refused(tmp_path):
    first = snapshot(tmp_path / "a", [5, 1, 0])
    later = snapshot(tmp_path / "b", [9, 4, 6])
    with pytest.raises(ConfigError, match="lower than"):
        counted_between(later, first)
    (tmp_path / "plain").write_text("vllm:prompt_tokens_total 1\n")
    with pytest.raises(ConfigError, match="no counters of drafts"):
        counted_between(first, tmp_path / "plain")
    other = f'{NAME}_drafts_total{{model_name="n"}} 4'
    two = snapshot(tmp_path / "two", [9, 4, 6], extra=other)
    with pytest.raises(ConfigError, match="2 models drafted"):
        counted_between(first, two)


def test_each_pair_is_a_record_without_what_only_one_request_has(tmp_path, capsys):
    pairs = []
    for number in range(7):
        pairs += [
            (group, snapshot(tmp_path / f"{group}{number}", [number, 0, 0]),
             snapshot(tmp_path / f"{group}{number}b", [number + 4, 1, 2 + number % 2 * easy],
                      requests=1))
            for group, easy in (("de", 5), ("uk", 0))
        ]  # fmt: skip
    sf.import_logs(output=tmp_path / "run", snapshots=pairs)
    records = list(read_records(tmp_path / "run"))
    assert len(records) == 14
    one = records[0]
    assert one.group_fields == {"language": "de"}
    assert one.num_spec_steps == 4 + 1 + 2 + 2  # two requests, each with a pass over its prompt
    assert one.acceptance_histogram == [6, 1, 2]
    assert one.num_generated_tokens is one.generated_text is None
    assert main(["report", str(tmp_path / "run"), "--format", "json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    rate = groups["de"]["conditional_acceptance_rate"]
    assert rate["low"] < rate["value"] < rate["high"]  # over seven pairs
    assert groups["uk"]["conditional_acceptance_rate"]["value"] == pytest.approx(5 / 10)

    command = ["import-logs", "--snapshot", "de", str(tmp_path / "absent"), str(tmp_path / "de0")]
    assert main([*command, "-o", str(tmp_path / "b")]) == 2
    assert "is not there" in refused(capsys)
