"""The commands as a user types them, in processes of their own, outside of the checkout.

    python -m pytest tests/cli/test_commands.py -m "slow or not slow"

The environment is like one with an editable install: the checkout is on its path, the hook is on.
"""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest

from support.environments import CHECKOUT, Environment
from support.evaluations import records_of, run_of

LM_EVAL = Path(sysconfig.get_path("scripts")) / "lm_eval"
TASK = ("--tasks", "specfair_demo_en")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    (made.site_packages / "b_checkout.pth").write_text(f"{CHECKOUT}\n")
    shutil.copy(CHECKOUT / "lm_eval_specfair.pth", made.site_packages)
    return made


@pytest.fixture
def model_args(pair_folder, tmp_path):
    target, drafter = pair_folder / "target", pair_folder / "drafter"
    records = tmp_path / "records"
    return f"pretrained={target},drafter={drafter},records_dir={records},baseline=1"


def assert_two_documents_are_on_record(folder: Path) -> None:
    kinds = sorted(record.request_type for record in records_of(folder).values())
    assert kinds == ["generate_until"] * 2 + ["loglikelihood"] * 2
    assert run_of(folder)["finished"] is not None


def test_plain_lm_eval_runs_the_model_and_the_task(environment, model_args, tmp_path):
    done = environment.run(
        *(LM_EVAL, "--model", "specfair", "--model_args", model_args, *TASK, "--limit", "2"),
        *("--output_path", tmp_path / "output", "--log_samples"),
    )

    assert done.returncode == 0, done.stderr[-3000:]
    for metric in ("conditional_acceptance_rate", "mean_acceptance_length", "overlap"):
        assert metric in done.stdout
    assert_two_documents_are_on_record(tmp_path / "records")
    assert f"specfair report {tmp_path / 'records'}" in done.stderr
    (file,) = (tmp_path / "output").rglob("results_*.json")
    totals = json.loads(file.read_text())["config"]["specfair"]["total"]
    assert totals["num_spec_steps"] > 0
    (file,) = (tmp_path / "output").rglob("samples_specfair_demo_en_*.jsonl")
    for line in file.read_text().splitlines():
        accepted, examined = json.loads(line)["conditional_acceptance_rate"]
        assert 0 <= accepted <= examined > 0
    command = run_of(tmp_path / "records")["command"]
    assert Path(command[0]).name == "lm_eval"
    assert model_args in command


@pytest.mark.slow
def test_lm_eval_lists_the_demo_suite(environment):
    done = environment.run(LM_EVAL, "ls", "tasks")

    assert done.returncode == 0, done.stderr[-3000:]
    assert "specfair_demo_en" in done.stdout
    assert "hellaswag" in done.stdout


@pytest.mark.slow
def test_the_task_runs_with_lm_evals_own_model_too(environment, pair_folder):
    done = environment.run(
        *(LM_EVAL, "--model", "hf", "--model_args", f"pretrained={pair_folder / 'target'}"),
        *(*TASK, "--limit", "1"),
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert "bits_per_byte" in done.stdout
    assert not (environment.folder / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variables"),
    [
        (("lm_eval", "run", "--model", "specfair"), {}),
        (("lm_eval_specfair", "run"), {}),
        (("lm_eval_specfair", "run"), {"LM_EVAL_SPECFAIR_NO_HOOK": "1"}),
    ],
)
def test_other_ways_to_start_it(environment, model_args, tmp_path, module, variables):
    done = environment.run(
        *("-m", *module, "--model_args", model_args, *TASK, "--limit", "2"), **variables
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert_two_documents_are_on_record(tmp_path / "records")
    if module[0] == "lm_eval_specfair":
        report = environment.run("-m", "lm_eval_specfair", "report", tmp_path / "records")
        assert report.returncode == 0, report.stderr
        assert report.stdout.strip() in done.stdout


@pytest.mark.slow
def test_without_the_hook_plain_lm_eval_knows_nothing_of_it(environment, model_args):
    done = environment.run(
        *(LM_EVAL, "--model", "specfair", "--model_args", model_args, *TASK, "--limit", "2"),
        LM_EVAL_SPECFAIR_NO_HOOK="1",
    )

    assert done.returncode != 0
    assert "specfair_demo_en" in done.stderr
