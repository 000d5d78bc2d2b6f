"""Texts from runs, lm-eval's samples of several versions, and JSON Lines; and what is refused.

python -m pytest tests/replays/test_replay_sources.py
"""

import json

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import export_run, read_records
from lm_eval_specfair.records.requests_file import AskedRequest, append_requests, read_requests
from lm_eval_specfair.replays.sources.replay_sources import read_texts

from support.synthetic_records import generation, write_folder

EOS = 0


def write(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def read(path, **options):
    settings = {"max_length": 64, "eos_token_id": EOS} | options
    return read_texts(path, byte_tokenizer(), **settings)


def ids(text):
    return byte_tokenizer()(text, add_special_tokens=False).input_ids


# ------------------------------------------------------------------ lm-eval's samples

SETTINGS = {"until": [], "do_sample": False, "max_gen_toks": 8}


@pytest.mark.parametrize(
    "arguments",
    [
        [["prompt: ", SETTINGS]],  # lm-eval before 0.4.3
        {"gen_args_0": {"arg_0": "prompt: ", "arg_1": SETTINGS}},  # since
    ],
)
def test_samples_of_every_version_give_prompt_text_and_limit(tmp_path, arguments):
    name = "samples_mgsm_direct_sw_2026-11-30T08-28-25.254268.jsonl"
    sample = {"doc_id": 7, "doc": {"language": "sw"}, "arguments": arguments, "resps": [["Habari"]]}
    [text] = read(write(tmp_path / name, sample)).texts

    assert (text.task, text.doc_id, text.group_fields) == ("mgsm_direct_sw", 7, {"language": "sw"})
    assert text.prompt == ids("prompt: ")
    assert text.response == [*ids("Habari"), EOS]
    assert (text.finish_reason, text.max_new_tokens, text.is_certain) == ("eos", 8, True)


def test_a_text_of_the_limits_length_ended_there(tmp_path):
    sample = {"doc_id": 0, "arguments": [["p", SETTINGS]], "resps": [["12345678"]]}
    [text] = read(write(tmp_path / "samples_t.jsonl", sample)).texts

    assert (text.finish_reason, len(text.response)) == ("length", 8)


def test_a_text_that_a_stop_string_may_have_ended_is_not_certain(tmp_path):
    wanted = SETTINGS | {"until": ["\n"]}
    sample = {"doc_id": 0, "arguments": [["p", wanted]], "resps": [["abc"]]}
    [text] = read(write(tmp_path / "samples_t.jsonl", sample)).texts

    assert (text.finish_reason, text.is_certain, text.response) == (None, False, ids("abc"))


def test_repeats_are_texts_of_their_own_and_scored_requests_are_left_out(tmp_path):
    arguments = {
        "gen_args_0": {"arg_0": "p", "arg_1": SETTINGS},
        "gen_args_1": {"arg_0": "p", "arg_1": " a continuation"},
    }
    sample = {"doc_id": 0, "arguments": arguments, "resps": [["one", "two"], [["-1.0", "False"]]]}
    source = read(write(tmp_path / "samples_t.jsonl", sample))

    assert [text.text for text in source.texts] == ["one", "two"]
    assert len({text.request_id for text in source.texts}) == 2
    assert source.num_left_out == 1


def test_a_long_prompt_is_cut_on_the_left_as_lm_eval_cuts_it(tmp_path):
    sample = {"doc_id": 0, "arguments": [["x" * 100 + "end", SETTINGS]], "resps": [["abc"]]}
    [text] = read(write(tmp_path / "samples_t.jsonl", sample)).texts

    assert text.prompt == ids("x" * 53 + "end")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"do_sample": True}, (1.0, None, None)),
        ({"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9}, (0.7, 50, 0.9)),
        ({"do_sample": True, "temperature": 0.7, "top_k": -1, "top_p": 1}, (0.7, None, None)),
        ({"do_sample": False, "temperature": 0.7}, (0.0, None, None)),
        ({}, (0.0, None, None)),
    ],
)
def test_sampling_settings_are_the_tasks(tmp_path, wanted, expected):
    sample = {"doc_id": 0, "arguments": [["p", {"until": [], **wanted}]], "resps": [["abc"]]}
    [text] = read(write(tmp_path / "samples_t.jsonl", sample)).texts

    assert (text.temperature, text.top_k, text.top_p) == expected


# ------------------------------------------------------------------ JSON Lines


def test_lines_with_texts_have_groups_by_any_short_field(tmp_path):
    line = {"prompt": "p: ", "response": "abc", "language": "sw", "domain": "law"}
    [text] = read(write(tmp_path / "mine.jsonl", line)).texts

    assert text.group_fields == {"language": "sw", "domain": "law"}
    assert (text.request_id, text.task) == ("mine/1", "mine")
    assert text.response == [*ids("abc"), EOS]


def test_lines_with_ids_are_taken_as_they_are(tmp_path):
    lines = [
        {"prompt_token_ids": [5, 6], "response_token_ids": [7, 8], "max_new_tokens": 2},
        {"prompt_token_ids": [5, 6], "outputs": [{"token_ids": [9], "text": "x"}]},  # vLLM's
        {"prompt_token_ids": [5, 6], "output_ids": [3, 4]},  # SGLang's
    ]
    texts = read(write(tmp_path / "mine.jsonl", *lines)).texts

    assert [text.response for text in texts] == [[7, 8], [9], [3, 4]]
    assert texts[0].max_new_tokens == 2
    assert all(text.is_certain for text in texts)


def test_messages_end_with_the_response(tmp_path, monkeypatch):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = write(tmp_path / "chat.jsonl", {"messages": messages})
    [text] = read_texts(path, tokenizer, max_length=64, eos_token_id=EOS).texts

    assert text.prompt == ids("<user>Hi")
    assert text.text == "Hello"


def test_a_line_separator_inside_a_text_is_no_end_of_line(tmp_path):
    line = {"prompt": "p", "response": "one\u2028two\x85three"}
    [text] = read(write(tmp_path / "mine.jsonl", line)).texts

    assert text.text == "one\u2028two\x85three"


# ------------------------------------------------------------------ a run's folder


def test_a_runs_prompts_are_kept_and_a_half_line_is_passed_over(tmp_path):
    asked = [
        AskedRequest(request_id=name, prompt_token_ids=[1, 2], max_new_tokens=4) for name in "abc"
    ]
    append_requests(tmp_path, asked[:2])
    with (tmp_path / "requests.jsonl").open("ab") as file:
        file.write(b'{"request_id": "half')
    assert list(read_requests(tmp_path)) == ["a", "b"]
    append_requests(tmp_path, asked[2:])
    append_requests(tmp_path, asked[:1], rank=1)

    assert sorted(read_requests(tmp_path)) == ["a", "b", "c"]
    assert read_requests(tmp_path)["c"] == asked[2]


def test_an_exported_folder_takes_the_prompts_along(tmp_path):
    run = write_folder(
        tmp_path / "run", [generation("demo_sw", 0, generated_token_ids=[7, 8] * 15)]
    )
    [name] = [record.request_id for record in read_records(run)]
    asked = AskedRequest(request_id=name, prompt_token_ids=[1, 2], max_new_tokens=4)
    append_requests(run, [asked])
    export_run(run, tmp_path / "copy", watch=lambda records: records)

    assert read(tmp_path / "copy").texts == read(run).texts
    assert read(run).texts[0].prompt == [1, 2]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"prompt": "p"}], r"mine\.jsonl:1: expected `prompt` and `response`"),
        ([{"prompt_token_ids": [-1], "response_token_ids": [1]}], "must be a list of token ids"),
        ([{"prompt": 5, "response": "r"}], r"mine\.jsonl:1: prompt must be a text, got 5"),
        ([{"prompt": "p", "response": {"a": 1}}], "response must be a text"),
        ([{"prompt": "p", "response": "r", "temperature": "hot"}], "temperature must be a number"),
        ([{"prompt": "p", "response": "r", "temperature": -1}], "a number from 0 on, got -1"),
        ([{"messages": ["hi"], "response": "r"}], "expected messages with `role` and a text"),
        ([{"messages": [{"role": "user", "content": None}], "response": "r"}], "a text as"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "image"}]}], "response": "r"}],
            "text",
        ),
        ([["a", "list"]], r"mine\.jsonl:1: expected a JSON object"),
        ([{"prompt": "p", "response": ""}], "holds no generated text"),
    ],
)
def test_a_line_that_is_no_text_is_refused_with_its_place(tmp_path, lines, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read(write(tmp_path / "mine.jsonl", *lines))


def test_half_a_surrogate_pair_is_refused_with_its_place(tmp_path):
    (tmp_path / "mine.jsonl").write_text(r'{"prompt": "p\ud800", "response": "r"}')
    with pytest.raises(ConfigError, match=r"mine\.jsonl:1 .*surrogates not allowed"):
        read(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{run}", "--drafter", "prompt_lookup"], "does not hold its prompts"),
        (["{missing}", "--drafter", "prompt_lookup"], "is nothing to replay"),
        (["{texts}", "--drafter", "prompt_lookup"], "name the target's tokenizer"),
        (["{ids}", "--drafter", "{missing}"], "cannot load tokenizer"),
        (["{ids}", "--drafter", "prompt_lookup", "--num-speculative-tokens", "0"], "from 1 to 256"),
        (["{ids}", "--drafter", "prompt_lookup", "--drafter", "prompt_lookup"], "named twice"),
        (["{ids}", "{ids}", "--drafter", "prompt_lookup"], "in the sources twice"),
        (["{sampled}", "--drafter", "prompt_lookup"], "name it with --target"),
        (["{large}", "--drafter", "embedded"], "another tokenizer"),
    ],
)
def test_wrong_input_ends_with_status_2_and_leaves_nothing(tmp_path, capsys, arguments, complaint):
    places = {
        "run": write_folder(tmp_path / "run", [generation("demo_sw", 0, generated_token_ids=[1])]),
        "missing": tmp_path / "missing",
        "texts": write(tmp_path / "texts.jsonl", {"prompt": "p", "response": "abc"}),
        "ids": write(tmp_path / "a.jsonl", {"prompt_token_ids": [5], "response_token_ids": [7]}),
        "sampled": write(
            tmp_path / "s.jsonl",
            {"prompt_token_ids": [5], "response_token_ids": [7], "temperature": 1.0},
        ),
        "large": write(
            tmp_path / "l.jsonl", {"prompt_token_ids": [5], "response_token_ids": [999_999]}
        ),
    }
    given = [argument.format(**places) for argument in arguments]
    status = main(["replay", *given, "-o", str(tmp_path / "out")])
    error = capsys.readouterr().err

    assert status == 2
    assert complaint in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()
