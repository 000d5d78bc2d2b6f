"""Where results go: places that cannot be written, disks that fill, readers that close early."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_specfair.cli import _parser, main
from lm_eval_specfair.cli.shared import outputs
from lm_eval_specfair.files import write_file

from support.commands import OFFLINE, refused
from support.synthetic_records import parallel_run, write_folder

ABOUT = {
    "finished": "2026-03-01T04:00:00+00:00",
    "settings": {"target": "big", "drafter": "small", "num_speculative_tokens": 4},
    "hardware": {"processor": "EPYC"},
    "versions": {"python": "3.11"},
}
TRAIN = ["--target", "pair/target", "--drafter", "pair/drafter", "--tokens", "192", "--rows", "6"]
TRAIN += ["--length", "16", "--probe-rows", "2"]
REPLAY = ["replay", "texts.jsonl", "--drafter", "pair/drafter", "--tokenizer", "pair/target"]
COVERAGE = ["coverage", "texts", "--draft-vocabulary", "pair/drafter", "--tokenizer", "pair/target"]
LOG = str(Path(__file__).parents[1] / "logs/recorded/aiperf-0.13.0/profile_export.jsonl")
# Every verb that writes, PLACE for where; and whether that is a file.
WRITERS = {
    "report": (["report", "run", "-o", "PLACE"], False),
    "compare": (["compare", "run", "other", "--gate", "default", "--junit", "PLACE"], True),
    "compare in all forms": (["compare", "run", "other", "-o", "PLACE"], False),
    "trend": (["trend", "run", "-o", "PLACE"], False),
    "policy": (["policy", "run", "-o", "PLACE"], True),
    "mixture": (["mixture", "run", "-o", "PLACE"], True),
    "mixture with data": (
        ["mixture", "run", "--data", "weighed.jsonl", "--data-out", "PLACE"],
        False,
    ),
    "leaderboard": (["leaderboard", "entries", "-o", "PLACE"], False),
    "export to Parquet": (["export", "run", "-o", "PLACE.parquet"], True),
    "export to lines": (["export", "run", "-o", "PLACE.jsonl"], True),
    "import-logs": (["import-logs", LOG, "-o", "PLACE"], False),
    "conformance": (["conformance", "--check", "eos-in-block", "-o", "PLACE.json"], True),
    "fetch-data": (["fetch-data", "specfair_core", "-o", "PLACE"], False),
    "train": (["train", "--data", "texts", *TRAIN, "-o", "PLACE"], False),
    "replay": ([*REPLAY, "-o", "PLACE"], False),
    "fit": (["fit", "texts.jsonl", "--tokenizer", "pair/target", "-o", "PLACE"], False),
    "prune": (
        ["prune", "pair/drafter", "texts.jsonl", "--draft-vocabulary", "9", "-o", "PLACE"],
        False,
    ),
    "coverage": (
        [*COVERAGE, "-o", "PLACE"],
        False,
    ),
    "run": (["run", "--tasks", "specfair_demo_en", "--output_path", "PLACE"], False),
}


def command(name: str, place: str) -> list[str]:
    return [word.replace("PLACE", place) for word in WRITERS[name][0]]


@pytest.fixture
def folder(pair_folder, tmp_path, monkeypatch):
    """Two runs, an entry, texts and a pair, in the working directory."""
    for name, seed in (("run", 0), ("other", 1)):
        records = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=8, seed=seed)
        write_folder(tmp_path / name, records, **ABOUT)
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "ours").symlink_to(tmp_path / "run")
    (tmp_path / "pair").symlink_to(pair_folder)
    (tmp_path / "texts").mkdir()
    for name in ("alpha", "beta"):
        lines = "\n\n".join(f"{name} {number}" for number in range(20))
        (tmp_path / "texts" / f"{name}.txt").write_text(lines)
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a b", "response": " c d", "task": "t"}\n')
    rows = [{"prompt": f"{n}", "response": "x", "language": n} for n in ("sw", "fr")]
    (tmp_path / "weighed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def actions(parser: argparse.ArgumentParser, name: str = ""):
    """All arguments of all verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, each in action.choices.items():
                yield from actions(each, f"{name} {verb}".strip())
        else:
            yield name, action


def test_every_argument_for_a_result_is_checked_when_it_is_read():
    checked = {}
    for verb, action in actions(_parser()):
        if {"-o", "--output", "--out", "--junit", "--teacher-cache", "--data-out"} & set(
            action.option_strings
        ):
            checked.setdefault(verb, []).append(getattr(action.type, "__name__", ""))

    assert set(checked) == {name.split()[0] for name in WRITERS} - {"run"}
    names = {each for found in checked.values() for each in found}
    assert names == {"file_to_write", "folder_to_write", "place_to_write", "_results_file"}


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_is_refused_before_anything_is_read(name, folder, capsys):
    is_file = WRITERS[name][1]
    (folder / "file").write_text("")
    places = ["file/below/it", "x" * 300]
    if name not in ("run", "conformance"):  # no name is no place for lm-eval, `.json` is one
        places.append("")
    if not is_file:
        places.append("file")
    if Path("/proc/self").exists():
        places.append("/proc/self/none/here")
    for place in places:
        words = [each for each in command(name, place) if each not in (".parquet", ".jsonl")]
        words = ["missing" if each in ("run", "entries") and place else each for each in words[1:]]
        status = main([WRITERS[name][0][0], *words])
        message = refused(capsys)

        assert status == 2, place
        assert any(each in message for each in ("-o", "--junit", "cannot write", "name")), message
        assert "missing" not in message, (place, message)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["entries", "file", "other", "pair", "run", "texts", "texts.jsonl", "weighed.jsonl"]
    )


def test_a_folder_is_no_file(folder, capsys):
    (folder / "there.json").mkdir()
    for words in (
        ["policy", "run", "-o", "texts"],
        ["compare", "run", "other", "--gate", "default", "--junit", "texts"],
        ["conformance", "-o", "there.json"],
    ):
        assert main(words) == 2
        assert "is a folder: name a file in it" in refused(capsys)


def test_a_submission_that_cannot_be_written_is_refused_before_it_is_computed(folder, capsys):
    (folder / "run" / "submission.json").mkdir()

    assert main(["submission", "pack", "run", "--name", "x"]) == 2
    assert "submission.json is a folder" in refused(capsys)


def test_a_device_is_written_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "through")

    assert os.read(reader, 20) == b"through"
    assert pipe.is_fifo()
    os.close(reader)


# In a process of its own: each command as a line of JSON on stdin, its status on descriptor 3.
_SCRIPT = """
import json, os, resource, sys
from lm_eval_specfair.cli import main
for line in sys.stdin:
    case = json.loads(line)
    if case["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if case["stdout"] == "closed":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif case["stdout"]:
        os.dup2(os.open(case["stdout"], os.O_WRONLY), 1)
    try:
        status = main(case["words"])
    except BaseException as error:
        status = repr(error)
    os.write(3, (json.dumps(status) + chr(10)).encode())
    print("end of case", file=sys.stderr, flush=True)
"""


def statuses(folder, cases, **about):
    """The status of each command, and what it said on stderr."""
    lines = "".join(
        json.dumps({"words": words, "limit": False, "stdout": ""} | about) + "\n" for words in cases
    )
    reader, writer = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" 3>&{writer}', sys.executable, _SCRIPT],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        pass_fds=[writer],
        env=OFFLINE | {"PYTHONDONTWRITEBYTECODE": "1"},
        timeout=240,
    )
    os.close(writer)
    with os.fdopen(reader) as file:
        found = [json.loads(line) for line in file]
    return list(zip(found, done.stderr.split("end of case\n"), strict=False)), done


def test_a_reader_that_closes_early_changes_no_status_and_no_file(folder):
    cases = {
        "report": (["report", "run", "-o", "out"], 0),
        "report as a page": (["report", "run", "--format", "html"], 0),
        "compare": (["compare", "run", "other"], 0),
        "a gate that says no": (["compare", "run", "slow", "--gate", "gate.yaml"], 1),
        "plan": (["plan", "run"], 0),
        "policy": (["policy", "run", "-o", "policy.json"], 0),
        "schema": (["submission", "schema"], 0),
        "tasks-path": (["tasks-path"], 0),
        "layout": (["fetch-data", "xnli_multi", "--dry-run"], 0),
        "conformance": (["conformance", "--check", "eos-in-block"], 0),
        "wrong": (["report", "missing"], 2),
    }
    slow = parallel_run({"sw": 0.1, "fr": 0.2}, num_documents=8, seed=1)
    write_folder(folder / "slow", slow, **ABOUT)
    (folder / "gate.yaml").write_text("metric: mean_acceptance_length\n")
    found, done = statuses(folder, [words for words, _ in cases.values()], stdout="closed")

    assert [status for status, _ in found] == [status for _, status in cases.values()], done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
    assert (folder / "out" / "report.html").is_file()
    assert json.loads((folder / "policy.json").read_text())["groups"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["policy", "run", "-o", "policy.json"], ["--help"]])
def test_a_full_disk_below_stdout_is_one_line(folder, words, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lm_eval_specfair", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=folder,
            env=OFFLINE | {"PYTHONUNBUFFERED": unbuffered},
        )

    assert done.returncode == 2
    assert "cannot write standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_disk_that_fills_is_one_line_whatever_was_computed(folder):
    # No file may grow: what a full disk does, at the first byte.
    names = [name for name in WRITERS if name not in ("fetch-data", "run", "leaderboard")]
    packing = ["submission", "pack", "run", "--name", "x"]
    found, done = statuses(
        folder, [*(command(name, f"out{n}") for n, name in enumerate(names)), packing], limit=True
    )

    assert len(found) == len(names) + 1, done.stderr[-3000:]
    for name, (status, said) in zip([*names, "pack"], found, strict=True):
        assert status == 2, (name, said[-3000:])
        assert "Traceback" not in said, (name, said[-3000:])
        [line] = [each for each in said.splitlines() if each.startswith("specfair: error: ")]
        # What tests a decoder makes models in a temporary folder first.
        assert re.search("File too large|write|No usable temporary", line), (name, line)
    # What was computed is told all the same.
    assert "Speculative decoding by language" in done.stdout
    assert "Draft lengths by language" in done.stdout
    assert "Mixture by language" in done.stdout


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device; make room"),
        (PermissionError(13, "Permission denied", b"\xff"), "Permission denied; make room"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file .* see to it"),
        (RuntimeError("I/O error: File too large (os error 27)"), "File too large; make room"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "to its end; make room"),
    ],
)
def test_what_the_system_refused_is_told_however_it_is_wrapped(error, line):
    with pytest.raises(outputs.ConfigError, match=line), outputs.system_errors_told():
        raise error


@pytest.mark.parametrize("error", [OSError("no number"), ValueError("a bug"), KeyError("a bug")])
def test_a_bug_stays_a_bug(error):
    with pytest.raises(type(error)) as raised, outputs.system_errors_told():
        raise error
    assert raised.value is error
