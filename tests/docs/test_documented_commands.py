"""Commands of README and docs: all are parsed, those on published runs are run, and the rest of
those on the embedded pair too (slow).
"""

import functools
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lm_eval.tasks
import lm_eval.utils
import pytest
from lm_eval._cli.harness import HarnessCLI

from lm_eval_specfair import cli
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model_arguments import _known
from lm_eval_specfair.harness.served.server_arguments import SERVER_ARGUMENTS

from support.commands import OFFLINE
from support.markdown import GUIDES, ROOT, commands

COMMANDS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}")
    for page in GUIDES
    for words in commands(page)
]
OURS = ("specfair", "lm_eval")
ON_RECORDS = {
    *("report", "compare", "plan", "policy", "submission", "leaderboard", "export", "tasks-path"),
}


def arguments(words: list[str]) -> list[str] | None:
    """What follows `specfair` or `lm_eval`; None for another program."""
    if words[0].rsplit("/", 1)[-1] in OURS:
        return words[1:]
    if "lm_eval_specfair" in words:  # torchrun ... -m lm_eval_specfair run ...
        return words[words.index("lm_eval_specfair") + 1 :]
    return None


def check(words: list[str]) -> None:
    """Parse a command; raises or exits where an option or an argument is unknown."""
    given = arguments(words)
    assert given is not None
    is_evaluation = given[0] in ("run", "ls") or given[0].startswith("-")
    if not is_evaluation:
        assert words[0].endswith("specfair"), words
        cli._parser().parse_args(given)
        return
    verb = given if given[0] in ("run", "ls") else ["run", *given]
    parsed = HarnessCLI()._parser.parse_args(verb)
    if parsed.command == "ls":
        return
    for task in parsed.tasks:
        if "specfair" in task or "_multi" in task:
            assert list((ROOT / "task_configs").rglob(f"{task}.yaml")), task
    named = parsed.model_args or {}
    if named.get("backend") == "server":
        assert set(named) <= set(SERVER_ARGUMENTS), named
    elif named.get("backend") != "vllm":
        assert set(named) <= set(_known()), named


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words):
    if arguments(words) is not None:
        check(words)
    else:
        assert words[0] in {"pip", "make", "export", "git", "pre-commit", "python"}, words


def test_an_unknown_option_is_noticed():
    with pytest.raises(ConfigError, match="--shape"):
        check(["specfair", "report", "results/x", "--shape", "round"])
    with pytest.raises(AssertionError):
        check(["specfair", "run", "--tasks", "specfair_demo", "--model_args", "draughter=none"])
    with pytest.raises(AssertionError):
        check(["specfair", "run", "--tasks", "specfair_lost"])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published runs in a folder that commands may write to."""
    folder = tmp_path_factory.mktemp("checkout")
    skipped = shutil.ignore_patterns("report.*", "*.html", "*.png")
    for name in ("drafters", "demo_batch_1"):
        shutil.copytree(ROOT / "results" / name, folder / "results" / name, ignore=skipped)
    shutil.copytree(ROOT / "examples", folder / "examples")
    runs = folder / "results" / "runs"
    runs.mkdir()
    # What earlier commands of a page would have measured.
    for name, run in (
        ("audit", "embedded"),
        ("mgsm", "embedded"),
        ("logs", "embedded"),
        ("served", "embedded"),
        ("before", "embedded"),
        ("round1", "embedded"),
        ("round2", "embedded-fair"),
        ("proposed", "embedded-fair"),
        ("fair", "embedded-fair"),
        ("replayed/embedded-fair-4", "embedded-fair"),
    ):
        shutil.copytree(folder / "results" / "drafters" / run, runs / name)
    return folder


# Folders that hold copies of one run: what one verb makes of it is the same in each of them.
COPIES = {f"results/runs/{name}": "results/runs/audit" for name in ("mgsm", "served")}
RUNS_ON_RECORDS = {
    tuple(COPIES.get(word, word) for word in each.values[0]): each
    for each in COMMANDS
    if each.values[0][0] == "specfair" and each.values[0][1] in ON_RECORDS
}


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS_ON_RECORDS.values())
def test_commands_on_records_run(words, published, monkeypatch, capsys):
    monkeypatch.chdir(published)
    status = cli.main(words[1:])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert out or err


# Drafters that the reader of a page has made or names.
READERS_OWN = re.compile(r"drafter=(NEW|HEAD|head|fair-drafter|drafters)\b|\bT\b")
EVALUATIONS = [
    each
    for each in COMMANDS
    if "specfair_demo" in each.values[0]
    and each.values[0][0] in OURS
    and not re.search("backend=(vllm|server)", " ".join(each.values[0]))
    and not READERS_OWN.search(" ".join(each.values[0]))
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "number"), [(*e.values, n) for n, e in enumerate(EVALUATIONS)])
def test_evaluations_of_the_embedded_pair_run(words, number, published, monkeypatch):
    """With one document of one language; the first, and plain `lm_eval`, as processes."""
    words = ["specfair_demo_en" if word == "specfair_demo" else word for word in words]
    scripts = Path(sys.executable).parent
    policy = published / "results" / "runs" / "policy.json"
    if any("policy.json" in word for word in words) and not policy.exists():
        shutil.copy(ROOT / "results" / "drafters" / "policy.json", policy)
    words = [word.replace("results/runs/", "results/runs/new-") for word in words]
    words = [
        word.replace("results/runs/new-policy.json", "results/runs/policy.json") for word in words
    ]
    if number and words[0] == "specfair":
        monkeypatch.chdir(published)
        # Only to save time: lm-eval reads its own 10,000 task files for each call otherwise.
        few = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
        monkeypatch.setattr(lm_eval.tasks, "TaskManager", few)
        # lm-eval would give its logger this test's stderr for good.
        monkeypatch.setattr(lm_eval.utils, "_LOGGING_CONFIGURED", True)
        monkeypatch.setattr(logging.getLogger("lm_eval"), "handlers", [])
        assert cli.main([*words[1:], "--limit", "1"]) == 0
        return
    done = subprocess.run(
        [scripts / words[0], *words[1:], "--limit", "1"],
        cwd=published,
        env=OFFLINE,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
