"""Answer quality: joined from lm-eval's samples, for the right texts only."""

import json

import pytest
from lm_eval.loggers import EvaluationTracker

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.evaluations import evaluate, specfair, toy_task
from support.synthetic_records import generation, write_folder

TIME = "2026-11-23T18-20-04.123456"
LANGUAGES = {"sw": 2, "fr": 4, "de": 6, "en": 8, "th": 0}


def sample(doc_id, correct, text="yes", **changes):
    return {
        "doc_id": doc_id,
        "resps": [[text]],
        "filter": "strict",
        "metrics": ["bypass", "pairs", "exact_match"],
        "bypass": 999,
        "pairs": [1, 2],
        "exact_match": float(correct),
    } | changes


def run_with_samples(tmp_path, *, below="model", **changes):
    """Five languages, 10 documents each, of which so many were answered right."""
    records = [
        generation(f"demo_{tag}", d, generated_text="yes", num_accepted_draft_tokens=2 * right + 10)
        for tag, right in LANGUAGES.items()
        for d in range(10)
    ]
    folder = write_folder(tmp_path / "run", records)
    place = folder / below
    place.mkdir()
    for tag, right in LANGUAGES.items():
        lines = [sample(d, d < right, **changes) for d in range(10)]
        text = "".join(json.dumps(each) + "\n" for each in lines)
        (place / f"samples_demo_{tag}_{TIME}.jsonl").write_text(text)
    return folder


def test_quality_is_joined_by_task_and_document(tmp_path):
    summary = build_summary([run_with_samples(tmp_path)])

    for tag, right in LANGUAGES.items():
        figure = summary.groups[tag]["answer_quality"]
        assert (figure.value, figure.n) == (pytest.approx(right / 10), 10)
    assert summary.groups["sw"]["answer_quality"].low < 0.2
    assert summary.disparity["answer_quality"].worst == "th"
    assert any("exact_match of strict" in note and "50 texts" in note for note in summary.notes)


def test_acceptance_is_held_against_quality(tmp_path):
    summary = build_summary([run_with_samples(tmp_path)])
    (found,) = [
        each
        for each in summary.associations
        if (each.figure, each.other) == ("conditional_acceptance_rate", "answer_quality")
    ]

    # Acceptance rises with the answers: all five groups in one order, 2 of 120 by chance.
    assert (found.spearman, found.kendall) == (pytest.approx(1), pytest.approx(1))
    assert found.spearman_p == pytest.approx(2 / 120)
    report = json.loads(render(summary, "json"))
    assert report["associations"][0]["spearman_p_adjusted"] >= found.spearman_p


def test_samples_of_another_run_are_refused(tmp_path):
    folder = run_with_samples(tmp_path, text="no")

    with pytest.raises(ConfigError, match="another text for document 0 of demo_sw") as caught:
        build_summary([folder])
    assert "\n" not in str(caught.value)


def test_a_metric_and_filter_can_be_named(tmp_path):
    folder = run_with_samples(tmp_path, f1=0.25)

    summary = build_summary([folder], quality_metric="f1,strict")
    assert summary.groups["sw"]["answer_quality"].value == 0.25
    for wrong in ("f1,loose", "pairs", "nothing"):
        with pytest.raises(ConfigError, match=f"no sample has the metric '{wrong}'"):
            build_summary([folder], quality_metric=wrong)


def test_a_folder_without_samples_is_refused_where_it_was_named(tmp_path):
    folder = run_with_samples(tmp_path)
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError, match=r"holds no samples_TASK_TIME\.jsonl"):
        build_summary([folder], samples=tmp_path / "empty")
    (folder / "model" / f"samples_demo_sw_{TIME}.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match="expected lm-eval's samples, JSON Lines"):
        build_summary([folder])


def test_without_samples_there_is_no_quality(tmp_path):
    folder = write_folder(tmp_path / "run", [generation("demo_sw", d) for d in range(6)])

    assert build_summary([folder]).overall["answer_quality"] is None


# ------------------------------------------------------------------ joined by what was asked


def right_of(doc, results):
    return {"right": doc["right"]}


def logged_run(pair_folder, tmp_path, tasks, **options):
    """A run with lm-eval's own samples below its folder."""
    folder = tmp_path / "run"
    model = specfair(pair_folder, folder)
    results = evaluate(model, tasks, log_samples=True, **options)
    model.get_model_info()
    tracker = EvaluationTracker(output_path=str(folder / "lm-eval"))
    tracker.general_config_tracker.model_name_sanitized = "model"
    tracker.date_id = TIME
    for name, samples in results["samples"].items():
        tracker.save_results_samples(name, samples)
    return folder


def quality_task(name, rights, **config):
    documents = [{"prompt": f"Say {i}", "reference": "x", "right": r} for i, r in enumerate(rights)]
    metric = {"metric": "right", "aggregation": "mean", "higher_is_better": True}
    return toy_task(name, documents, process_results=right_of, metric_list=[metric], **config)


def test_a_selection_of_documents_has_the_scores_of_its_own_documents(pair_folder, tmp_path):
    rights = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    chosen = [1, 2, 5, 7, 8, 9]  # three of six; lm-eval's records count 0 to 5
    folder = logged_run(
        pair_folder, tmp_path, [quality_task("toy", rights)], samples={"toy": chosen}
    )
    summary = build_summary([folder], min_requests=1)

    assert (summary.overall["answer_quality"].value, summary.overall["answer_quality"].n) == (
        0.5,
        6,
    )
    assert any(
        "Answer quality: right, from" in note and "6 texts" in note for note in summary.notes
    )
    assert "Answer quality" in render(summary, "md").replace("<br>", " ")


def test_repeats_and_equal_prompts_count_each_document_once(pair_folder, tmp_path):
    documents = [{"prompt": "Same", "reference": "x", "right": r} for r in (1.0, 0.0, 1.0, 1.0)]
    metric = {"metric": "right", "aggregation": "mean", "higher_is_better": True}
    task = toy_task("toy", documents, process_results=right_of, metric_list=[metric], repeats=2)
    summary = build_summary([logged_run(pair_folder, tmp_path, [task])], min_requests=1)

    assert (summary.overall["answer_quality"].value, summary.overall["answer_quality"].n) == (
        0.75,
        4,
    )


def test_choices_are_joined_too(pair_folder, tmp_path):
    documents = [{"prompt": f"{i}?", "gold": i % 2} for i in range(6)]
    task = toy_task(
        "choices",
        documents,
        output_type="multiple_choice",
        doc_to_choice=["yes", "no"],
        doc_to_target="{{gold}}",
        generation_kwargs=None,
        metric_list=[{"metric": "acc"}],
    )
    folder = logged_run(pair_folder, tmp_path, [task])
    summary = build_summary([folder], min_requests=1)

    lines = (folder / "lm-eval" / "model" / f"samples_choices_{TIME}.jsonl").read_text("utf-8")
    scores = [json.loads(line)["acc"] for line in lines.split("\n") if line]
    assert summary.overall["answer_quality"].value == pytest.approx(sum(scores) / 6)


def test_samples_of_other_requests_are_refused(pair_folder, tmp_path):
    folder = logged_run(pair_folder, tmp_path, [quality_task("toy", [1.0] * 6)])
    path = folder / "lm-eval" / "model" / f"samples_toy_{TIME}.jsonl"
    path.write_text(path.read_text("utf-8").replace("Say", "Tell"), encoding="utf-8")

    with pytest.raises(ConfigError, match="ask nothing that the records were asked") as caught:
        build_summary([folder], min_requests=1)
    assert "\n" not in str(caught.value)
