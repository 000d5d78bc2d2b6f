"""Processes that share a run: nothing is done twice, and none waits for one that is gone.

Real processes, started together by torch's launcher as `accelerate launch` does it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from lm_eval_specfair.distributed import own_share
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records import Record

from support.commands import OFFLINE
from support.evaluations import (
    assert_same_records,
    contents,
    evaluate,
    records_of,
    run_of,
    specfair,
    whole_texts,
)

pytestmark = pytest.mark.timeout(600)  # a quarter of a minute, unless the machine is busy

TASK = "specfair_demo_en"  # generation and log-likelihoods
SETTINGS = {"max_gen_toks": 40}
LIMIT = 7  # four documents for one process, three and one of padding for the other
BATCH_SIZE = 2

PROCESS = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import lm_eval
from support.evaluations import specfair, whole_texts
from lm_eval.tasks import TaskManager
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.paths import task_configs_dir

arguments = json.loads({arguments!r})
try:
    model = specfair(Path({pair!r}), **arguments)
except ConfigError as error:
    Path(f"refused-{{os.environ['RANK']}}").write_text(str(error))
    # The launcher kills the other process as soon as this one ends.
    deadline = time.monotonic() + 60
    while len(list(Path().glob("refused-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    raise SystemExit(2)
Path(f"pid-{{model.rank}}").write_text(str(os.getpid()))
task = {task!r}
{fault}
manager = TaskManager(include_defaults=False, include_path=[task_configs_dir()])
lm_eval.simple_evaluate(
    model=model, tasks=[task], task_manager=manager, bootstrap_iters=0, limit={limit},
    gen_kwargs={settings!r},
)
raise SystemExit(1 if model.failed_runs else 0)
"""
SLOW = "folder = model._folder; write = folder.write\n"
SLOW += "folder.write = lambda record: (time.sleep(0.5), write(record))"
BAD_PROMPT = """
encode, calls = model.tok_batch_encode, []
def failing(texts, **options):
    calls.append(texts)
    if model.rank == 1 and len(calls) == 2:
        raise ValueError("no such letter")
    return encode(texts, **options)
model.tok_batch_encode = failing
"""


def started(
    cwd: Path, pair: Path, *, fault: str = "", limit: int = LIMIT, **arguments: object
) -> subprocess.Popen[str]:
    """Two processes of one run, under the launcher that is returned."""
    arguments = {"records_dir": None, "batch_size": BATCH_SIZE} | arguments
    script = cwd / "run.py"
    script.write_text(
        PROCESS.format(
            tests=str(Path(__file__).parents[1]),
            pair=str(pair),
            arguments=json.dumps(arguments),
            fault=fault,
            task=TASK,
            limit=limit,
            settings=SETTINGS,
        )
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [*launcher, str(script)],
        env=OFFLINE | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(launcher: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what was printed."""
    printed, _ = launcher.communicate(timeout=300)
    return launcher.returncode, printed


def without_baseline(records: dict[str, Record]) -> dict[str, Record]:
    """Records as if none had been checked: which are depends on who has which."""
    return {
        name: structs.replace(
            record,
            baseline_seconds=None,
            plain_pass_tokens=None,
            plain_pass_ties=None,
            plain_pass_differing=None,
        )
        for name, record in records.items()
    }


@pytest.fixture(scope="module")
def alone(pair_folder, tmp_path_factory):
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    model = specfair(pair_folder, folder, batch_size=BATCH_SIZE, baseline=3)
    results = evaluate(model, [TASK], gen_kwargs=SETTINGS, limit=LIMIT)
    return results, records_of(folder)


def test_two_processes_record_what_one_does(pair_folder, alone, tmp_path):
    status, printed = ended(started(tmp_path, pair_folder, baseline=3))

    assert status == 0, printed[-3000:]
    (folder,) = (tmp_path / "results").iterdir()
    found = records_of(folder)
    results, expected = alone
    assert sum(each.baseline_seconds is not None for each in found.values()) == 3
    assert_same_records(without_baseline(found), without_baseline(expected))
    assert {path.name for path in folder.iterdir()} == {
        *("run.json", "pieces.json"),
        *("records.jsonl", "records.rank1.jsonl"),
        *("requests.jsonl", "requests.rank1.jsonl"),
    }
    run = run_of(folder)
    assert run["totals"]["total"] == results["config"]["specfair"]["total"]
    assert run["hardware"]["processes"] == 2


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_which_is_resumed(pair_folder, alone, tmp_path):
    folder = tmp_path / "run"
    launcher = started(tmp_path, pair_folder, fault=SLOW, baseline=3, records_dir=str(folder))
    its_file = folder / "records.rank1.jsonl"
    deadline = time.monotonic() + 240
    while not (its_file.exists() and its_file.read_bytes().count(b"\n")):
        assert launcher.poll() is None, launcher.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)

    status, _ = ended(launcher)

    assert status != 0
    results, expected = alone
    assert 0 < len(records_of(folder)) < len(expected)
    resumed = started(tmp_path, pair_folder, baseline=3, records_dir=str(folder), resume=True)
    status, printed = ended(resumed)
    assert status == 0, printed[-3000:]
    assert records_of(folder).keys() == expected.keys()
    assert run_of(folder)["totals"]["total"] == results["config"]["specfair"]["total"]


@pytest.mark.slow
def test_a_process_with_nothing_left_to_do_keeps_the_other_company(pair_folder, tmp_path):
    folder = tmp_path / "run"
    evaluate(specfair(pair_folder, folder, batch_size=BATCH_SIZE), [whole_texts()], limit=3)

    status, printed = ended(
        started(
            tmp_path,
            pair_folder,
            fault="task = whole_texts()",
            limit=4,
            records_dir=str(folder),
            resume=True,
        )
    )

    # One process has a text left, the other none; lm-eval lets them score equally many.
    assert status == 0, printed[-3000:]
    assert len(records_of(folder)) == 4


@pytest.mark.slow
def test_all_processes_refuse_what_the_first_refuses(pair_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    before = contents(folder)

    status, printed = ended(started(tmp_path, pair_folder, records_dir=str(folder)))

    assert status != 0
    said = [path.read_text() for path in tmp_path.glob("refused-*")]
    assert len(said) == 2, printed[-3000:]
    assert all("already holds a run" in each for each in said)
    assert contents(folder) == before


@pytest.mark.slow
def test_what_fails_in_another_process_is_counted(pair_folder, tmp_path):
    folder = tmp_path / "run"

    status, printed = ended(
        started(tmp_path, pair_folder, fault=BAD_PROMPT, records_dir=str(folder))
    )

    assert status != 0
    assert "no such letter" in printed
    assert run_of(folder)["totals"]["num_failed_requests"] == 1
    (failed,) = [each for each in records_of(folder).values() if each.failure]
    assert failed.failure == "ValueError: no such letter"


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_add_up_and_are_even(number, processes):
    shares = [own_share(number, rank, processes) for rank in range(processes)]

    assert sum(shares) == number
    assert max(shares) - min(shares) <= 1


def test_tensor_parallel_targets_are_refused():
    with pytest.raises(ConfigError, match=r"tp_plan.*parallelize=True"):
        Arguments.read(None, {"tp_plan": "auto"})
