"""`backend=server` on llama.cpp's own server: the embedded pair as GGUF (make test-llamacpp)."""

import importlib.util
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lm_eval_specfair.conformance.reference import judge_greedy
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET

from support.drafted_steps import expected_steps
from support.evaluations import generation, records_of

ROOT = Path(__file__).parents[2]
LENGTH = 32


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load(ROOT / "examples" / "audit_a_server.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        example.llama_server() is None,
        reason="llama-server is not here (make llamacpp-env, make test-llamacpp)",
    ),
]


def requests(**settings):
    """A document in each of the demo task's 30 languages."""
    found = []
    for path in sorted((ROOT / "task_configs" / "specfair_demo" / "documents").glob("*.jsonl")):
        prompt = json.loads(path.read_text("utf-8").splitlines()[0])["prompt"]
        task = f"specfair_demo_{path.stem}"
        found.append(generation(prompt, 0, task=task, max_gen_toks=LENGTH, **settings))
    return found


def run(folder, asked, **arguments):
    from lm_eval_specfair.harness.model import SpecFairLM
    from lm_eval_specfair.harness.served.served_model import ServedLM

    if "base_url" in arguments:
        model = ServedLM(
            backend="server", model="embedded", tokenizer=str(EMBEDDED_TARGET),
            records_dir=str(folder), **arguments,
        )  # fmt: skip
    else:
        model = SpecFairLM(device="cpu", batch_size=8, baseline=0, records_dir=str(folder))
    model.generate_until(asked, disable_tqdm=True)
    model.get_model_info()
    return {record.request_id: record for record in records_of(folder).values()}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("server"), example.free_port()
    command = example.llamacpp_command(port, folder)
    with example.running(command, port, folder / "log") as found:
        yield found


@pytest.fixture(scope="module")
def models():
    return [AutoModelForCausalLM.from_pretrained(f) for f in (EMBEDDED_TARGET, EMBEDDED_DRAFTER)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    from lm_eval_specfair.records.requests_file import read_requests

    folder = tmp_path_factory.mktemp("ours") / "run"
    records = run(folder, requests())
    return records, {
        name: list(asked.prompt_token_ids) for name, asked in read_requests(folder).items()
    }


@pytest.mark.parametrize("at_once", [1, 8])
def test_texts_are_our_engines_and_steps_the_drafters_own(tmp_path, url, ours, models, at_once):
    records, prompts = ours
    served = run(tmp_path / "run", requests(), base_url=url, num_concurrent=at_once)
    assert served.keys() == records.keys()
    same = 0
    for name, record in served.items():
        text, own = record.generated_token_ids, records[name]
        # A stream holds a token back that ends inside a character, whole ones before it included,
        # and names no ids of such tokens; what it holds at a text's end never comes.
        if text is None:
            assert own.generated_text.startswith(record.generated_text.rstrip("\ufffd")), name
            assert len(own.generated_text) - len(record.generated_text) < 8, name
            text = own.generated_token_ids
        if text != own.generated_token_ids:
            verdict = judge_greedy(models[0], prompts[name], text, max_new_tokens=LENGTH)
            assert verdict.num_ties > 0, name
            assert verdict.error is None, (name, verdict)
            continue
        same += 1
        assert record.num_generated_tokens == own.num_generated_tokens
        drafted, accepted = expected_steps(
            models[1], prompts[name], text, LENGTH, gamma=4, first_is_prefill=True
        )
        # Sums are known of every text, steps where its stream tells one from the next.
        assert record.num_spec_steps == len(accepted), name
        assert record.num_accepted_draft_tokens == sum(accepted), name
        if record.accepted_per_step is not None:
            assert (record.drafted_per_step, record.accepted_per_step) == (drafted, accepted), name
    assert same >= len(records) - 2
    known = [record for record in served.values() if record.accepted_per_step is not None]
    assert len(known) > len(served) / 2


def test_texts_that_end_at_a_stop_string_keep_counts_up_to_there(tmp_path, url, models):
    asked = requests(until=[" the", "е"])
    served = run(tmp_path / "served", asked, base_url=url, num_concurrent=4)
    ours = run(tmp_path / "ours", asked)
    stopped = [name for name, record in served.items() if record.finish_reason == "stop"]
    assert len(stopped) >= 3
    for name in stopped:
        record = served[name]
        if record.generated_token_ids == ours[name].generated_token_ids:
            assert record.generated_text == ours[name].generated_text
            if record.num_spec_steps is not None:
                emitted = record.num_spec_steps + record.num_accepted_draft_tokens
                assert record.num_generated_tokens in (emitted, emitted - 1)
