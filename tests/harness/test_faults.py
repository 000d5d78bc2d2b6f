"""Faults that a run survives, or ends at with a word: numbers, memory, disk, locks, Ctrl-C."""

import copy
import json
import logging
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.decoding.drafters import NoDrafter, PromptLookup
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.loglikelihood.scoring import ScoreTap
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.records import read_records
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.commands import OFFLINE
from support.decoding_runs import decode, model_drafter, random_prompts, request
from support.evaluations import (
    answers,
    assert_same_records,
    generation,
    records_of,
    rolling,
    run_of,
    scoring,
    specfair,
)
from support.run_folders import folder_at, record

POISON = 218  # a token (\x1d) whose embedding is NaN; the prompts below do not lead to it
PROMPTS = [[*prompt, 7] for prompt in random_prompts(9, longest=9, vocab_size=190, seed=4)]


@pytest.fixture(scope="module")
def poisoned(target):
    """The target with one embedding that is no number."""
    model = copy.deepcopy(target)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = float("nan")
    return model


@pytest.fixture(autouse=True)
def runs_of_this_test(monkeypatch):
    """`specfair run` reports all finished runs of its process."""
    monkeypatch.setattr(SpecFairLM, "finished_runs", [])
    monkeypatch.setattr(SpecFairLM, "failed_runs", set())


def tokens_of(completions):
    return [completion.token_ids for completion in completions]


# ------------------------------------------------------------------ NaN logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["model", "prompt lookup", "none"])
def test_a_row_without_numbers_fails_alone(target, near_drafter, poisoned, kind, temperature):
    drafters = {
        "model": lambda: model_drafter(near_drafter, 260),
        "prompt lookup": lambda: PromptLookup(torch.device("cpu")),
        "none": lambda: NoDrafter(torch.device("cpu")),
    }
    prompts = [*PROMPTS[:4], [5, POISON, 6], *PROMPTS[4:], [POISON]]
    requests = [request(prompt, 12) for prompt in prompts]
    settings = {"temperature": temperature, "num_speculative_tokens": 3, "batch_size": 3}
    expected = decode(target, drafters[kind](), requests, **settings)
    found = decode(poisoned, drafters[kind](), requests, **settings)

    for one, other, prompt in zip(found, expected, prompts, strict=True):
        assert POISON not in other.token_ids or POISON in prompt, "choose another token"
        if POISON in prompt:
            assert one.failure == ("target logits are NaN or infinite after 0 generated tokens")
            assert one.finish_reason is None
            assert one.token_ids == []
            assert one.counters.num_steps == 0
        else:
            assert one.failure is None
            assert one.token_ids == other.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_drafter_without_numbers_fails_its_row_alone(target, near_drafter, temperature):
    broken = copy.deepcopy(near_drafter)
    with torch.no_grad():
        broken.get_input_embeddings().weight[POISON] = float("nan")
    prompts = [*PROMPTS[:4], [5, POISON, 6], *PROMPTS[4:]]
    requests = [request(prompt, 12) for prompt in prompts]
    settings = {"temperature": temperature, "num_speculative_tokens": 3, "batch_size": 3}
    expected = decode(target, model_drafter(near_drafter, 260), requests, **settings)
    found = decode(target, model_drafter(broken, 260), requests, **settings)

    assert found[4].failure == "drafter logits are NaN or infinite after 0 generated tokens"
    del found[4], expected[4]
    assert tokens_of(found) == tokens_of(expected)


def test_what_was_decoded_before_the_fault_is_kept(target, poisoned):
    prompt = PROMPTS[0]
    whole = decode(target, NoDrafter(torch.device("cpu")), [request(prompt, 12)])[0].token_ids
    place = next(n for n in range(3, 12) if whole[n] not in (*prompt, *whole[:n]))
    model = copy.deepcopy(target)
    with torch.no_grad():
        model.get_input_embeddings().weight[whole[place]] = float("nan")
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        pytest.fail("this test needs a model whose output is not its embedding")
    found = decode(model, NoDrafter(torch.device("cpu")), [request(prompt, 12)])[0]
    assert found.token_ids == whole[: place + 1]
    assert found.failure.endswith(f"after {place + 1} generated tokens")


def test_a_failed_request_is_on_record_with_its_reason_and_the_run_goes_on(
    pair_folder, poisoned, tmp_path, caplog
):
    broken = tmp_path / "pair"
    poisoned.save_pretrained(broken / "target")
    byte_tokenizer().save_pretrained(broken / "target")
    (broken / "drafter").symlink_to(pair_folder / "drafter")
    letter = "\x1d"
    assert byte_tokenizer().encode(letter, add_special_tokens=False) == [POISON]
    model = specfair(broken, tmp_path / "run", baseline=2)
    requests = [generation("abc", 0), generation(f"x{letter}y", 1), generation("last", 2)]
    with caplog.at_level(logging.WARNING):
        found = answers(model, requests)

    records = {each.doc_id: each for each in records_of(tmp_path / "run").values()}
    assert [records[doc].failure is None for doc in range(3)] == [True, False, True]
    assert records[1].finish_reason is None
    assert records[1].baseline_seconds is None
    assert found[1] == ""
    assert run_of(tmp_path / "run")["totals"]["num_failed_requests"] == 1
    assert tmp_path / "run" in model.failed_runs
    assert "target logits are NaN or infinite" in caplog.text
    summary = build_summary([tmp_path / "run"])
    assert "1 of 3 requests failed and are left out; `failure` in their records says why." in (
        summary.notes
    )
    assert summary.overall["conditional_acceptance_rate"].n == 2
    # Failed requests are not asked again.
    again = specfair(broken, tmp_path / "run", baseline=2, resume=True)
    assert answers(again, requests) == found
    assert len(records_of(tmp_path / "run")) == 3


def test_a_text_whose_score_is_no_number_is_on_record_as_failed(pair_folder, poisoned, tmp_path):
    broken = tmp_path / "pair"
    poisoned.save_pretrained(broken / "target")
    byte_tokenizer().save_pretrained(broken / "target")
    (broken / "drafter").symlink_to(pair_folder / "drafter")
    model = specfair(broken, tmp_path / "run")
    requests = [scoring("a b", " c", 0), scoring("a \x1d", " c", 1), scoring("x", " y", 2)]
    found = model.loglikelihood(requests, disable_tqdm=True)
    model.get_model_info()
    assert [math.isnan(value) for value, _ in found] == [False, True, False]
    records = {each.doc_id: each for each in records_of(tmp_path / "run").values()}
    assert [records[doc].failure for doc in range(3)] == [
        None, "target logits are NaN or infinite", None,
    ]  # fmt: skip
    assert records[1].target_nll_sum is None
    assert records[1].kl_sum is None
    notes = build_summary([tmp_path / "run"]).notes
    assert any(note.startswith("1 of 3 requests failed") for note in notes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_specfair_run_says_by_its_status_that_requests_failed(pair_folder, tmp_path, target):
    model = copy.deepcopy(target)
    (token,) = byte_tokenizer().encode("T", add_special_tokens=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    model.save_pretrained(tmp_path / "target")
    byte_tokenizer().save_pretrained(tmp_path / "target")
    drafter = pair_folder / "drafter"
    arguments = f"pretrained={tmp_path / 'target'},drafter={drafter},records_dir={tmp_path / 'run'}"
    command = [sys.executable, "-m", "lm_eval_specfair", "run", "--tasks", "specfair_demo_en"]
    command += ["--device", "cpu", "--model_args", arguments]
    done = subprocess.run(
        command, env=OFFLINE, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "failed, and left out of all metrics: specfair_demo_en/" in done.stderr
    assert "requests failed and are left out" in done.stdout
    failures = [each.failure for each in read_records(tmp_path / "run")]
    assert 0 < failures.count(None) < len(failures) == 40


# ------------------------------------------------------------------ memory


def test_the_batch_is_halved_until_it_fits_and_nothing_else_changes(
    pair_folder, tmp_path, monkeypatch, caplog
):
    requests = [generation(f"prompt {number}", number) for number in range(11)]
    expected = answers(specfair(pair_folder, tmp_path / "calm", batch_size=8), requests)
    score = CausalModel.score
    seen = []

    def scarce(self, tokens, at=None):
        seen.append(len(tokens))
        # Eight rows fit at first; later, when rows have grown, no more than three do.
        if len(tokens) > 3 and len(seen) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return score(self, tokens, at)

    monkeypatch.setattr(CausalModel, "score", scarce)
    with caplog.at_level(logging.WARNING):
        found = answers(specfair(pair_folder, tmp_path / "scarce", batch_size=8), requests)

    assert found == expected
    assert_same_records(records_of(tmp_path / "scarce"), records_of(tmp_path / "calm"))
    assert "out of memory with 8 rows; continuing with 4" in caplog.text
    assert "out of memory with 4 rows; continuing with 2 (--batch_size 2" in caplog.text


@pytest.mark.parametrize("runs_out", ["the target", "the drafter", "lm-eval's softmax"])
@pytest.mark.parametrize("batch_size", [8, pytest.param("auto", marks=pytest.mark.slow)])
def test_texts_scored_together_are_halved_until_they_fit_and_nothing_else_changes(
    pair_folder, tmp_path, monkeypatch, caplog, runs_out, batch_size
):
    requests = [scoring(f"context {n}", f" text {n % 3}" * (1 + n % 4), n) for n in range(11)]
    whole = [rolling(f"a whole text {n}. " * (3 + 8 * (n % 2)), n) for n in range(5)]

    def scores(folder):
        model = specfair(pair_folder, folder, batch_size=batch_size, max_batch_size=8)
        found = model.loglikelihood(requests, disable_tqdm=True)
        found += model.loglikelihood_rolling(whole, disable_tqdm=True)
        model.get_model_info()
        return found

    expected = scores(tmp_path / "calm")
    calls, out_of = [], []

    def scarce(number_of_rows, of):
        calls.append(number_of_rows)
        # Eight fit in the first call, then no more than two.
        if of == runs_out and number_of_rows > 2 and len(calls) > 5:
            out_of.append(number_of_rows)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model_call, measure = SpecFairLM._model_call, ScoreTap._measure
    log_softmax = torch.nn.functional.log_softmax

    def target(self, inps, *more):
        scarce(len(inps), "the target")
        return model_call(self, inps, *more)

    def drafter(self, hits, tokens, scores):
        scarce(len(tokens), "the drafter")
        return measure(self, hits, tokens, scores)

    def normalised(scores, dim=-1, **more):
        if scores.dim() == 3:
            scarce(len(scores), "lm-eval's softmax")
        return log_softmax(scores, dim=dim, **more)

    monkeypatch.setattr(SpecFairLM, "_model_call", target)
    monkeypatch.setattr(ScoreTap, "_measure", drafter)
    monkeypatch.setattr(torch.nn.functional, "log_softmax", normalised)
    # lm-eval's own search for a size is not what is tested here.
    monkeypatch.setattr(SpecFairLM, "_detect_batch_size", lambda self, *_, **__: 8)
    with caplog.at_level(logging.WARNING):
        found = scores(tmp_path / "scarce")

    assert out_of, "memory never ran out"
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)
    assert_same_records(records_of(tmp_path / "scarce"), records_of(tmp_path / "calm"))
    assert all(each.overlap_sum is not None for each in records_of(tmp_path / "scarce").values())
    said = re.findall(
        r"out of memory with (\d+) texts scored together; continuing with", caplog.text
    )
    assert [int(each) for each in said] == sorted(map(int, said), reverse=True)
    assert 3 <= int(said[-1]) <= int(said[0]) <= 8


def test_what_does_not_fit_alone_is_an_error(pair_folder, tmp_path, monkeypatch):
    def never(self, tokens, at=None):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model = specfair(pair_folder, tmp_path, batch_size=4)
    monkeypatch.setattr(CausalModel, "score", never)
    with pytest.raises(torch.OutOfMemoryError):
        answers(model, [generation("abc")])
    model.get_model_info()


def test_other_errors_are_not_taken_for_lack_of_memory(pair_folder, tmp_path, monkeypatch):
    def broken(self, tokens, at=None):
        raise RuntimeError("shapes do not match")

    model = specfair(pair_folder, tmp_path, batch_size=4)
    monkeypatch.setattr(CausalModel, "score", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answers(model, [generation("abc")])
    model.get_model_info()


# ------------------------------------------------------------------ documents that raise


def raising_on(*documents):
    """`CausalModel.read_prompts` of a model that cannot read the prompts of these documents."""
    read_prompts = CausalModel.read_prompts
    letters = [byte_tokenizer().encode(each, add_special_tokens=False) for each in documents]

    def read(self, places, prompts):
        for prompt in prompts:
            text = ",".join(map(str, prompt))
            if any(",".join(map(str, each)) in text for each in letters):
                raise IndexError("index out of range in self\nand more that nobody reads")
        return read_prompts(self, places, prompts)

    return read


@pytest.mark.parametrize(
    ("batch_size", "baseline"), [(1, 0), (3, 0), (8, 0), (1, 2), (3, 2), (3, "all")]
)
def test_a_document_that_raises_fails_alone(
    pair_folder, tmp_path, monkeypatch, caplog, batch_size, baseline
):
    requests = [generation(f"prompt {number}.", number) for number in range(11)]
    settings = {"batch_size": batch_size, "baseline": baseline}
    expected = answers(specfair(pair_folder, tmp_path / "calm", **settings), requests)
    monkeypatch.setattr(CausalModel, "read_prompts", raising_on("prompt 0", "prompt 4", "t 9"))
    with caplog.at_level(logging.WARNING):
        found = answers(specfair(pair_folder, tmp_path / "raising", **settings), requests)

    bad = {0, 4, 9}
    assert found == ["" if doc in bad else text for doc, text in enumerate(expected)]
    records, calm = records_of(tmp_path / "raising"), records_of(tmp_path / "calm")
    failures = {each.doc_id: each.failure for each in records.values() if each.failure}
    assert failures == dict.fromkeys(bad, "IndexError: index out of range in self")
    good = {name: each for name, each in records.items() if each.failure is None}
    assert_same_records(good, {name: calm[name] for name in good})
    assert run_of(tmp_path / "raising")["totals"]["num_failed_requests"] == 3
    assert "failed, and left out of all metrics" in caplog.text


def test_a_prompt_that_the_tokenizer_cannot_read_fails_alone(pair_folder, tmp_path):
    requests = [generation("good", 0), generation("half a pair \ud800", 1)]
    found = answers(specfair(pair_folder, tmp_path), requests)
    failures = {each.doc_id: each.failure for each in records_of(tmp_path).values()}
    assert found[1] == ""
    assert failures[0] is None
    assert failures[1].split(":")[0].endswith("Error")


@pytest.mark.parametrize("num_requests", [1, 5, 30])
def test_a_fault_of_all_documents_ends_the_run_and_leaves_no_record(
    pair_folder, tmp_path, monkeypatch, num_requests
):
    requests = [generation(f"prompt {number}.", number) for number in range(num_requests)]
    model = specfair(pair_folder, tmp_path, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(CausalModel, "read_prompts", raising_on("prompt"))
        with pytest.raises(IndexError, match="out of range"):
            answers(model, requests)
    model.get_model_info()
    assert records_of(tmp_path) == {}
    # So that the same command with resume=true asks them all again.
    again = answers(specfair(pair_folder, tmp_path, batch_size=4, resume=True), requests)
    assert len(again) == len(records_of(tmp_path)) == num_requests


def test_a_fault_that_sets_in_and_stays_ends_the_run(pair_folder, tmp_path, monkeypatch):
    requests = [generation(f"prompt {number}.", number) for number in range(20)]
    score, calls = CausalModel.score, []

    def breaks(self, tokens, at=None):
        calls.append(1)
        if len(calls) > 150:
            raise RuntimeError("the device is gone")
        return score(self, tokens, at)

    model = specfair(pair_folder, tmp_path, batch_size=2)
    monkeypatch.setattr(CausalModel, "score", breaks)
    with pytest.raises(RuntimeError, match="the device is gone"):
        answers(model, requests)
    model.get_model_info()
    kept = records_of(tmp_path)
    assert 0 < len(kept) < 20
    assert all(each.failure is None for each in kept.values())


# ------------------------------------------------------------------ disk

FULL_DISK = """
import resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from support.run_folders import folder_at, record
folder = folder_at(Path({folder!r}), resume={resume})
folder.begin()
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
for number in range(40):
    folder.write(record(f"request {{number}}"))
"""


def test_a_disk_that_is_full_costs_no_record_but_the_one_that_did_not_fit(tmp_path):
    limit = 5_000
    code = FULL_DISK.format(
        tests=str(Path(__file__).parents[1]), folder=str(tmp_path), resume=False, limit=limit
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "All records before this one are safe" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("lm_eval_specfair.errors.ConfigError")
    kept = [each.request_id for each in read_records(tmp_path)]
    assert kept == [f"request {number}" for number in range(len(kept))]
    assert 0 < len(kept) < 40
    size = (tmp_path / "records.jsonl").stat().st_size
    assert size == limit  # with a part of the one that did not fit

    folder = folder_at(tmp_path, resume=True)
    for number in range(40):
        folder.write(record(f"request {number}"))
    folder.finish({})
    assert [each.request_id for each in read_records(tmp_path)] == [
        f"request {number}" for number in range(40)
    ]


# ------------------------------------------------------------------ two processes on one folder


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    first = folder_at(tmp_path)
    first.write(record("a"))
    second = folder_at(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="another process is writing to"):
        second.write(record("b"))
    first.write(record("c"))
    first.finish({})
    with pytest.raises(ConfigError, match="was written to by another process since"):
        second.write(record("b"))
    assert [each.request_id for each in read_records(tmp_path)] == ["a", "c"]
    third = folder_at(tmp_path, resume=True)
    third.write(record("b"))
    third.finish({})
    assert [each.request_id for each in read_records(tmp_path)] == ["a", "c", "b"]


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\nfrom support.run_folders import folder_at, record\n"
        f"folder = folder_at(Path({str(tmp_path)!r})); folder.write(record('a'))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(ConfigError, match="another process is writing"):
        folder_at(tmp_path, resume=True).write(record("b"))
    process.kill()
    process.wait()
    process.stdout.close()
    folder = folder_at(tmp_path, resume=True)
    folder.write(record("b"))
    folder.finish({})
    assert [each.request_id for each in read_records(tmp_path)] == ["a", "b"]


# ------------------------------------------------------------------ Ctrl-C

INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell's "&" began it
sys.path.insert(0, {tests!r})
from pathlib import Path
import conftest
from support.evaluations import answers, generation, specfair
model = specfair(Path({pair!r}), Path({folder!r}), batch_size=2)
answers(model, [generation(f"prompt {{n}}", n, max_gen_toks=100) for n in range(5000)])
"""


@pytest.mark.slow
def test_ctrl_c_says_what_is_safe_and_how_to_go_on(pair_folder, tmp_path):
    folder = tmp_path / "run"
    code = INTERRUPTED.format(
        tests=str(Path(__file__).parents[1]), pair=str(pair_folder), folder=str(folder)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=OFFLINE, stderr=subprocess.PIPE, text=True
    )
    file = folder / "records.jsonl"
    deadline = time.monotonic() + 300
    while not file.exists() or file.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate()

    kept = len(list(read_records(folder)))
    assert 4 <= kept < 5000
    assert f"stopped; {kept} requests are on record in {folder}" in shown
    assert "resume=true" in shown
    assert process.returncode != 0
    assert json.loads((folder / "run.json").read_text())["finished"] is None
