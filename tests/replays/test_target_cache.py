"""The target's pass kept on disk: the same sums without the target, and stale caches refused.

python -m pytest tests/replays/test_target_cache.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.replays import target_side
from lm_eval_specfair.replays.passes import kept_pass
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.replay_run import replay


def texts(path, number=9, **fields):
    lines = [
        {
            "prompt_token_ids": [n + 20, *range(40, 60 + n)],
            "response_token_ids": [(7 * n + 3 * m) % 5000 + 3 for m in range(5 + n)],
            "language": ("sw", "uk")[n % 2],
            **fields,
        }
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def replayed(source, output, **options):
    return replay(
        [source],
        ["prompt_lookup", "embedded"],
        output,
        device="cpu",
        show_progress=False,
        **options,
    )


def records(folder, drafter="embedded"):
    return {record.request_id: record for record in read_records(folder / drafter)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two kinds of texts replayed without and with a cache."""
    folder = tmp_path_factory.mktemp("cache")
    greedy = texts(folder / "greedy.jsonl")
    sampled = texts(folder / "sampled.jsonl", temperature=0.9, top_p=0.95)
    for name, source in (("greedy", greedy), ("sampled", sampled)):
        replayed(source, folder / f"{name}-direct", target="embedded")
    replayed(greedy, folder / "greedy-first", target="embedded", target_cache=folder / "pass")
    return folder


@pytest.fixture
def no_target(monkeypatch):
    """Whoever loads the target or lets it read fails."""

    def load(name, role, *rest):
        assert role == "drafter"
        return original(name, role, *rest)

    original = target_side.load
    monkeypatch.setattr(target_side, "load", load)


@pytest.mark.parametrize("kind", ["greedy", "sampled"])
def test_the_records_are_those_of_the_targets_own_pass(folder, tmp_path, kind, no_target):
    # The texts are the same and so is what the target reads, whatever the settings.
    done = replayed(folder / f"{kind}.jsonl", tmp_path / "out", target_cache=folder / "pass")
    run = read_run(tmp_path / "out" / "embedded")

    assert done.has_target
    assert (
        run["settings"]["target"]
        == read_run(folder / f"{kind}-direct" / "embedded")["settings"]["target"]
    )
    assert run["replay"]["target"].startswith("sha256:")
    for drafter in ("embedded", "prompt_lookup"):
        assert records(tmp_path / "out", drafter) == records(folder / f"{kind}-direct", drafter)
    assert all(record.overlap_sum > 0 for record in records(tmp_path / "out").values())
    departures = (tmp_path / "out" / "departures.jsonl").exists()
    assert departures == (folder / f"{kind}-direct" / "departures.jsonl").exists()


def test_the_first_pass_is_the_same_and_says_its_size(folder, tmp_path, caplog):
    source = folder / "greedy.jsonl"
    replayed(source, tmp_path / "out", target="embedded", target_cache=tmp_path / "pass")

    assert records(tmp_path / "out") == records(folder / "greedy-direct")
    said = next(m for m in caplog.messages if "will be kept" in m)
    tokens = sum(5 + n for n in range(9))
    config = json.loads((EMBEDDED_TARGET / "config.json").read_text())
    width, head = config["hidden_size"], config["vocab_size"] * config["hidden_size"] * 4
    assert f"9 texts ({tokens} tokens of responses)" in said
    outputs = f"{tokens * width * 4 / 1e6:.1f} MB"
    assert said.endswith(f"{outputs}, and once {head / 1e6:.1f} MB for the head.")
    assert head < (tmp_path / "pass" / "head.safetensors").stat().st_size < head + 4096
    written = sum(path.stat().st_size for path in (tmp_path / "pass").glob("outputs-*"))
    assert tokens * width * 4 < written < tokens * width * 4 + 4096


def test_only_texts_that_are_missing_are_read(folder, tmp_path, monkeypatch):
    cache = shutil.copytree(folder / "pass", tmp_path / "pass")
    more = texts(tmp_path / "more.jsonl", number=12)
    with pytest.raises(ConfigError, match=r"3 of 12 texts are not in --target-cache .*--target"):
        replayed(more, tmp_path / "out", target_cache=cache)
    assert not (tmp_path / "out").exists()

    read, original = [], OnePass.read

    def counted(self, batch, **options):
        if options:
            read.extend(batch.texts)
        return original(self, batch, **options)

    monkeypatch.setattr(OnePass, "read", counted)
    replayed(more, tmp_path / "out", target="embedded", target_cache=cache)
    assert len(read) == 3
    replayed(more, tmp_path / "again", target_cache=cache)
    assert records(tmp_path / "again") == records(tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
from lm_eval_specfair.replays.passes import kept_pass
from lm_eval_specfair.replays.passes import one_pass
from lm_eval_specfair.replays.replay_run import replay

one_pass._TOKENS_AT_ONCE["cpu"] = 100
kept, keep = 0, kept_pass.KeptPass._keep
def counted(self, outputs):
    global kept
    keep(self, outputs)
    kept += 1
    if kept == 2:
        os.kill(os.getpid(), signal.SIGKILL)
kept_pass.KeptPass._keep = counted
source, output, cache = map(Path, sys.argv[1:])
replay([source], ["prompt_lookup"], output, target="embedded", target_cache=cache)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_pass_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    source, cache = folder / "greedy.jsonl", tmp_path / "pass"
    arguments = [sys.executable, "-c", KILLED, *map(str, (source, tmp_path / "killed", cache))]
    killed = subprocess.run(arguments, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob("outputs-*")}
    assert len(before) == 2

    done = replay(
        [source], ["prompt_lookup"], tmp_path / "killed", target="embedded", target_cache=cache,
        device="cpu", show_progress=False,
    )  # fmt: skip
    after = {path.name: path.stat().st_mtime_ns for path in cache.glob("outputs-*")}
    assert done.num_earlier > 0
    assert before.items() <= after.items()
    lookups = {record.request_id: record for record in read_records(tmp_path / "killed")}
    assert lookups.keys() == records(folder / "greedy-direct", "prompt_lookup").keys()
    for name, record in records(folder / "greedy-direct", "prompt_lookup").items():
        assert lookups[name].accepted_per_step == record.accepted_per_step
        assert lookups[name].overlap_sum == pytest.approx(record.overlap_sum, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--target", "{other}"], "keeps the pass of embedded/target, not of"),
        (["--target", "embedded", "--dtype", "bfloat16"], "keeps weights in float32, not bfloat16"),
        (["--target-cache", "{new}"], "keeps nothing yet: name the target with --target"),
        (["--target-cache", "{full}"], "holds something else than a target's pass"),
        (["--target-cache", "{damaged}"], "is damaged"),
        (["--target-cache", "{half}"], "is damaged"),
    ],
)
def test_a_stale_or_damaged_cache_is_refused_in_one_line(
    folder, tmp_path, capsys, options, complaint
):
    places = {name: tmp_path / name for name in ("other", "new", "full", "damaged", "half")}
    shutil.copytree(EMBEDDED_TARGET.parent / "drafter", places["other"])
    places["full"].mkdir()
    (places["full"] / "notes.txt").write_text("mine")
    for name in ("damaged", "half"):
        shutil.copytree(folder / "pass", places[name])
    (places["damaged"] / "target_pass.json").write_text("{}")
    [outputs] = places["half"].glob("outputs-*")
    outputs.write_bytes(outputs.read_bytes()[:-100])
    given = [option.format(**places) for option in options]
    source = str(folder / "greedy.jsonl")
    command = ["replay", source, "--drafter", "prompt_lookup", "--device", "cpu"]
    cache = ["--target-cache", str(folder / "pass")]
    status = main([*command, *cache, *given, "-o", str(tmp_path / "out")])
    error = capsys.readouterr().err

    assert status == 2
    assert complaint in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_before_anything_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        kept_pass.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})
    )
    with pytest.raises(ConfigError, match="MB are free; name a folder on another disk"):
        replayed(
            folder / "greedy.jsonl",
            tmp_path / "out",
            target="embedded",
            target_cache=tmp_path / "pass",
        )
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "pass").exists()
