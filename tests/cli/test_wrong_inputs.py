"""Everything wrong that a user may pass to a verb: status 2, one line, all files as they were.

    python -m pytest tests/cli/test_wrong_inputs.py -n0      # its number of cases is published

A table: each row is a command and, where a file is what is wrong, what is done to a good one;
`SAYS` has what some of the messages must say. Each refusal is tested beside its module too; here
the whole way is walked, from the arguments to the exit status. `test_fuzzed_inputs.py` covers what
no table would think of.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import lm_eval.utils
import pytest
from accelerate.state import AcceleratorState, PartialState

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.reporting.leaderboard.entry import Entry, to_text
from lm_eval_specfair.reporting.leaderboard.packing import pack

from support.commands import OFFLINE, refused
from support.evaluations import contents
from support.synthetic_records import parallel_run, write_folder
from support.vocabularies import wordpiece

ABOUT = {
    "command": ["specfair", "run"],
    "settings": {"target": "big", "drafter": "small", "num_speculative_tokens": 4},
    "hardware": {"processor": "EPYC"},
    "versions": {"python": "3.11"},
}
Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def in_a_folder(good, tmp_path, monkeypatch):
    """A copy of all that is good; the interpreter's state is restored afterwards."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    # Only to save time: lm-eval reads its own 10,000 task files for each call otherwise.
    few = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", few)
    monkeypatch.setattr(SpecFairLM, "finished_runs", [])
    # lm-eval would give its logger this test's stderr for good.
    monkeypatch.setattr(lm_eval.utils, "_LOGGING_CONFIGURED", True)
    monkeypatch.setattr(logging.getLogger("lm_eval"), "handlers", [])
    # It keeps precision and devices for the whole process.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


@pytest.fixture(scope="module")
def good(pair_folder, tmp_path_factory):
    """Runs, an entry, a gate, groups, a policy, a task, texts and a pair, as they should be."""
    folder = tmp_path_factory.mktemp("good")
    write_folder(folder / "run", parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=8), **ABOUT)
    write_folder(folder / "other", parallel_run({"sw": 0.5, "fr": 0.7}, num_documents=8), **ABOUT)
    entry = folder / "entries" / "ours"
    shutil.copytree(folder / "run", entry)
    text = to_text(pack(entry, Entry(name="ours")))
    (entry / "submission.json").write_text(text, encoding="utf-8")
    (folder / "gate.yaml").write_text("metric: mean_acceptance_length\n")
    (folder / "groups.yaml").write_text("tasks: {'demo_*': {domain: law}}\n")
    policy = {"schema_version": 1, "group_by": "language", "default": 4, "groups": {"en": 6}}
    (folder / "policy.json").write_text(json.dumps(policy))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "task/rows.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "task").mkdir()
    (folder / "task" / "own.yaml").write_text(json.dumps(task))  # JSON is YAML
    (folder / "task" / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (folder / "texts").mkdir()
    for name in ("alpha", "beta"):
        (folder / "texts" / f"{name}.txt").write_text("\n\n".join(f"{name} {n}" for n in range(20)))
    shutil.copytree(pair_folder, folder / "pair")
    odd = wordpiece(["an old mill"], 60)  # whose tokens do not spell texts
    llama(1, vocab_size=len(odd)).save_pretrained(folder / "odd")
    odd.save_pretrained(folder / "odd")
    return folder


# What is done to a file


def text(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return change


def replaced(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_text(encoding="utf-8")
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1), encoding="utf-8")

    return change


def gone(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def a_folder_instead(name: str) -> Change:
    # As unreadable as a file without permission, for the superuser too.
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def a_file_instead(name: str) -> Change:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).write_text("")

    return change


def set_key(name: str, *keys_and_value: Any) -> Change:
    """A JSON file with one value replaced; the last key is deleted where the value is `...`."""
    *keys, last, value = keys_and_value

    def change(folder: Path) -> None:
        data = inner = json.loads((folder / name).read_text())
        for key in keys:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        (folder / name).write_text(json.dumps(data))

    return change


def set_field(field: str, value: Any, line: int = 0) -> Change:
    """One field of one record."""

    def change(folder: Path) -> None:
        file = folder / "run" / "records.jsonl"
        lines = file.read_text().splitlines()
        record = json.loads(lines[line])
        record[field] = value
        lines[line] = json.dumps(record)
        file.write_text("\n".join(lines) + "\n")

    return change


def after(*changes: Change) -> Change:
    """Several changes, in order."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def appended(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    return change


NO_JSON = ["", "{", "\x00", "[" * 100_000, "9" * 5_000, b"\xff\xfe{\x00}\x00", "null", "[]", '"x"']
RECORD = "run/records.jsonl"

# Commands


def run(*more: str, task: str = "specfair_demo_en", **model_args: Any) -> list[str]:
    given = {"pretrained": "pair/target", "drafter": "pair/drafter"} | model_args
    given = {name: value for name, value in given.items() if value is not None}
    return [
        *("run", "--tasks", task, "--limit", "1", "--device", "cpu"),
        *("--model_args", json.dumps(given), *more),
    ]


def own_task(**changes: Any) -> tuple[list[str], Change]:
    """A run of the task in `task/`, with other settings (`...` takes one away)."""

    def change(folder: Path) -> None:
        for key, value in changes.items():
            set_key("task/own.yaml", key, value)(folder)

    return run("--include_path", "task", task="own"), change


def train(*more: str, data: str = "texts") -> list[str]:
    pair = ("--target", "pair/target", "--drafter", "pair/drafter")
    small = ("--tokens", "192", "--rows", "6", "--length", "16", "--probe-rows", "2")
    return ["train", *pair, "--data", data, "--out", "out", *small, *more]


REPORT = ["report", "run", "-o", "out"]
COMPARE = ["compare", "run", "other", "--gate", "gate.yaml", "--junit", "out.xml"]
POLICY = ["policy", "run", "-o", "out.json"]
PACK = ["submission", "pack", "run", "--name", "x"]
VALIDATE = ["submission", "validate", "entries/ours"]
BOARD = ["leaderboard", "entries", "-o", "out"]
ENTRY = "entries/ours/submission.json"

CASES: list[tuple[str, list[str], Change | None]] = [
    # The command line itself
    ("no verb", [], None),
    ("a verb that there is not", ["mesure"], None),
    *((f"{verb} without arguments", [verb], None) for verb in ("report", "compare", "policy")),
    *((f"{verb} without arguments", [verb], None) for verb in ("train", "submission", "run")),
    *((f"{verb} without arguments", [verb], None) for verb in ("leaderboard", "fetch-data")),
    ("report with a flag that there is not", [*REPORT, "--colour"], None),
    ("compare without a candidate", ["compare", "run"], None),
    ("submission pack without a name", ["submission", "pack", "run"], None),
    ("submission with an action that there is not", ["submission", "send", "run"], None),
    ("leaderboard without a place for it", ["leaderboard", "entries"], None),
    ("tasks-path with an argument", ["tasks-path", "here"], None),
    *((f"{verb[0]} in a format that there is not", [*verb, "--format", "pdf"], None)
      for verb in (REPORT, COMPARE, POLICY, ["conformance"])),
    # run: model arguments
    *((f"model_args {given}", run(**given), None) for given in (
        {"pretrained": "no/such/folder", "drafter": "none"},
        {"pretrained": "no-such-model-on-the-hub", "drafter": "none"},
        {"pretrained": "texts", "drafter": "none"},
        {"pretrained": "gate.yaml", "drafter": "none"},
        {"drafter": "no/such/folder"},
        {"drafter": "texts"},
        {"drafter": None},
        {"drafter": ""},
        {"drafter": 5},
        {"drafter": "odd"},
        {"drafter_vocabulary": "words"},
        {"drafter_vocabulary": "text"},
        {"drafter_vocabulary": "text", "drafter": "none"},
        {"num_speculative_tokens": 0},
        {"num_speculative_tokens": -3},
        {"num_speculative_tokens": 2.5},
        {"num_speculative_tokens": True},
        {"num_speculative_tokens": "x"},
        {"num_speculative_tokens": "no-such-policy.json"},
        {"num_speculative_tokens": [4]},
        {"num_speculative_token": 2},
        {"colour": "red"},
        {"baseline": "most"},
        {"baseline": -1},
        {"baseline": 1.5},
        {"backend": "tpu"},
        {"resume": "perhaps"},
        {"resume": 2},
        {"seed": -1},
        {"seed": "x"},
        {"dtype": "float7"},
        {"tp_plan": "auto"},
        {"mixed_precision_dtype": "bf16"},
        {"records_dir": "gate.yaml/records"},
        {"records_dir": "gate.yaml"},
        {"records_dir": "run"},
        {"records_dir": "run", "resume": True},
    )),
    ("model_args that are broken JSON", ["run", "--tasks", "specfair_demo_en",
                                         "--model_args", '{"pretrained": '], None),
    ("model_args without a value", ["run", "--tasks", "specfair_demo_en",
                                    "--model_args", "pretrained"], None),
    ("a run resumed with other settings", run(records_dir="run", resume=True),
     set_key("run/run.json", "settings", {"seed": 7})),
    ("a run resumed where a whole line is broken", run(records_dir="run", resume=True),
     after(set_key("run/run.json", "settings", {}), appended(RECORD, "{broken}\n"))),
    # run: what lm-eval reads
    *((f"gen_kwargs {given}{where or ''}", run("--gen_kwargs", given, **where), None)
      for where in ({}, {"records_dir": "records"}) for given in (
        "temperature=-1",
        "do_sample=true,temperature=-1",
        "do_sample=true,temperature=hot",
        "do_sample=true,temperature=nan",
        "num_beams=4",
        "repetition_penalty=1.2",
        "do_sample=true,top_p=2",
        "do_sample=true,top_p=0",
        "do_sample=true,top_k=-4",
        "do_sample=true,top_k=many",
        "max_gen_toks=0",
        "max_gen_toks=256",
        "max_gen_toks=long",
    )),
    ("no such task", run(task="specfair_dmo"), None),
    ("no task", run(task=""), None),
    ("a batch size that is no number", run("--batch_size", "many"), None),
    ("a batch size below one", run("--batch_size", "0"), None),
    ("a limit that is no number", run("--limit", "some"), None),
    ("a flag of run that there is not", run("--colour", "red"), None),
    *((f"a device named {name}", run("--device", name), None) for name in ("abacus", "cuda:99")),
    ("a configuration that is not there", ["run", "--config", "no-such.yaml"], None),
    ("a configuration that is no YAML", ["run", "--config", "gate.yaml"],
     text("gate.yaml", "{")),
    ("a configuration that is a list", ["run", "--config", "gate.yaml"], text("gate.yaml", "[1]")),
    ("a configuration with unknown keys", ["run", "--config", "gate.yaml"], None),
    ("lm-eval's response cache", run("--use_cache", "cache"), None),
    ("tasks in a folder that is not there", run("--include_path", "no/such", task="own"), None),
    # run: task files
    ("a task that is no YAML", run("--include_path", "task", task="own"),
     text("task/own.yaml", "task: own\n  output_type: [")),
    ("a task file that is not there", run(task="task/none.yaml"), None),
    ("a task whose rows are gone", run("--include_path", "task", task="own"),
     gone("task/rows.jsonl")),
    ("a task whose rows are broken", run("--include_path", "task", task="own"),
     text("task/rows.jsonl", "{")),
    ("a task of another kind", *own_task(output_type="guess")),
    ("a task with an unknown metric", *own_task(metric_list=[{"metric": "charm"}])),
    ("a task with a broken template", *own_task(doc_to_text="{{prompt")),
    ("a task with a field that there is not", *own_task(promt="x")),
    ("a task without a test split", *own_task(test_split=...)),
    ("a task with a split that there is not", *own_task(test_split="exam")),
    ("a task that samples in beams", *own_task(generation_kwargs={"until": [], "num_beams": 3})),
    ("a task with a function that there is not",
     run("--include_path", "task", task="own"),
     text("task/own.yaml", "task: own\ndoc_to_text: !function no_such_module.name\n")),
    ("a task with a filter that there is not", *own_task(
        filter_list=[{"name": "x", "filter": [{"function": "sieve"}]}])),
    # run: policy files
    *((f"a policy that is {content!r:.20}", run(num_speculative_tokens="policy.json"),
       text("policy.json", content)) for content in NO_JSON),
    *((f"a policy with {changes}", run(num_speculative_tokens="policy.json"),
       set_key("policy.json", *changes)) for changes in (
        ("schema_version", 2),
        ("default", "four"),
        ("default", -1),
        ("default", True),
        ("group_by", 7),
        ("groups", []),
        ("groups", "en", 1.5),
        ("groups", "en", None),
        ("groups", ...),
    )),
    ("a policy with a key twice", run(num_speculative_tokens="policy.json"),
     text("policy.json",
          '{"schema_version": 1, "group_by": "task", "default": 1, "default": 2, "groups": {}}')),
    ("a policy that drafts nothing", run(num_speculative_tokens="policy.json"),
     text("policy.json",
          '{"schema_version": 1, "group_by": "task", "default": 0, "groups": {}}')),
    # report
    *((f"a report of {path}", ["report", path, "-o", "out"], None)
      for path in ("missing", "gate.yaml", ".", "")),
    ("a run twice", ["report", "run", "run"], None),
    ("two runs, one of them broken", ["report", "other", "run"], text("run/run.json", "{")),
    ("groups by nothing", [*REPORT, "--group-by", "colour"], None),
    ("groups by no name", [*REPORT, "--group-by", ""], None),
    ("groups of at least no requests", [*REPORT, "--min-requests", "0"], None),
    ("groups of at least some requests", [*REPORT, "--min-requests", "some"], None),
    ("a report into a file", ["report", "run", "-o", "gate.yaml"], None),
    ("samples that are not there", [*REPORT, "--samples", "none"], None),
    ("samples that are none", [*REPORT, "--samples", "texts"], None),
    ("groups in a file that is not there", [*REPORT, "--groups", "none.yaml"], None),
    *((f"groups in a file that is {content!r:.20}", [*REPORT, "--groups", "groups.yaml"],
       text("groups.yaml", content)) for content in (
        *NO_JSON,
        "tasks: [1]",
        "tasks: {x: {region: }}",
        "languages: {klingonese-and-more: {region: space}}",
        "a: !!python/object/apply:os.system [true]",
        "x: &a [*a]",
    )),
    # records and run.json, by report
    *((f"a run.json that is {content!r:.20}", REPORT, text("run/run.json", content))
      for content in NO_JSON),
    ("a run.json of another version", REPORT, set_key("run/run.json", "schema_version", 99)),
    ("a run.json without a version", REPORT, set_key("run/run.json", "schema_version", ...)),
    ("a run.json that is gone", REPORT, gone("run/run.json")),
    ("a run.json that is a folder", REPORT, a_folder_instead("run/run.json")),
    ("records that are gone", REPORT, gone(RECORD)),
    ("records that are a folder", REPORT, a_folder_instead(RECORD)),
    ("records that are empty", REPORT, text(RECORD, "")),
    *((f"a line of records that is {content!r:.20}", REPORT,
       appended(RECORD, (content if isinstance(content, bytes) else content.encode()) + b"\n"))
      for content in NO_JSON),
    *((f"a record whose {field} is {value!r:.20}", REPORT, set_field(field, value))
      for field, value in (
        ("request_id", 5),
        ("request_id", None),
        ("request_id", ""),
        ("request_id", " "),
        ("task", ""),
        ("task", None),
        ("doc_id", "0"),
        ("doc_id", 10**400),
        ("num_prompt_tokens", -1),
        ("num_prompt_tokens", 1.5),
        ("num_spec_steps", True),
        ("overlap_sum", float("nan")),
        ("kl_sum", float("inf")),
        ("kl_sum", "1"),
        ("acceptance_histogram", [1, None]),
        ("acceptance_histogram", {"0": 1}),
        ("group_fields", {"language": 5}),
        ("group_fields", []),
        ("settings", {"num_speculative_tokens": 4}),
        ("settings", []),
        ("request_type", "guess"),
        ("finish_reason", 4),
        ("colour", "red"),
    )),
    ("a line of records that is no record", REPORT,
     appended(RECORD, '{"request_id": "a whole line, but no record"}\n')),
    ("a request on record twice", REPORT,
     lambda folder: appended(RECORD, (folder / RECORD).read_bytes().splitlines()[0] + b"\n")(
         folder)),
    # compare and gates
    ("a comparison with itself", ["compare", "run", "run"], None),
    ("a comparison with nothing", ["compare", "run", "missing"], None),
    ("a comparison by a figure that there is not", [*COMPARE[:3], "--metric", "charm"], None),
    ("a comparison by groups that there are not", [*COMPARE, "--group-by", "colour"], None),
    ("verdicts without a gate", [*COMPARE[:3], "--junit", "out.xml"], None),
    ("verdicts into a folder", [*COMPARE[:5], "--junit", "texts"], None),
    ("other documents", COMPARE, set_field("request_id", "another")),
    ("a gate that is not there", [*COMPARE[:3], "--gate", "none.yaml"], None),
    ("a gate that is a folder", COMPARE, a_folder_instead("gate.yaml")),
    *((f"a gate that is {content!r:.20}", COMPARE, text("gate.yaml", content))
      for content in (
        *(each for each in NO_JSON if each not in ("", "null")),  # these are the default gate
        "a: !!python/object/apply:os.system [true]",
        "margin: {}",
        "margins: {maen: 0.1}",
        "margins: null",
        "margins: {mean: 2%}",
        "margins: {mean: -0.1}",
        "version: 2",
        "metric: speed",
        "false_alarm_rate: 1",
        "when_undecided: ask",
        "dominant_group: no",
        "dominant_group: tlh",
        "metric: overlap\nmetric: overlap",
        "margins: {mean: null, worst_group: null, dominant_group: null}\n"
        "disparity: {max_increase: null}\nmax_differing_texts: null",
        "max_differing_texts: 1.5",
        "disparity: {statistic: ratio}",
        "disparity: {at_most: .inf}",
    )),
    # plan
    ("a plan from nothing", ["plan", "missing"], None),
    ("a plan from a run twice", ["plan", "run", "run"], None),
    ("a plan by a figure that there is not", ["plan", "run", "--metric", "charm"], None),
    ("a plan by groups that there are not", ["plan", "run", "--group-by", "colour"], None),
    ("a plan for a gate that is not there", ["plan", "run", "--gate", "none.yaml"], None),
    *((f"a plan with {flag} {value}", ["plan", "run", flag, value], None) for flag, value in (
        ("--margin", "0"), ("--margin", "1.5"), ("--margin", "nan"), ("--margin", "x"),
        ("--power", "1"), ("--allowed", "0.2"), ("--allowed", "-1"),
        ("--false-alarm-rate", "0"), ("--false-alarm-rate", "inf"), ("--min-requests", "0"),
    )),
    # policy
    *((f"policy of {path}", ["policy", path, "-o", "out.json"], None)
      for path in ("missing", "gate.yaml", ".")),
    ("a policy of a run twice", ["policy", "run", "run"], None),
    ("a policy for drafts of no length", [*POLICY, "--longest", "0"], None),
    ("a policy for drafts beyond reason", [*POLICY, "--longest", "1000000000"], None),
    *((f"costs of {costs}", [*POLICY, "--costs", costs], None)
      for costs in ("1,2", "a,b,c", "nan,1,0", "-1,1,0", "0,0,0", "inf,1,0")),
    ("a policy by groups that there are not", [*POLICY, "--group-by", "colour"], None),
    ("a policy into a folder", ["policy", "run", "-o", "texts"], None),
    # submissions and the board
    *((f"an entry named {name!r:.20}", ["submission", "pack", "run", "--name", name], None)
      for name in ("", " ", "two\nlines", "\x1b[2J", "abc\u202e", "x" * 201)),
    *((f"an entry that links to {url!r}", [*PACK, "--url", url], None)
      for url in ("javascript:alert(1)", "http://a.b", "https://a b")),
    ("an entry of no run", ["submission", "pack", "missing", "--name", "x"], None),
    ("an entry of a run that did not end", PACK, set_key("run/run.json", "finished", None)),
    ("an entry of broken records", PACK, appended(RECORD, "{}\n")),
    ("an entry by groups that there are not", [*PACK, "--group-by", "colour"], None),
    ("an entry that is not there", ["submission", "validate", "missing"], None),
    ("an entry without a submission", ["submission", "validate", "run"], None),
    *((f"a submission that is {content!r:.20}", VALIDATE, text(ENTRY, content))
      for content in NO_JSON),
    ("a submission with a key twice", VALIDATE, replaced(ENTRY, '"name": "ours"',
                                                         '"name": "theirs", "name": "ours"')),
    ("a description of a run with a key twice", REPORT, replaced(
        "run/run.json", '"schema_version": 1', '"schema_version": 2, "schema_version": 1')),
    *((f"a submission with {changes}", VALIDATE, set_key(ENTRY, *changes)) for changes in (
        ("schema_version", 2),
        ("schema_version", "1"),
        ("schema_version", ...),
        ("colour", "red"),
        ("entry", "name", "two\nlines"),
        ("entry", "url", "file:///etc/passwd"),
        ("records", 0, "name", "../../run/run.json"),
        ("records", 0, "name", "/etc/passwd"),
        ("run", "sha256", "sha256:" + "0" * 64),
        ("figures", "overall", ...),
    )),
    ("an entry whose records have changed", VALIDATE, appended("entries/ours/records.jsonl", "\n")),
    ("an entry whose records are gone", VALIDATE, gone("entries/ours/records.jsonl")),
    ("a board of nothing", ["leaderboard", "texts", "-o", "out"], None),
    ("a board of a folder that is not there", ["leaderboard", "missing", "-o", "out"], None),
    ("a board of a file", ["leaderboard", "gate.yaml", "-o", "out"], None),
    ("a board into a file", ["leaderboard", "entries", "-o", "gate.yaml"], None),
    ("a board with a broken entry", BOARD, text(ENTRY, "{")),
    ("a board with changed records", BOARD, appended("entries/ours/records.jsonl", "\n")),
    ("a trend of nothing", ["trend", "texts"], None),
    ("a trend of a folder that is not there", ["trend", "missing"], None),
    ("a trend of a metric that is none", ["trend", "run", "--metric", "speed"], None),
    ("a trend by what no request says", ["trend", "run", "--group-by", "colour"], None),
    ("a trend with false breaks always", ["trend", "run", "--false-alarm-rate", "2"], None),
    # train
    *((f"train {more}", train(*more), None) for more in (
        ("--weighting", "fair"),
        ("--weighting", "s-cdf:floor=2"),
        ("--weighting", "s-cdf:colour=red"),
        ("--weighting", "s-cdf:floor=low"),
        ("--weighting", "constrained:dominant=gamma"),
        ("--divergence", "l2"),
        ("--temperatures", "0;1"),
        ("--temperatures", "-1"),
        ("--temperatures", "nan"),
        ("--tracker", "abacus"),
        ("--tokens", "0"),
        ("--tokens", "many"),
        ("--rows", "0"),
        ("--length", "1"),
        ("--learning-rate", "-1"),
        ("--learning-rate", "nan"),
        ("--optimizer", "sgd"),
        ("--mixed-precision", "fp4"),
        ("--tolerance", "2"),
        ("--cost-ratio", "-1"),
        ("--responses", "mine"),
        ("--cache-top-k", "0"),
        ("--cache-top-k", "100000"),
        ("--cache-top-k", "4", "--responses", "drafter"),
        ("--lora-rank", "0"),
        ("--quantize-target", "2bit"),
        ("--quantise-target", "2bit"),
        ("--target-device-map", "{"),
        ("--seed", "-1"),
        ("--out", "run"),
        ("--out", "gate.yaml"),
        ("--out", "gate.yaml/out"),
        ("--target", "no/such/folder"),
        ("--drafter", "no/such/folder"),
        ("--drafter", "odd"),
    )),
    *((f"train on {data}", train(data=data), None)
      for data in ("missing", "run", "task:no_such_task", "datasets:no-such-data", "task:", "")),
    *((f"train on lines that are {content!r:.30} ({len(content)})", train(data="rows.jsonl"),
       text("rows.jsonl", content)) for content in (
        *NO_JSON,
        '{"group": "en"}\n',
        '{"text": "a", "prompt": "b", "group": "en"}\n',
        '{"text": "", "group": "en"}\n',
        '{"text": 5, "group": "en"}\n',
        '{"text": "a"}\n',
        '{"text": "a", "group": 7}\n',
        '{"text": "a", "group": {"en": -1}}\n',
        '{"text": "a", "group": "en"}\n' * 9,
    )),
    *((f"train on from a train.json that is {content!r:.20}", train("--resume"),
       text("out/train.json", content)) for content in [*NO_JSON, "{}"]),
    ("train on a group without text", train(), text("texts/alpha.txt", "")),
    ("train on bytes that are no text", train(), text("texts/alpha.txt", b"\xff\xfe\xfa")),
    ("a flag of another verb", [*COMPARE, "--num-resamples", "9"], None),
    # fetch-data and conformance
    ("data of no suite", ["fetch-data", "no_such_suite", "-o", "out"], None),
    ("data of a suite that brings its own", ["fetch-data", "specfair_demo", "-o", "out"], None),
    ("data into a file", ["fetch-data", "xnli_multi", "-o", "gate.yaml"], None),
    *((f"conformance of {backend!r}", ["conformance", "--backend", backend], None) for backend in (
        "nobody", "nobody:", "nobody_s_module:Decoder", "fractions:Decoder", "fractions:Fraction",
        "",
    )),
    ("a check that there is not", ["conformance", "--check", "nothing"], None),
    ("check number 99", ["conformance", "--check", "99"], None),
]  # fmt: skip


# What the message of a case must say; these cases run among the fast tests too.
SAYS: dict[str, tuple[str, ...]] = {
    "a flag of another verb": ("unrecognized arguments: --num-resamples 9", "compare --help"),
    **{f"model_args {given}": words for given, *words in (
        ({"pretrained": "no/such/folder", "drafter": "none"},
         "cannot load target 'no/such/folder'"),
        ({"drafter": "no/such/folder"}, "drafter 'no/such/folder'"),
        ({"drafter": None}, "a drafter is required"),
        ({"drafter": "odd"}, "do not spell texts byte for byte"),
        ({"drafter_vocabulary": "words"}, "must be one of auto, intersection, text"),
        ({"drafter_vocabulary": "text"}, "this one has the target's"),
        ({"drafter_vocabulary": "text", "drafter": "none"}, "is for a drafting model"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens must be"),
        ({"num_speculative_tokens": "x"}, "num_speculative_tokens must be"),
        ({"num_speculative_token": 2}, "did you mean num_speculative_tokens?"),
        ({"baseline": "most"}, "baseline must be"),
        ({"backend": "tpu"}, "backend must be hf"),
        ({"resume": "perhaps"}, "resume must be true or false"),
        ({"seed": -1}, "seed must be"),
        ({"records_dir": "run"}, "already holds a run", "resume=true"),
        ({"records_dir": "gate.yaml/records"}, "records_dir gate.yaml/records cannot be used"),
    )},
    **{f"gen_kwargs {given}{where or ''}": (words,)
       for where in ({}, {"records_dir": "records"}) for given, words in (
        ("temperature=-1", "temperature must be 0 (greedy) or a positive number, got -1"),
        ("do_sample=true,temperature=-1", "temperature must be"),
        ("do_sample=true,temperature=hot", "temperature must be a number"),
        ("num_beams=4", "num_beams=4 is not supported with speculative decoding"),
        ("do_sample=true,top_p=2", "top_p must be in (0, 1]"),
        ("max_gen_toks=0", "max_gen_toks must be at least 1"),
        ("max_gen_toks=256", "leaves no room for the prompt"),
    )},
    "no such task": ("specfair_dmo",),
    "a run resumed with other settings": ("seed was 7, is 0",),
    "a run resumed where a whole line is broken": (),
    "a line of records that is no record": ("records.jsonl:33",),
    f"a line of records that is {NO_JSON[5]!r:.20}": ("records.jsonl:33",),
    "a run.json that is '{'": ("run.json",),
    "a run.json of another version": ("schema 1, got 99",),
    "a run.json that is gone": ("holds no run.json",),
    "records that are gone": ("run",),
    "records that are a folder": ("cannot read run/records.jsonl",),
}  # fmt: skip


def status_of(command: list[str]) -> int:
    with warnings.catch_warnings():
        # datasets and lm-eval leave files open where they raise.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return main(command)
        except SystemExit as stopped:
            return int(stopped.code or 0)


def cases():
    """Those that load models or tasks are slow, but for those whose message is looked at."""
    for name, command, change in CASES:
        loads = command[1:] and command[0] in ("run", "train")
        marks = [pytest.mark.slow] if loads and name not in SAYS else []
        yield pytest.param(command, change, SAYS.get(name, ()), id=name[:60], marks=marks)


@pytest.mark.parametrize(("command", "change", "words"), [*cases()])
def test_wrong_input_is_status_2_one_line_and_nothing_written(command, change, words, capsys):
    here = Path()
    if change is not None:
        change(here.resolve())
    before = contents(here)

    status = status_of(command)

    message = refused(capsys)
    assert status == 2, message
    assert all(word in message for word in words), message
    assert contents(here) == before


@pytest.mark.parametrize(
    "command",
    [
        *(REPORT, COMPARE, POLICY, VALIDATE, BOARD, PACK, ["tasks-path"]),
        *(run(num_speculative_tokens="policy.json"), own_task()[0], train()),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_the_good_ones_are_good(command):
    # Else the table would prove nothing: what is refused there is what the change made wrong.
    with contextlib.redirect_stdout(None):
        assert main(command) in (0, 1)


def test_each_case_is_one_of_its_own():
    names = {name for name, *_ in CASES}
    assert len(names) == len(CASES) >= 200
    assert names >= SAYS.keys()


@pytest.mark.slow
def test_a_real_process_ends_with_status_2_and_one_line():
    before = contents(Path())

    done = subprocess.run(
        [sys.executable, "-m", "lm_eval_specfair", *run("--gen_kwargs", "temperature=-1")],
        env=OFFLINE | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("specfair: error: ")]
    assert len(errors) == 1
    assert "temperature" in errors[0]
    assert "Traceback" not in done.stderr
    assert contents(Path()) == before
