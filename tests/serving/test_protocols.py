"""What each server is asked, and what is read from answers of its documented shape.

They follow the servers' sources (vLLM 0.32.0, SGLang 0.5.23, llama.cpp 11434): no server answered
here.
"""

import json

import pytest

from lm_eval_specfair.serving.protocols import PROTOCOLS, BrokenAnswerError, ServedRequest
from lm_eval_specfair.serving.served_counts import CONVENTIONS, ServedCounts

VLLM = {
    "id": "cmpl-8a", "object": "text_completion", "created": 1790000000, "model": "pair",
    "choices": [],
    "usage": {"prompt_tokens": 12, "total_tokens": 20, "completion_tokens": 8},
    "metrics": {
        "speculative_decoding": {
            "mean_acceptance_length": 3.0, "draft_acceptance_rate": 0.5,
            "acceptance_histogram": [0, 1, 0, 1, 0], "num_spec_steps": 2,
            "num_accepted_draft_tokens": 4, "num_draft_tokens": 8, "num_spec_tokens": 4,
            "per_step_accepted": [3, 1], "per_step_drafted": [4, 4],
        }
    },
}  # fmt: skip
SGLANG = {
    "id": "5e", "object": "text_completion", "created": 1790000000, "model": "pair", "choices": [],
    "usage": None,
    "sglext": {
        "spec_tokens_details": {
            "spec_accept_rate": 0.5, "spec_accept_length": 4.0, "spec_cap_length": 0.0,
            "spec_block_accept_length": 0.0, "spec_num_correct_drafts": 4,
            "spec_num_proposed_drafts": 8, "spec_verify_ct": 2,
            "spec_correct_drafts_histogram": [0, 1, 0, 1], "spec_cap_lens_histogram": [],
        }
    },
}  # fmt: skip
LLAMACPP = {
    "index": 0, "content": "", "tokens": [], "id_slot": 0, "stop": True, "model": "pair",
    "tokens_predicted": 8, "tokens_evaluated": 12, "truncated": False, "stop_type": "limit",
    "stopping_word": "", "tokens_cached": 19,
    "timings": {
        "cache_n": 0, "prompt_n": 12, "prompt_ms": 3.1, "predicted_n": 8, "predicted_ms": 9.7,
        "draft_n": 7, "draft_n_accepted": 4,
    },
}  # fmt: skip


def read(api: str, answer: object):
    return PROTOCOLS[api].read(json.dumps(answer))


def test_vllms_counts():
    piece = read("vllm", VLLM)

    assert piece.counts == ServedCounts(
        convention="vllm", num_spec_steps=2, num_draft_tokens=8, num_accepted_draft_tokens=4,
        acceptance_histogram=[0, 1, 0, 1, 0], accepted_per_step=[3, 1], drafted_per_step=[4, 4],
        num_spec_tokens=4,
    )  # fmt: skip
    assert (piece.num_prompt_tokens, piece.num_generated_tokens, piece.model) == (12, 8, "pair")


def test_sglangs_counts():
    expected = ServedCounts(
        convention="sglang", num_spec_steps=2, num_draft_tokens=8, num_accepted_draft_tokens=4,
        acceptance_histogram=[0, 1, 0, 1], num_spec_tokens=4, drafts_are_computed=True,
    )  # fmt: skip
    details = SGLANG["sglext"]["spec_tokens_details"]

    assert read("sglang", SGLANG).counts == expected
    # A list for n > 1, and the native endpoint's place.
    assert read("sglang", {"sglext": {"spec_tokens_details": [details]}}).counts == expected
    assert read("sglang", {"meta_info": details}).counts == expected
    assert read("sglang", {"sglext": {"spec_tokens_details": [details] * 2}}).counts is None


def test_llamacpps_counts():
    piece = read("llamacpp", LLAMACPP)

    assert piece.counts == ServedCounts(
        convention="llamacpp", num_draft_tokens=7, num_accepted_draft_tokens=4
    )
    assert (piece.num_prompt_tokens, piece.num_generated_tokens) == (12, 8)
    assert piece.finish_reason == "length"


def test_nothing_drafted_is_zero_with_llamacpp_and_unsaid_with_the_others():
    timings = {"predicted_n": 8, "prompt_n": 12}

    assert read("llamacpp", {"timings": timings}).counts.num_draft_tokens == 0
    assert read("vllm", {"metrics": None}).counts is None
    assert read("vllm", {"metrics": {"speculative_decoding": None}}).counts is None
    assert read("sglang", {"sglext": None}).counts is None


def test_every_convention_is_explained():
    assert CONVENTIONS.keys() == {*PROTOCOLS, "metrics"}


@pytest.mark.parametrize(
    ("api", "end", "reason"),
    [
        ("vllm", {"finish_reason": "stop", "stop_reason": None}, "eos"),
        ("vllm", {"finish_reason": "stop", "stop_reason": 13}, "stop"),
        ("vllm", {"finish_reason": "stop", "stop_reason": "Q:"}, "stop"),
        ("vllm", {"finish_reason": "length"}, "length"),
        ("vllm", {"finish_reason": None}, None),
        ("sglang", {"finish_reason": "stop", "matched_stop": 2}, "eos"),
        ("sglang", {"finish_reason": "stop", "matched_stop": "Q:"}, "stop"),
        ("sglang", {"finish_reason": "length", "matched_stop": None}, "length"),
        ("llamacpp", {"finish_reason": "stop"}, "eos"),
        ("llamacpp", {"finish_reason": "length"}, "length"),
    ],
)
def test_why_a_text_ended(api, end, reason):
    assert read(api, {"choices": [{"index": 0, "text": "", **end}]}).finish_reason == reason


@pytest.mark.parametrize(
    ("kind", "reason"), [("eos", "eos"), ("word", "stop"), ("limit", "length")]
)
def test_why_llamacpps_own_endpoint_ended(kind, reason):
    assert read("llamacpp", LLAMACPP | {"stop_type": kind}).finish_reason == reason


def test_texts_and_token_ids():
    streamed = {"choices": [{"text": " a", "token_ids": [5, 6], "prompt_token_ids": [1, 2]}]}
    chat = {"choices": [{"delta": {"role": "assistant", "content": " b"}, "token_ids": [7]}]}
    whole = {"choices": [{"message": {"content": "c"}}], "prompt_token_ids": [3]}
    own = {"index": 0, "content": " d", "tokens": [8], "stop": False, "tokens_predicted": 1}

    for api in ("vllm", "sglang"):
        piece = read(api, streamed)
        assert (piece.text, piece.token_ids, piece.prompt_token_ids) == (" a", [5, 6], [1, 2])
        assert (read(api, chat).text, read(api, chat).token_ids) == (" b", [7])
    assert (read("vllm", whole).text, read("vllm", whole).prompt_token_ids) == ("c", [3])
    assert (read("llamacpp", own).text, read("llamacpp", own).token_ids) == (" d", [8])


REQUEST = ServedRequest(
    model="pair", prompt=[1, 2, 3], max_new_tokens=16, temperature=0.7, top_p=0.9, seed=4,
    stop_token_ids=[13],
)  # fmt: skip


@pytest.mark.parametrize("api", PROTOCOLS)
def test_what_is_asked(api):
    body = PROTOCOLS[api].body(REQUEST)

    assert (body["model"], body["prompt"], body["max_tokens"]) == ("pair", [1, 2, 3], 16)
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 4)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert "stop" not in body
    # The server's own generation settings would otherwise cut or penalise.
    assert body["min_p"] == 0.0
    assert 1.0 in (body.get("repetition_penalty"), body.get("repeat_penalty"))


def test_the_switches_of_each_server_are_in_what_is_asked():
    vllm, sglang, llamacpp = (PROTOCOLS[api].body(REQUEST) for api in PROTOCOLS)

    assert vllm["return_token_ids"] is True
    assert (vllm["stop_token_ids"], vllm["include_stop_str_in_output"]) == ([13], True)
    assert sglang["return_spec_tokens_details"] is True
    assert llamacpp["timings_per_token"] is True


@pytest.mark.parametrize("api", PROTOCOLS)
def test_messages_are_asked_at_the_chats_endpoint(api):
    messages = [{"role": "user", "content": "hi"}]
    chat = ServedRequest(model="pair", prompt=messages, max_new_tokens=4, stop_strings=["Q:"])

    assert PROTOCOLS[api].path(chat) == "/v1/chat/completions"
    assert PROTOCOLS[api].body(chat)["messages"] == messages
    assert PROTOCOLS[api].body(chat)["stop"] == ["Q:"]
    assert PROTOCOLS[api].path(REQUEST) != PROTOCOLS[api].path(chat)


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[1, 2]",
        '{"choices": 3}',
        '{"choices": [{"token_ids": ["a"]}]}',
        '{"choices": [{"token_ids": [-1]}]}',
        '{"timings": {"draft_n": 1e400}}',
        '{"metrics": {"speculative_decoding": {"num_spec_steps": 1}}}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("api", PROTOCOLS)
def test_an_answer_of_another_shape_is_refused_in_one_line(api, answer):
    with pytest.raises(BrokenAnswerError, match="not of the documented shape") as refused:
        PROTOCOLS[api].read(answer)

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_servers_error_is_quoted_without_effect():
    hostile = {"error": {"message": "\x1b[31mbad\x07\n<script>" + "x" * 999, "code": 500}}

    with pytest.raises(BrokenAnswerError, match="the server answered") as refused:
        read("vllm", hostile)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("api", "info", "found"),
    [
        (
            "vllm",
            {"vllm_config": "speculative_config=SpeculativeConfig(method='draft_model', "
             "synthetic_acceptance_length=2.5)"},
            ["synthetic_acceptance_length=2.5"],
        ),
        ("vllm", {"speculative_config": {"synthetic_acceptance_length": 3}},
         ["synthetic_acceptance_length=3"]),
        ("vllm", {"vllm_config": "SpeculativeConfig(synthetic_acceptance_length=None)"}, []),
        ("sglang", {"internal_states": {"simulate_acc_len": -1}}, []),
        ("sglang", {"env": {"SGLANG_SIMULATE_ACC_LEN": "3.0"}}, ["SGLANG_SIMULATE_ACC_LEN=3.0"]),
        (
            "llamacpp",
            {"default_generation_settings": {"params": {"speculative.synth_len": 3.0}}},
            ["speculative.synth_len=3.0"],
        ),
        ("llamacpp", {}, []),
    ],
)  # fmt: skip
def test_pretended_acceptance_is_seen_where_a_server_shows_it(api, info, found):
    assert PROTOCOLS[api].simulated(info) == found
