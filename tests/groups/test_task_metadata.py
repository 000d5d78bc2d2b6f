"""What tasks say about themselves reaches run.json and the report, for any task of lm-eval."""

import json

from lm_eval_specfair.cli import main
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.harness.model import SpecFairLM

from support.evaluations import evaluate, run_of, specfair, toy_task

DOCUMENTS = [{"prompt": f"Swali {number}:", "reference": "ndiyo"} for number in range(6)]


def test_metadata_and_data_set_of_any_task_are_in_run_json(
    pair_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(SpecFairLM, "finished_runs", [])  # `specfair run` reports them all
    told = toy_task(
        "toy_told", DOCUMENTS, metadata={"version": 2.0, "language": "sw", "domain": ["law", "tax"]}
    )
    read = toy_task("toy_read", DOCUMENTS, dataset_name="yor_Latn")
    model = specfair(pair_folder, tmp_path / "run", num_speculative_tokens=2, baseline=0)

    evaluate(model, [told, read])

    tasks = run_of(tmp_path / "run")["tasks"]
    assert tasks["toy_told"]["metadata"] == {
        "version": 2.0,
        "language": "sw",
        "domain": ["law", "tax"],
    }
    assert tasks["toy_read"]["config"]["dataset_name"] == "yor_Latn"
    for group_by, expected in (
        ("language", {"sw", "yo"}),
        ("domain", {"law", "tax", "(none)"}),
        ("resource_class", {"2"}),
    ):
        command = ["report", str(tmp_path / "run"), "--group-by", group_by, "--format", "json"]
        assert main(command) == 0
        assert set(json.loads(capsys.readouterr().out)["groups"]) == expected


class Config:
    task = "any"
    dataset_path = "/home/somebody/secret/toy-data"
    dataset_name = "de"
    dataset_kwargs = {"language": "de", "data_files": "/home/somebody/x", "trust_remote_code": True}  # noqa: RUF012
    metadata = {  # noqa: RUF012
        "pretrained": "model",
        "token": "secret",
        "config_source": "/home/somebody/x.yaml",
        "data_dir": "/home/somebody/data",
        "language": "de",
        "num": 3,
        "nan": float("nan"),
        "long": "x" * 5000,
        "nested": {"a": 1},
        "function": len,
    }


class Task:
    config = Config()


def test_only_facts_about_the_task_are_kept(monkeypatch):
    monkeypatch.setattr(task_facts, "_facts", {})
    monkeypatch.setattr(task_facts, "_ignored", {*task_facts._ignored, "token"})

    task_facts.note(Task())

    assert task_facts.facts("any").to_json() == {
        "metadata": {"language": "de", "num": 3},
        "config": {
            "dataset_path": "toy-data",
            "dataset_name": "de",
            "dataset_kwargs": {"language": "de"},
        },
    }
    json.dumps(task_facts.facts("any").to_json(), allow_nan=False)


def test_a_task_without_configuration_stops_nothing(monkeypatch):
    monkeypatch.setattr(task_facts, "_facts", {})

    task_facts.note(object())

    assert task_facts.facts("anything").to_json() == {"metadata": {}, "config": {}}


def test_watching_twice_wraps_once():
    from lm_eval.api.task import Task as Original

    task_facts.watch()
    once = Original.build_all_requests
    task_facts.watch(["other"])

    assert Original.build_all_requests is once
