"""A run's folder: made where nothing is, resumed where a run was killed, refused otherwise."""

import re
from pathlib import Path

import pytest

from lm_eval_specfair.conformance.tiny_models import disturbed
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.requests import group_fields, request_ids
from lm_eval_specfair.records import RECORDS_FILE

from support.evaluations import (
    answers,
    assert_same_records,
    contents,
    evaluate,
    generation,
    records_of,
    rolling,
    run_of,
    save_pair,
    scoring,
    specfair,
    texts,
    toy_task,
)
from support.run_folders import folder_at, record


def requests():
    """Greedy, sampled and scored, of two tasks."""
    prompts = ("abc", "Привет", "x y z", "long " * 9, "", "last")
    sampling = {"do_sample": True, "temperature": 1.0}
    return [
        *(generation(p, i, task="greedy", max_gen_toks=8 + i) for i, p in enumerate(prompts)),
        *(generation(p, i, task="sampled", **sampling) for i, p in enumerate(prompts)),
    ]


# ------------------------------------------------------------------ where a run goes


def test_a_new_folder_is_named_after_time_and_pair_below_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for _ in range(3):
        folder = folder_at(None)
        folder.begin()
        folder.finish({})
        paths.append(folder.path)

    assert len(set(paths)) == 3
    for path in paths:
        assert path.parent == Path("results")
        assert re.fullmatch(r"\d{8}-\d{6}-pair(-\d)?", path.name)
        assert (tmp_path / path / "run.json").is_file()


def test_a_model_without_records_dir_makes_its_folder_in_the_working_directory(
    pair_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = specfair(pair_folder, None)
    assert list(tmp_path.iterdir()) == []

    answers(model, [generation("abc", max_gen_toks=2)])

    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.endswith("-target-drafter")
    assert len(records_of(folder)) == 1
    assert model.finished_runs[-1] == Path("results") / folder.name


def test_nothing_is_written_before_the_first_requests(tmp_path):
    folder_at(tmp_path / "run")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["run.json", RECORDS_FILE, "records.rank3.jsonl"])
def test_a_folder_that_holds_a_run_is_refused_and_stays_as_it_is(tmp_path, left):
    (tmp_path / left).write_text("")
    before = contents(tmp_path)

    with pytest.raises(ConfigError, match="already holds a run") as caught:
        folder_at(tmp_path)

    assert "resume=true" in str(caught.value)
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    folder = folder_at(tmp_path)
    folder.write(record("a"))
    folder.finish({})

    assert set(records_of(tmp_path)) == {"a"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_decoded(
    pair_folder, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Engine, "decode", lambda *_, **__: pytest.fail("decoded in vain"))

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        model = specfair(pair_folder, path)
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            model.generate_until([generation("abc")], disable_tqdm=True)
        assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"file": b""}


def test_each_process_writes_a_file_of_its_own_and_the_first_the_rest(tmp_path):
    folders = [folder_at(tmp_path, rank=rank) for rank in (0, 1)]
    for rank, folder in enumerate(folders):
        folder.write(record(f"of {rank}"))
        folder.finish({"rank": rank})

    names = {"run.json", "records.jsonl", "records.rank1.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert set(records_of(tmp_path)) == {"of 0", "of 1"}
    assert run_of(tmp_path)["totals"]["rank"] == 0
    assert run_of(tmp_path)["totals"].keys() == {"rank", "records"}


def test_run_json_is_open_until_the_run_is_finished(tmp_path):
    folder = folder_at(tmp_path)
    folder.write(record("a"))
    assert run_of(tmp_path)["finished"] is None

    folder.finish({"total": 1})

    assert run_of(tmp_path)["finished"] >= run_of(tmp_path)["started"]


def test_a_model_can_go_on_to_further_requests_after_a_finished_evaluation(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path)

    answers(model, [generation("abc", 0, max_gen_toks=3)])
    answers(model, [generation("def", 1, max_gen_toks=3)])

    assert len(records_of(tmp_path)) == 2
    assert model.finished_runs.count(tmp_path) == 1
    assert run_of(tmp_path)["totals"]["total"]["num_generated_tokens"] == 6


# ------------------------------------------------------------------ resuming


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_resumed_run_decodes_what_is_missing_and_nothing_else(
    pair_folder, tmp_path, monkeypatch, batch_size
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        model = specfair(pair_folder, folder, batch_size=batch_size, baseline=2)
        expected = answers(model, requests())
    lines = (killed / RECORDS_FILE).read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    # Every other one, so that records with and without a baseline are lost; the last is half.
    (killed / RECORDS_FILE).write_bytes(b"".join(lines[::2]) + lines[1][:100])
    kept = records_of(killed)

    decoded = []
    decode = Engine.decode

    def counted(self, wanted, drafter, *, batch_size):
        wanted = list(wanted)
        decoded.extend(
            (type(drafter).__name__, request.request_id)
            for request in wanted
            if not request.request_id.startswith("warm-up")
        )
        return decode(self, wanted, drafter, batch_size=batch_size)

    monkeypatch.setattr(Engine, "decode", counted)
    resumed = specfair(pair_folder, killed, batch_size=batch_size, baseline=2, resume=True)
    found = answers(resumed, requests())

    assert found == expected
    assert_same_records(records_of(killed), records_of(whole))
    for name, one in kept.items():
        assert records_of(killed)[name] == one
    speculative = [name for drafter, name in decoded if drafter == "ModelDrafter"]
    assert sorted(speculative) == sorted(set(records_of(whole)) - set(kept))
    plain = [name for drafter, name in decoded if drafter == "NoDrafter"]
    paired = {n for n, r in records_of(whole).items() if r.baseline_seconds is not None}
    assert sorted(plain) == sorted(paired - set(kept))


def test_a_resumed_evaluation_has_the_results_of_an_undisturbed_one(pair_folder, tmp_path):
    tasks = ["specfair_demo_en", "specfair_demo_de"]
    options = {"limit": 3}
    arguments = {"batch_size": 2, "baseline": 1}
    expected = evaluate(specfair(pair_folder, tmp_path, **arguments), tasks, **options)
    file = tmp_path / RECORDS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: len(lines) // 2]) + b'{"request_id": "half')

    model = specfair(pair_folder, tmp_path, resume="true", **arguments)
    resumed = evaluate(model, tasks, **options)

    for task in tasks:
        assert texts(resumed, task) == texts(expected, task)
        for metric, value in expected["results"][task].items():
            assert resumed["results"][task][metric] == pytest.approx(value), metric
    ours, theirs = (results["config"]["specfair"] for results in (resumed, expected))
    assert ours == theirs


def test_scores_are_resumed_to_the_last_bit_without_a_pass_of_the_model(
    pair_folder, tmp_path, monkeypatch
):
    pairs = [scoring("a b", text, i) for i, text in enumerate((" c", " d e", "f"))]
    whole_texts = [rolling("g" * 300, 0), rolling("h", 1)]
    model = specfair(pair_folder, tmp_path, batch_size=2)
    scores = model.loglikelihood(pairs, disable_tqdm=True)
    sums = model.loglikelihood_rolling(whole_texts, disable_tqdm=True)
    model.get_model_info()
    before = records_of(tmp_path)

    model = specfair(pair_folder, tmp_path, batch_size=2, resume=True)
    monkeypatch.setattr(model, "_model_call", lambda *_, **__: pytest.fail("scored again"))
    assert model.loglikelihood(pairs, disable_tqdm=True) == scores
    assert model.loglikelihood_rolling(whole_texts, disable_tqdm=True) == sums
    model.get_model_info()

    assert records_of(tmp_path) == before


def test_scores_are_resumed_in_part(pair_folder, tmp_path):
    pairs = [scoring("a b", text, i) for i, text in enumerate((" c", " d e", "f"))]
    whole_texts = [rolling("g" * 600, 0), rolling("h" * 600, 1), rolling("i", 2)]
    model = specfair(pair_folder, tmp_path, batch_size=1)
    scores = model.loglikelihood(pairs, disable_tqdm=True)
    sums = model.loglikelihood_rolling(whole_texts, disable_tqdm=True)
    model.get_model_info()
    before = records_of(tmp_path)
    file = tmp_path / RECORDS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join((lines[1], lines[4])))

    model = specfair(pair_folder, tmp_path, batch_size=1, resume=True)
    assert model.loglikelihood(pairs, disable_tqdm=True) == scores
    assert model.loglikelihood_rolling(whole_texts, disable_tqdm=True) == sums
    model.get_model_info()

    assert_same_records(records_of(tmp_path), before)


def test_resume_in_a_new_folder_is_an_ordinary_run(tmp_path):
    folder = folder_at(tmp_path / "run", resume=True)
    folder.write(record("a"))

    assert folder.done == {}
    folder.finish({})
    assert set(records_of(tmp_path / "run")) == {"a"}


def test_resuming_with_other_settings_is_refused_with_what_differs(tmp_path):
    folder = folder_at(tmp_path)
    folder.write(record("a"))
    folder.finish({})
    before = contents(tmp_path)

    with pytest.raises(ConfigError) as caught:
        folder_at(tmp_path, resume=True, seed=1, drafter="new")

    message = str(caught.value)
    assert "seed was 0, is 1" in message
    assert "drafter was None, is 'new'" in message
    assert "target" not in message.replace(str(tmp_path), "")
    assert "\n" not in message
    assert contents(tmp_path) == before


def test_resuming_with_another_draft_length_or_other_weights_is_refused(
    pair_folder, target, tmp_path
):
    run = tmp_path / "run"
    answers(specfair(pair_folder, run), [generation("abc", max_gen_toks=2)])
    before = contents(run)

    with pytest.raises(ConfigError, match="num_speculative_tokens was 4, is 3"):
        specfair(pair_folder, run, resume=True, num_speculative_tokens=3)
    # The same path, but a drafter that was trained on since.
    for name in ("target", "drafter"):
        (tmp_path / "pair").mkdir(exist_ok=True)
        (tmp_path / "pair" / name).symlink_to(pair_folder / name)
    first = specfair(tmp_path / "pair", tmp_path / "other")
    answers(first, [generation("abc", max_gen_toks=2)])
    (tmp_path / "pair" / "drafter").unlink()
    (tmp_path / "pair" / "target").unlink()
    save_pair(tmp_path / "pair", target, disturbed(target, 0.5))
    with pytest.raises(ConfigError, match="drafter_weights was 'sha256:") as caught:
        specfair(tmp_path / "pair", tmp_path / "other", resume=True)
    assert "target_weights" not in str(caught.value)
    assert contents(run) == before


@pytest.mark.parametrize("lost", ["run.json", "a whole line"])
def test_a_broken_run_is_not_resumed(tmp_path, lost):
    folder = folder_at(tmp_path)
    folder.write(record("a"))
    folder.finish({})
    if lost == "run.json":
        (tmp_path / "run.json").unlink()
    else:
        (tmp_path / RECORDS_FILE).write_text('{"request_id": \n')
    before = contents(tmp_path)

    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        folder_at(tmp_path, resume=True)
    assert contents(tmp_path) == before


# ------------------------------------------------------------------ names of requests


def test_names_are_unique_and_the_same_in_every_run():
    asked = requests()

    names = request_ids(asked)

    assert len(set(names)) == len(asked)
    assert request_ids(requests()) == names
    assert request_ids(requests()[::-1]) == names[::-1]


def test_a_name_says_who_asked():
    (name,) = request_ids([scoring("a", "b", 7, 2)])

    assert re.fullmatch(r"toy/7/2/0/[0-9a-f]{8}", name or "")


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "abd"},
        {"doc_id": 1},
        {"task": "others"},
        {"temperature": 0.5},
        {"until": ["\n"]},
    ],
)
def test_whatever_is_asked_otherwise_has_another_name(other):
    asked = {"prompt": "abc"}

    one, two = request_ids([generation(**asked), generation(**(asked | other))])

    assert one != two


def test_repeats_have_names_of_their_own_and_padding_has_none():
    request = generation("abc", repeats=2)
    other = generation("abc", 1)

    names = request_ids([request, request, other, request, other])

    assert None not in names[:3]
    assert len(set(names[:3])) == 3
    assert names[3:] == [None, None]


def test_padding_is_answered_but_neither_recorded_nor_counted(pair_folder, tmp_path):
    request = generation("abc", max_gen_toks=5)
    score, whole = scoring("a", "b"), rolling("c" * 300)
    model = specfair(pair_folder, tmp_path, batch_size=2)

    generated = model.generate_until([request, request], disable_tqdm=True)
    scores = model.loglikelihood([score, score], disable_tqdm=True)
    sums = model.loglikelihood_rolling([whole, whole], disable_tqdm=True)

    info = model.get_model_info()["specfair"]
    for results in (generated, scores, sums):
        assert len(results) == 2
        assert results[0] == results[1]
    assert len(records_of(tmp_path)) == 3
    assert info["total"]["num_generated_tokens"] == 5


# ------------------------------------------------------------------ what documents say


def test_only_fields_that_may_name_a_group_are_kept():
    document = {
        "language": "sw",
        "domain": "law",
        "prompt": "long text",
        "category": 3,
        "topic": None,
    }

    assert group_fields(document) == {"language": "sw", "domain": "law"}
    assert group_fields("a string") == {}


def test_the_groups_of_a_document_are_in_its_record(pair_folder, tmp_path):
    documents = [{"prompt": "abc", "reference": "d", "language": "sw"}]

    evaluate(specfair(pair_folder, tmp_path), [toy_task("toy", documents)])

    (found,) = records_of(tmp_path).values()
    assert found.group_fields == {"language": "sw"}
