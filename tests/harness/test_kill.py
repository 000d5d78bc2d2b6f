"""A run that is killed at any moment keeps its whole lines, and is taken up where it was.

    python -m pytest tests/harness/test_kill.py -m "slow or not slow"

Real processes are killed by SIGKILL, which leaves them no time for anything: Python processes that
evaluate through lm-eval, and `specfair run` itself. `experiments/verification kills`
does it 50 times.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_eval_specfair.records import RECORDS_FILE, read_records

from support.commands import OFFLINE
from support.evaluations import assert_same_records, evaluate, records_of, run_of, specfair

# Half a minute each, unless the machine is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = ["specfair_demo_en"]  # 20 documents
SETTINGS = {"max_gen_toks": 60}
BATCH_SIZE = 2

EVALUATION = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from support.evaluations import evaluate, specfair
model = specfair(Path({pair!r}), Path({folder!r}), batch_size={batch_size}, resume={resume})
evaluate(model, {tasks!r}, gen_kwargs={settings!r})
"""


def evaluation(pair: Path, folder: Path, *, resume: bool) -> list[str]:
    code = EVALUATION.format(
        tests=str(Path(__file__).parents[1]),
        pair=str(pair),
        folder=str(folder),
        batch_size=BATCH_SIZE,
        resume=resume,
        tasks=TASKS,
        settings=SETTINGS,
    )
    return [sys.executable, "-c", code]


def specfair_run(pair: Path, folder: Path, *, resume: bool) -> list[str]:
    model_args = {
        "pretrained": str(pair / "target"),
        "drafter": str(pair / "drafter"),
        "baseline": 0,
        "records_dir": str(folder),
        "resume": resume,
    }
    return [
        *(sys.executable, "-m", "lm_eval_specfair", "run", "--tasks", ",".join(TASKS)),
        *("--model_args", json.dumps(model_args), "--device", "cpu"),
        *("--batch_size", str(BATCH_SIZE), "--gen_kwargs", json.dumps(SETTINGS)),
    ]


def num_lines(folder: Path) -> int:
    file = folder / RECORDS_FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_while_it_writes(command: list[str], folder: Path, moments: random.Random) -> None:
    """Start a process, let it write up to six records and a little more, and kill it."""
    enough = num_lines(folder) + moments.randint(1, 6)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=OFFLINE, cwd=folder.parent, stdout=file, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 400
        while num_lines(folder) < enough:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        killed = process.poll() is None
        process.kill()
        process.wait()
    assert killed, "the run was over before it could be killed"


def assert_whole_lines_are_kept(folder: Path, expected) -> None:
    found = list(read_records(folder))
    assert 0 < len(found) == num_lines(folder) < len(expected)
    assert run_of(folder)["finished"] is None
    for record in found:
        assert record.generated_text == expected[record.request_id].generated_text


@pytest.fixture(scope="module")
def undisturbed(pair_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    model = specfair(pair_folder, folder, batch_size=BATCH_SIZE)
    results = evaluate(model, TASKS, gen_kwargs=SETTINGS)
    return results, records_of(folder)


def test_a_run_killed_twice_ends_as_if_undisturbed(pair_folder, undisturbed, tmp_path):
    expected, records = undisturbed
    folder = tmp_path / "run"
    moments = random.Random(1)

    for resume in (False, True):
        command = evaluation(pair_folder, folder, resume=resume)
        kill_while_it_writes(command, folder, moments)
        assert_whole_lines_are_kept(folder, records)
    model = specfair(pair_folder, folder, batch_size=BATCH_SIZE, resume=True)
    results = evaluate(model, TASKS, gen_kwargs=SETTINGS)

    assert_same_records(records_of(folder), records)
    assert run_of(folder)["finished"] is not None
    assert results["config"]["specfair"]["total"] == expected["config"]["specfair"]["total"]


def test_specfair_run_killed_at_some_moment_is_resumed(pair_folder, undisturbed, tmp_path):
    _, records = undisturbed
    folder = tmp_path / "run"

    command = specfair_run(pair_folder, folder, resume=False)
    kill_while_it_writes(command, folder, random.Random(0))
    assert_whole_lines_are_kept(folder, records)
    done = subprocess.run(
        specfair_run(pair_folder, folder, resume=True),
        env=OFFLINE,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_records(records_of(folder), records)
