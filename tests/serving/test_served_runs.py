"""Runs on fake servers of every protocol: texts, counts, pairs and what is refused."""

import json
import logging

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.harness.recording.recorded_model import RecordedLM
from lm_eval_specfair.steps import agreeing_by_marks, steps_of

from support.evaluations import answers, generation, records_of, run_of
from support.fake_server import APIS

PROMPTS = ["A cat sat.", "Пса бачили двічі.", "猫がいた。", "One two three.", "Two birds flew."]


@pytest.fixture(autouse=True)
def runs_of_this_test(monkeypatch):
    monkeypatch.setattr(RecordedLM, "finished_runs", [])
    monkeypatch.setattr(RecordedLM, "failed_runs", set())


def asked(**settings):
    return [generation(prompt, number, **settings) for number, prompt in enumerate(PROMPTS)]


def served(server, folder, tokenizer=None, **arguments):
    given = {"base_url": server.url, "records_dir": str(folder), "tokenizer": tokenizer}
    return SpecFairLM(
        backend="server", **{k: v for k, v in (given | arguments).items() if v is not None}
    )


@pytest.fixture(scope="module")
def plain_texts(target):
    """The target's own greedy tokens, by prompt, longer than any test asks for."""
    tokenizer, found = byte_tokenizer(), {}
    for prompt in PROMPTS:
        tokens = torch.tensor([tokenizer(prompt)["input_ids"]])
        start = tokens.shape[1]
        with torch.no_grad():
            for _ in range(24):
                tokens = torch.cat([tokens, target(tokens).logits[:, -1:].argmax(-1)], 1)
        found[prompt] = tokens[0, :start].tolist(), tokens[0, start:].tolist()
    return found


def expected_steps(drafter, prompt, text, limit, length=4):
    """The steps over a known text after its first token, which comes from the prompt's pass."""
    tokens = torch.tensor([[*prompt, *text]])
    with torch.no_grad():
        guesses = drafter(tokens).logits[0].argmax(-1).tolist()
    marks = [guesses[len(prompt) + n - 1] == text[n] for n in range(1, len(text))]
    return steps_of(
        len(text) - 1,
        agreeing_by_marks(marks),
        num_speculative_tokens=length,
        max_new_tokens=limit - 1,
    )


@pytest.mark.parametrize(("stop", "at_once"), [(False, 8), (True, 1)])
@pytest.mark.parametrize("api", APIS)
def test_texts_and_counts_are_those_of_the_pair(
    api, stop, at_once, serve, tmp_path, tokenizer_folder, plain_texts, near_drafter
):
    tokenizer = byte_tokenizer()
    stop = None if not stop else tokenizer.decode([plain_texts[PROMPTS[0]][1][9]])
    model = served(serve(api), tmp_path, tokenizer_folder, num_concurrent=at_once)

    found = answers(model, asked(until=[stop] if stop else []))

    stopped = 0
    records = sorted(records_of(tmp_path).values(), key=lambda record: record.doc_id)
    for prompt, text, record in zip(PROMPTS, found, records, strict=True):
        ids, tokens = plain_texts[prompt]
        tokens = tokens[:20]
        if stop is not None:
            ends = [n for n in range(1, 21) if stop in tokenizer.decode(tokens[:n])]
            tokens = tokens[: ends[0]] if ends else tokens
            stopped += bool(ends)
        steps = expected_steps(near_drafter, ids, tokens, 20)
        assert record.generated_token_ids == tokens
        whole = tokenizer.decode(tokens, skip_special_tokens=True)
        assert text == (whole.split(stop)[0] if stop else whole)
        assert record.drafted_per_step == [0, *steps.drafted]
        assert record.accepted_per_step == [0, *steps.accepted]
        assert record.num_examined_draft_tokens == len(steps.examined_places)
        assert record.num_prompt_tokens == len(ids)
        assert record.settings.num_speculative_tokens == 4
        assert 0 < record.first_token_seconds <= record.first_token_seconds + record.decode_seconds
    assert stop is None or stopped


def test_a_summary_says_as_much_of_an_unbroken_stream(serve, tmp_path, tokenizer_folder):
    for counts in ("detailed", "summary"):
        model = served(serve(counts=counts), tmp_path / counts, tokenizer_folder)
        answers(model, asked())

    detailed, summary = (records_of(tmp_path / counts) for counts in ("detailed", "summary"))
    for name, record in detailed.items():
        assert summary[name].accepted_per_step == record.accepted_per_step
        assert summary[name].num_draft_tokens == record.num_draft_tokens


@pytest.mark.parametrize("api", ["vllm", "llamacpp"])
def test_counts_from_the_servers_metrics(api, serve, tmp_path, tokenizer_folder):
    # llama.cpp's drafts before the limit are shorter, and its counters do not say which.
    settings = {"counts": "summary"} if api == "vllm" else {}
    server = serve(api, **settings)
    answers(served(server, tmp_path / "own", tokenizer_folder), asked())
    model = served(server, tmp_path / "metrics", tokenizer_folder, counts="metrics")
    answers(model, asked())

    run = run_of(tmp_path / "metrics")
    assert run["counting"]["convention"].startswith("differences of the server's /metrics")
    assert run["settings"]["num_concurrent"] == 1
    theirs = records_of(tmp_path / "metrics")
    for name, record in records_of(tmp_path / "own").items():
        for field in ("num_spec_steps", "num_accepted_draft_tokens"):
            if getattr(theirs[name], field) is not None or api == "vllm":
                assert getattr(theirs[name], field) == getattr(record, field)


def test_without_a_tokenizer_texts_are_asked_as_texts(serve, tmp_path, tokenizer_folder):
    server = serve("sglang")
    with_ids = answers(served(server, tmp_path / "ids", tokenizer_folder), asked(until=["e"]))
    assert isinstance(server.bodies[-1]["prompt"], list)

    as_text = answers(served(server, tmp_path / "text"), asked(until=["e"]))

    assert isinstance(server.bodies[-1]["prompt"], str)
    assert as_text == with_ids
    ids, text = (records_of(tmp_path / name) for name in ("ids", "text"))
    for name, record in ids.items():
        assert text[name].num_prompt_tokens == record.num_prompt_tokens
        assert text[name].accepted_per_step == record.accepted_per_step
    # The server's own ids of the prompts are kept, to replay the run with.
    assert len((tmp_path / "text/requests.jsonl").read_text().splitlines()) == len(PROMPTS)


def test_vllm_at_stop_strings_without_a_tokenizer(serve, tmp_path):
    server = serve("vllm")
    with pytest.raises(ConfigError, match=r"pass tokenizer= .* or stops=server"):
        answers(served(server, tmp_path), asked(until=["e"]))

    answers(served(server, tmp_path, stops="server"), asked(until=["e", "\x1d"], max_gen_toks=20))

    by_reason = {record.finish_reason: record for record in records_of(tmp_path).values()}
    assert by_reason["stop"].num_spec_steps is None
    assert by_reason["length"].num_spec_steps > 0


@pytest.mark.parametrize("api", APIS)
def test_chats_are_the_servers_to_template(api, serve, tmp_path):
    server = serve(api)
    model = served(server, tmp_path)
    messages = [{"role": "user", "content": "hi"}]
    request = generation(model.apply_chat_template(messages), until=[])

    (text,) = answers(model, [request])

    assert server.bodies[-1]["messages"] == messages
    (record,) = records_of(tmp_path).values()
    assert record.generated_text == text
    assert record.num_generated_tokens == 20
    assert record.num_spec_steps is not None


def test_a_plain_text_as_a_chat(serve, tmp_path):
    server = serve()
    answers(served(server, tmp_path, endpoint="chat"), asked()[:1])

    assert server.bodies[-1]["messages"] == [{"role": "user", "content": PROMPTS[0]}]


@pytest.mark.parametrize("api", APIS)
def test_pairs_with_a_server_without_drafter(api, serve, tmp_path, tokenizer_folder):
    server, plain = serve(api), serve(api, drafts=False)

    model = served(server, tmp_path, tokenizer_folder, baseline_url=plain.url, baseline="all")
    answers(model, asked())

    for record in records_of(tmp_path).values():
        assert record.baseline_agrees is True
        assert record.baseline_generated_tokens == record.num_generated_tokens == 20
        assert record.baseline_seconds > 0
    assert run_of(tmp_path)["settings"]["baseline_server"]["id"] == "pair"


def test_a_baseline_that_drafts_is_none(serve, tmp_path):
    with pytest.raises(ConfigError, match=r"baseline_url .* drafts as well"):
        served(serve(), tmp_path, baseline_url=serve().url)


@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_a_server_that_does_not_count(api, serve, tmp_path, tokenizer_folder):
    server = serve(api, counts="none")
    with pytest.raises(ConfigError, match=r"start it with .*counts=metrics.*drafter=none"):
        served(server, tmp_path)

    answers(served(server, tmp_path, tokenizer_folder, drafter="none"), asked())

    for record in records_of(tmp_path).values():
        assert record.num_spec_steps == record.num_generated_tokens == 20
        assert (record.num_draft_tokens, record.settings.num_speculative_tokens) == (0, 0)


def test_llamacpp_that_drafts_nothing_is_warned_of(serve, tmp_path, caplog):
    served(serve("llamacpp", counts="none"), tmp_path)

    assert "drafted nothing for a short answer" in caplog.text
    assert "--spec-type" in caplog.text


def test_pretended_acceptance_is_flagged(serve, tmp_path, caplog):
    answers(served(serve(simulated=3.0), tmp_path), asked())
    answers(served(serve(), tmp_path / "silent"), asked())

    assert "pretends its acceptance (synthetic_acceptance_length=3.0)" in caplog.text
    assert run_of(tmp_path)["settings"]["flags"] == {"lossy": ["synthetic_acceptance_length=3.0"]}
    assert run_of(tmp_path / "silent")["counting"]["simulated"] is None


def test_counts_that_contradict_themselves_are_flagged(serve, tmp_path, caplog):
    server = serve()
    model = served(server, tmp_path)
    server.faults.contradict = True
    caplog.set_level(logging.WARNING)

    answers(model, asked())

    assert "5 texts have no counts" in caplog.text
    assert run_of(tmp_path)["totals"]["counting"]["contradictory"] == 5
    for record in records_of(tmp_path).values():
        assert record.num_spec_steps is None
        assert record.failure is None
        assert record.generated_text


def test_as_many_requests_are_under_way_as_asked(serve, tmp_path, tokenizer_folder):
    server = serve(waits_for=6)
    many = [generation(f"Text {n}.", n) for n in range(40)]

    answers(served(server, tmp_path, tokenizer_folder, num_concurrent=6), many)

    assert server.most_under_way == 6
    assert len(records_of(tmp_path)) == 40


def test_what_is_asked_says_every_setting(serve, tmp_path, tokenizer_folder):
    server = serve()
    sampled = asked(do_sample=True, temperature=0.7, top_p=0.9, max_gen_toks=3)

    answers(served(server, tmp_path, tokenizer_folder, seed=3), sampled)

    bodies = server.bodies[-len(PROMPTS) :]
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in bodies} == {
        (0.7, 0.9, 3)
    }
    assert len({body["seed"] for body in bodies}) == len(PROMPTS)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"base_url": None}, "needs base_url=http://HOST:PORT"),
        ({"base_url": "localhost:8000"}, "base_url must be http://HOST:PORT"),
        ({"base_url": "http://me:secret@host"}, "without user, password"),
        ({"base_url": "http://host:port"}, "base_url must be http://HOST:PORT"),
        ({"base_ulr": "x"}, "did you mean base_url"),
        ({"api_key": "sk-1"}, "set the environment variable OPENAI_API_KEY"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "not set"),
        ({"api": "tgi"}, "api must be auto or vllm or sglang or llamacpp"),
        ({"counts": "all"}, "counts must be"),
        ({"counts": "metrics", "num_concurrent": 4}, "needs num_concurrent=1"),
        ({"num_concurrent": 0}, "num_concurrent must be at least 1"),
        ({"timeout": -1}, "timeout must be a number of seconds above 0"),
        ({"timeout": "soon"}, "timeout must be a number of seconds above 0"),
        ({"max_retries": "many"}, "max_retries must be a whole number"),
        ({"verify": "no/such.pem"}, "verify must be true, false or a PEM file"),
        ({"batch_size": 16}, "pass num_concurrent=16"),
        ({"baseline": 4}, "needs baseline_url"),
        ({"num_speculative_tokens": "policy.json"}, "draft lengths by group are not"),
        ({"num_speculative_tokens": 8}, "=8, but the server drafts 4 tokens a step"),
        ({"num_speculative_tokens": 300}, "at most 256, got 300"),
        ({"tokenizer": "no/such/folder"}, "cannot load tokenizer"),
        ({"model": "other"}, "does not serve the model 'other'; it serves pair"),
        ({"base_url": "http://127.0.0.1:9", "max_retries": 0}, "cannot be reached"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, said, serve, tmp_path):
    with pytest.raises(ConfigError, match=said) as refused:
        served(serve(), tmp_path / "run", **arguments) if "base_url" not in arguments else (
            SpecFairLM(
                backend="server",
                records_dir=str(tmp_path / "run"),
                **{name: value for name, value in arguments.items() if value is not None},
            )
        )

    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_server_of_another_kind(serve, tmp_path):
    with pytest.raises(ConfigError, match=r"does not say what kind .* pass api=vllm, api=sglang"):
        served(serve("gateway"), tmp_path)


def test_v1_may_be_part_of_the_address(serve, tmp_path):
    server = serve()
    server_at = server.url

    model = served(server, tmp_path, base_url=f"{server_at}/v1/")

    answers(model, asked()[:1])
    assert run_of(tmp_path)["served_at"] == {"base_url": server_at}


def test_whole_texts_are_not_scored(serve, tmp_path):
    with pytest.raises(ConfigError, match="does not score whole texts"):
        served(serve(), tmp_path).loglikelihood_rolling([])


def test_the_totals_of_a_run_are_in_lm_evals_results(serve, tmp_path, tokenizer_folder):
    model = served(serve(), tmp_path, tokenizer_folder)
    model.generate_until(asked(), disable_tqdm=True)

    info = model.get_model_info()

    assert json.dumps(info)
    assert info["specfair"]["total"]["num_generated_tokens"] == 100
    assert model.finished_runs[-1] == tmp_path
