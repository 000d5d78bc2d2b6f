"""The Python API: the numbers of the verbs, as data frames.

python -m pytest tests/test_api.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError

from support.synthetic_records import parallel_run, write_folder

RATES = {"sw": 0.4, "fr": 0.7, "ja": 0.8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_folder(folder / name, parallel_run(RATES, num_documents=8, seed=seed))
        for seed, name in enumerate(("base", "candidate"))
    ]


@pytest.fixture(scope="module")
def report(folders):
    return sf.report(folders[0])


@pytest.fixture(scope="module")
def printed(folders):
    """What `specfair report --format json` prints, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval_specfair", "report", folders[0], "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_report_by_group_holds_the_numbers_of_the_verb(report, printed):
    assert list(report.by_group.index) == list(printed["groups"])
    for group, estimates in printed["groups"].items():
        for metric, estimate in estimates.items():
            value = report.by_group.loc[group, metric]
            assert np.isnan(value) if estimate is None else value == estimate["value"]
            if estimate is not None and estimate["low"] is not None:
                interval = report.intervals.loc[group, metric]
                assert [interval["low"], interval["high"]] == [estimate["low"], estimate["high"]]


def test_overall_and_disparity_hold_the_numbers_of_the_verb(report, printed):
    for metric, estimate in printed["overall"].items():
        if estimate is not None:
            assert report.overall.loc[metric, "value"] == estimate["value"]
    for metric, spread in printed["disparity"].items():
        if spread is not None:
            assert report.disparity.loc[metric, "worst"] == spread["worst"]
            assert report.disparity.loc[metric, "gini"] == spread["gini"]["value"]


def test_groups_are_what_was_asked_for(folders):
    by_script = sf.report(folders[0], group_by="script").by_group

    assert by_script.index.name == "script"
    assert set(by_script.index) == {"Latn", "Jpan"}


def test_a_report_is_saved_as_by_the_verb(report, tmp_path):
    files = report.save(tmp_path / "new" / "report")

    assert {file.suffix for file in files} >= {".md", ".json", ".csv", ".html"}
    assert all(file.stat().st_size for file in files)
    (picture,) = (file for file in files if file.suffix == ".svg")
    assert report.figure() == report.figure()._repr_svg_() == picture.read_text(encoding="utf-8")


def test_a_report_renders_as_the_verb_prints(report, folders, capsys):
    assert main(["report", str(folders[0]), "--format", "csv"]) == 0
    assert capsys.readouterr().out == report.render("csv") + "\n"


def test_a_comparison_pairs_the_runs(folders):
    comparison = sf.compare(*folders)
    change = comparison.by_group.loc["candidate", "sw", "mean_acceptance_length"]
    base, candidate = (sf.report(f).by_group.loc["sw", "mean_acceptance_length"] for f in folders)

    assert change["base"] == base
    assert change["candidate"] == candidate
    assert change["change"] == pytest.approx(candidate - base)
    assert change["low"] <= change["change"] <= change["high"]
    assert comparison.disparity.loc["candidate", "mean_acceptance_length", "gini"].notna()["low"]
    assert comparison.passed


def test_a_run_is_compared_with_itself_without_any_change(folders, tmp_path):
    copy = write_folder(tmp_path / "copy", sf.load_run(folders[0]).records)
    changes = sf.compare(folders[0], copy).by_group

    assert (changes["change"] == 0).all()


def test_a_loaded_run_stands_for_its_folder(folders):
    run = sf.load_run(folders[0])
    frame = run.to_frame()

    pd.testing.assert_frame_equal(sf.report(run).by_group, sf.report(folders[0]).by_group)
    assert len(frame) == len(run.records) == len(list(run))
    assert frame["request_id"].tolist() == [record.request_id for record in run]
    generated = frame[frame["request_type"] == "generate_until"]
    assert generated["num_spec_steps"].sum() == sum(each.num_spec_steps or 0 for each in run)
    assert run.info["schema_version"] == 1


def test_a_policy_is_that_of_the_verb(folders):
    assert set(sf.policy(folders[0]).groups) == {"sw", "fr", "ja"}


def test_a_plan_is_that_of_the_verb(folders):
    plan = sf.plan(*folders[:2], margin=0.2, metric="mean_acceptance_length")

    assert {limit.group for limit in plan.limits} == {"sw", "fr", "ja"}
    assert plan.is_paired


def test_texts_of_other_programs_are_replayed(tmp_path):
    source = tmp_path / "texts.jsonl"
    lines = [
        {"prompt": "To save a document, ", "response": "open the File menu.", "language": "en"},
        {"prompt": "Щоб зберегти документ, ", "response": "відкрийте меню Файл.", "language": "uk"},
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, lookup = sf.replay(
        source, drafter=["embedded", "prompt_lookup"], output=tmp_path / "out", device="cpu"
    )
    report = sf.report(model, min_requests=1)

    assert set(report.by_group.index) == {"en", "uk"}
    assert model.info["backend"] == lookup.info["backend"] == "replay"
    for record in model.records:
        assert record.decode_seconds is None
        assert record.num_generated_tokens == record.num_spec_steps + sum(record.accepted_per_step)


def test_training_refuses_a_setting_that_it_does_not_have(tmp_path):
    with pytest.raises(ConfigError, match=r"no setting 'weights'; expected one of .*weighting"):
        sf.train(tmp_path, tmp_path / "out", weights="s-cdf")


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        sf.load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"no such folder|run\.json"):
        sf.report(tmp_path / "nothing")
    with pytest.raises(AttributeError, match="no attribute 'reprot'"):
        sf.reprot  # noqa: B018


def test_the_stub_for_type_checkers_names_what_is_exported():
    stub = Path(sf.__file__).with_suffix(".pyi").read_text(encoding="utf-8")

    assert all(f'    "{name}",\n' in stub for name in sf.__all__)


def test_no_function_has_the_name_of_a_module():
    # Importing lm_eval_specfair.NAME would set the package's attribute to the module.
    package = Path(sf.__file__).parent

    modules = {path.stem for path in package.iterdir()}

    assert not modules & set(sf.__all__)


def test_every_name_is_exported_and_documented():
    for name in sf.__all__:
        assert name == "__version__" or getattr(sf, name).__doc__
    assert set(sf.__all__) <= set(dir(sf))


def test_the_package_loads_its_api_only_when_asked():
    code = (
        "import sys, lm_eval_specfair as sf\n"
        "assert 'pandas' not in sys.modules and 'numpy' not in sys.modules\n"
        "sf.report\n"
        "assert 'pandas' in sys.modules and 'torch' not in sys.modules"
    )
    environment = os.environ | {"LM_EVAL_SPECFAIR_NO_HOOK": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
