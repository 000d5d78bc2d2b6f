"""Logs of servers as records: counts against the drafter's own passes, and all that logs lack."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.records import read_records, read_run

from support.commands import refused as refusal_in
from support.drafted_steps import expected_steps

HERE = Path(__file__).parent
AIPERF = HERE / "recorded" / "aiperf-0.13.0"
ANSWERS = HERE.parent / "serving" / "recorded" / "vllm-0.32.0.json"
LANGUAGES = {"To save": "en", "You can": "en", "Um ein": "de", "Sie können": "de"}


def rows(path, *given):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given))
    return path


def exported():
    text = (AIPERF / "profile_export.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def language_of(prompt):
    return next((name for start, name in LANGUAGES.items() if prompt.startswith(start)), "uk")


@pytest.fixture
def refused(capsys):
    def run(command):
        capsys.readouterr()
        assert main(command) == 2
        return refusal_in(capsys)

    return run


@pytest.fixture(scope="module")
def prompts():
    sessions = json.loads((AIPERF / "inputs.json").read_text("utf-8"))["data"]
    return [session["payloads"][0]["prompt"] for session in sessions]


@pytest.fixture
def documents(tmp_path, prompts):
    lines = [{"text": prompt, "language": language_of(prompt)} for prompt in prompts]
    return rows(tmp_path / "prompts.jsonl", *lines)


def imported(folder, *sources, **options):
    sf.import_logs(*sources, output=folder, **options)
    return {record.request_id: record for record in read_records(folder)}


# ------------------------------------------------------------------ AIPerf


def test_counts_in_aiperfs_export_become_those_of_the_drafters_own_passes(
    tmp_path, documents, prompts
):
    """The file is AIPerf's, of vLLM's server with the embedded pair: nothing of it is made up."""
    target, drafter = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (EMBEDDED_TARGET, EMBEDDED_DRAFTER)
    )
    encode = AutoTokenizer.from_pretrained(EMBEDDED_TARGET).encode
    records = imported(tmp_path / "run", AIPERF, documents=documents)
    assert sorted(record.doc_id for record in records.values()) == list(range(6))
    for record in records.values():
        prompt = encode(prompts[record.doc_id])
        with torch.no_grad():
            whole = target.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)
        text = whole[0, len(prompt) :].tolist()
        drafted, accepted = expected_steps(
            drafter, prompt, text, 32, gamma=4, first_is_prefill=True
        )
        assert (record.drafted_per_step, record.accepted_per_step) == (drafted, accepted)
        assert record.num_draft_tokens == sum(drafted)
        assert record.num_accepted_draft_tokens == sum(accepted)
        assert (record.num_prompt_tokens, record.num_generated_tokens) == (len(prompt), 32)
        assert record.group_fields == {"language": language_of(prompts[record.doc_id])}
        assert record.finish_reason == "length"
        assert 0 < record.first_token_seconds == record.prefill_seconds < 60
        # What the log does not hold.
        assert record.generated_text is record.num_generated_bytes is record.overlap_sum is None
    waited = sorted(
        round(record.decode_seconds + record.prefill_seconds, 6) for record in records.values()
    )
    assert waited == sorted(
        round(line["metrics"]["request_latency"]["value"] / 1_000, 6) for line in exported()
    )
    taken = sum(line["spec_decode_acceptance"]["num_draft_tokens"] for line in exported())
    assert sum(record.num_draft_tokens for record in records.values()) < taken  # beyond the limit


def test_an_import_is_read_like_a_run(tmp_path, documents, capsys):
    for name in ("one", "two"):
        imported(tmp_path / name, AIPERF, documents=documents)
    capsys.readouterr()
    assert main(["report", str(tmp_path / "one"), "--min-requests", "2", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["report", str(tmp_path / "one")]) == 0
    assert "Read from logs of vllm, which count steps" in " ".join(capsys.readouterr().out.split())
    assert set(printed["groups"]) == {"en", "de", "uk"}
    assert printed["overall"]["overlap"] is None
    assert printed["contradictions"] == []
    command = ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--min-requests", "2"]
    assert main(command) == 0  # the same requests by their documents
    run = read_run(tmp_path / "one")
    assert run["backend"] == "logs"
    assert "prompt's pass" in run["settings"]["conventions"]["vllm"]


def test_requests_find_their_documents_by_id_or_prompt_and_the_order_is_nobodys(
    tmp_path, prompts, refused
):
    sessions = json.loads((AIPERF / "inputs.json").read_text("utf-8"))["data"]
    by_id = rows(
        tmp_path / "by_id.jsonl",
        *({"session_id": s["session_id"], "tenant": f"t{n}"} for n, s in enumerate(sessions)),
    )
    records = imported(tmp_path / "a", AIPERF, documents=by_id, group_fields=["tenant"])
    assert {r.doc_id: r.group_fields["tenant"] for r in records.values()} == {
        number: f"t{number}" for number in range(6)
    }
    lacking = rows(tmp_path / "lacking.jsonl", {"text": prompts[0], "language": "en"})
    command = ["import-logs", str(AIPERF), "--documents", str(lacking), "-o", str(tmp_path / "b")]
    assert refused(command).endswith("expected the file that was sent")
    assert not (tmp_path / "b").exists()


def test_fields_of_the_lines_name_groups_and_failures_are_no_measurements(tmp_path):
    lines = exported()
    for line in lines:
        line["metadata"]["source_kind"] = "coding"
    lines[0] |= {"metrics": {}, "error": {"code": 429, "message": "slow\x1b[31m down"}}
    lines[1]["metadata"]["was_cancelled"] = True
    lines[2]["metadata"]["benchmark_phase"] = "warmup"
    del lines[3]["spec_decode_acceptance"]
    lines[4]["spec_decode_acceptance"]["num_accepted_draft_tokens"] += 1
    lines[5]["metadata"]["turn_index"] = None
    log = rows(tmp_path / "profile_export.jsonl", *lines)  # without inputs.json
    place = {"domain": "metadata.source_kind", "nothing": "metadata.absent"}
    records = list(imported(tmp_path / "run", log, group_fields=place).values())
    assert len(records) == 5
    assert [record.failure for record in records if record.failure] == [
        "429: slow [31m down",
        "cancelled by the client",
    ]
    assert all(record.group_fields == {"domain": "coding"} for record in records)
    without, contradicting, whole = records[2:]
    assert without.num_spec_steps is contradicting.num_spec_steps is None
    assert without.num_generated_tokens == 32
    assert whole.num_spec_steps == len(whole.accepted_per_step)
    totals = read_run(tmp_path / "run")["totals"]
    assert totals["num_failed_requests"] == 2
    assert totals["num_without_counts"] == totals["num_contradicting"] == 1


def test_sums_without_their_steps_say_less_and_what_they_say_is_right(tmp_path):
    """vLLM's `summary`: no steps one by one."""
    lines = exported()
    detailed = list(imported(tmp_path / "detailed", AIPERF).values())
    for line in lines:
        line["spec_decode_acceptance"] |= {"per_step_accepted": None, "per_step_drafted": None}
    (tmp_path / "log").mkdir()
    rows(tmp_path / "log" / "profile_export.jsonl", *lines)
    (tmp_path / "log" / "inputs.json").write_bytes((AIPERF / "inputs.json").read_bytes())
    summed = list(imported(tmp_path / "run", tmp_path / "log").values())
    assert [record.num_spec_steps for record in summed] == [
        record.num_spec_steps for record in detailed
    ]
    for ours, whole in zip(summed, detailed, strict=True):
        assert ours.num_accepted_draft_tokens == whole.num_accepted_draft_tokens
        assert ours.num_draft_tokens in (None, whole.num_draft_tokens)
        assert ours.accepted_per_step is None


# ------------------------------------------------------------------ answers, a line each


def vllm_answer(name="completion"):
    return json.loads(json.loads(ANSWERS.read_text("utf-8"))[name]["text"])


# Of the shape that SGLang 0.5.19 to 0.5.23 document; its numbers are those of a request that
# its pull request 33518 shows.
SGLANG = {
    "id": "a",
    "object": "text_completion",
    "model": "default",
    "choices": [{"index": 0, "text": "x" * 200, "finish_reason": "length", "matched_stop": None}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 106},
    "sglext": {
        "spec_tokens_details": {
            "spec_accept_rate": 0.2930232558139535,
            "spec_accept_length": 2.4651162790697674,
            "spec_num_correct_drafts": 63,
            "spec_num_proposed_drafts": 215,
            "spec_verify_ct": 43,
            "spec_correct_drafts_histogram": [11, 14, 11, 4, 0, 3],
        }
    },
}
NATIVE = {
    "text": "x" * 200,
    "output_ids": list(range(106)),
    "meta_info": {
        "id": "a",
        "finish_reason": {"type": "length", "length": 106},
        "prompt_tokens": 9,
        "completion_tokens": 106,
        **SGLANG["sglext"]["spec_tokens_details"],
    },
}


def test_saved_answers_are_read_bare_wrapped_and_as_a_batchs_output(tmp_path):
    answer, sent = vllm_answer(), {"prompt": "p", "max_tokens": 24, "temperature": 0}
    log = rows(
        tmp_path / "answers.jsonl",
        answer,
        {"language": "de", "request_id": "r1", "request": sent, "response": answer},
        {
            "id": "vllm-1",
            "custom_id": "c1",
            "language": "uk",
            "response": {"status_code": 200, "request_id": "x", "body": answer},
            "error": None,
        },
        {"custom_id": "c2", "response": None, "error": {"message": "no\nroom"}},
    )
    bare, wrapped, batch, failed = imported(tmp_path / "run", log).values()
    assert bare.request_id == "answers/0/0"
    assert (wrapped.group_fields, batch.group_fields) == ({"language": "de"}, {"language": "uk"})
    assert wrapped.request_id == "answers/r1/0"
    assert batch.request_id == "answers/c1/0"
    assert failed.failure == "no room"
    assert bare.generated_token_ids == answer["choices"][0]["token_ids"]
    assert bare.num_generated_bytes == len(answer["choices"][0]["text"].encode())
    found = answer["metrics"]["speculative_decoding"]
    for record in (bare, wrapped, batch):
        assert record.num_generated_tokens == 24
        assert record.num_spec_steps == found["num_spec_steps"] + 1
        assert record.accepted_per_step[1:-1] == found["per_step_accepted"][:-1]
    assert wrapped.settings.temperature == 0
    assert batch.settings is None  # nothing says how it was sampled


def test_an_answer_at_a_stop_string_has_no_counts_and_two_texts_are_refused(tmp_path, refused):
    log = rows(
        tmp_path / "log.jsonl",
        vllm_answer("completion_to_a_stop_string"),
        vllm_answer("completion_to_a_stop_token"),
        vllm_answer("chat"),
    )
    stopped, at_token, chat = imported(tmp_path / "run", log).values()
    assert stopped.num_spec_steps is None
    assert (stopped.finish_reason, stopped.num_generated_tokens) == ("stop", 7)
    # The last of its three steps kept four drafts, and the fourth of them ended the text.
    assert at_token.accepted_per_step == [0, 0, 1, 4]
    assert chat.generated_text.startswith("To edit the document")

    two = rows(tmp_path / "two.jsonl", vllm_answer("completion_of_two_prompts"))
    assert "expected one text an answer, got 2" in refused(
        ["import-logs", str(two), "-o", str(tmp_path / "b")]
    )


@pytest.mark.parametrize("answer", [SGLANG, NATIVE], ids=["openai", "native"])
def test_sglangs_verifications_and_the_prompts_pass_make_up_the_text(tmp_path, answer):
    """From answers of the documented shape: no SGLang was run."""
    (record,) = imported(tmp_path / "run", rows(tmp_path / "log.jsonl", answer)).values()
    assert record.num_generated_tokens == 106 == record.num_spec_steps + 63 - 1
    assert record.num_spec_steps == 43 + 1
    # 43 verifications and the prompt's pass gave 107 tokens: one lies behind the limit.
    assert record.num_accepted_draft_tokens in (62, 63)
    assert record.num_draft_tokens is None  # computed, not counted
    assert "computed" in read_run(tmp_path / "run")["settings"]["conventions"]["sglang"]


# ------------------------------------------------------------------ what is refused


def test_what_is_no_log_is_one_line(tmp_path, refused):
    out = ["-o", str(tmp_path / "run")]
    for content, reason in (
        ("", "is empty"),
        ("[1]\n", "expected a JSON object"),
        ("{\n", "is not JSON"),
        ('{"a": 1}\n', "expected a server's answer"),
        ('{"choices": 5}\n', "not of the documented shape"),
        ('{"metadata": {"benchmark_phase": "profiling"}, "metrics": {}}\n', "AIPerf's"),
        ('{"metadata": {"benchmark_phase": "warmup", "session_num": 0}, "metrics": {}}\n', "none"),
    ):
        log = tmp_path / "log.jsonl"
        log.write_text(content)
        assert reason in refused(["import-logs", str(log), *out])
    assert "got neither" in refused(["import-logs", *out])
    assert "expected NAME" in refused(["import-logs", str(AIPERF), "--group-field", "a=", *out])
    one = rows(tmp_path / "one.jsonl", {"request_id": "a", "response": vllm_answer()})
    assert "is in the logs twice" in refused(
        ["import-logs", str(one), str(one), "--task", "t", *out]
    )
    assert not (tmp_path / "run").exists()
    assert main(["import-logs", str(one), *out]) == 0
    assert "already holds records" in refused(["import-logs", str(one), *out])


@pytest.mark.parametrize("times", [10**9, -1])
def test_impossible_numbers_are_refused_before_anything_is_made_of_them(tmp_path, refused, times):
    lines = exported()[:1]
    lines[0]["spec_decode_acceptance"]["acceptance_histogram"] = {str(times): 1}
    log = rows(tmp_path / "log.jsonl", *lines)
    assert "AIPerf's" in refused(["import-logs", str(log), "-o", str(tmp_path / "run")])
