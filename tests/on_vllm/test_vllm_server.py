"""`backend=server` on vLLM's own server: the embedded pair over HTTP, its texts against our
engine's, its counts against the drafter's own passes and `backend=vllm`'s (make test-vllm).
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lm_eval_specfair.conformance.reference import judge_greedy
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET

from support.drafted_steps import expected_steps
from support.eagle_heads import eagle_head
from support.evaluations import generation, records_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed here (make vllm-env, make test-vllm)",
    ),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.timeout(1_800),
]
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parents[2]
GAMMA, LENGTH = 4, 32
PER_LANGUAGE = 2
COUNTS = (
    "num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens", "num_examined_draft_tokens",
    "acceptance_histogram", "drafted_per_step", "accepted_per_step",
)  # fmt: skip
DOUBTFUL = {"drafted_per_step", "num_draft_tokens", "num_examined_draft_tokens"}
NGRAMS = {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "audit_a_server.py"
    spec = importlib.util.spec_from_file_location("audit_a_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requests():
    """The demo task's first two documents in each of its 30 languages."""
    found = []
    for path in sorted((ROOT / "task_configs" / "specfair_demo" / "documents").glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8").splitlines()[:PER_LANGUAGE]):
            prompt = json.loads(line)["prompt"]
            task = f"specfair_demo_{path.stem}"
            found.append(generation(prompt, number, task=task, max_gen_toks=LENGTH))
    return found


def run(folder, make=None, **arguments):
    """All requests, by a model that keeps its records in a folder."""
    if make is None:
        from lm_eval_specfair.harness.model import SpecFairLM as make

        arguments |= {"device": "cpu", "batch_size": 8}
    model = make(records_dir=str(folder), baseline=0, **arguments)
    model.generate_until(requests(), disable_tqdm=True)
    model.get_model_info()
    model._decoder.close() if hasattr(model._decoder, "close") else None
    return records_of(folder)


def served(folder, url, **arguments):
    from lm_eval_specfair.harness.served.served_model import ServedLM

    return run(
        folder, ServedLM, backend="server", base_url=url, model="embedded",
        tokenizer=str(EMBEDDED_TARGET), **arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return run(tmp_path_factory.mktemp("ours") / "run")


@pytest.fixture(scope="module")
def models():
    return [AutoModelForCausalLM.from_pretrained(f) for f in (EMBEDDED_TARGET, EMBEDDED_DRAFTER)]


@pytest.fixture(scope="module")
def prompts(ours, tmp_path_factory):
    """Prompts by request, from what the in-process run noted."""
    from lm_eval_specfair.records.requests_file import read_requests

    folder = next(tmp_path_factory.getbasetemp().glob("ours*/run"))
    return {name: list(asked.prompt_token_ids) for name, asked in read_requests(folder).items()}


def same_texts(ours, theirs, target, prompts):
    """The requests whose texts are ours token for token; any other differs by a certified tie."""
    assert ours.keys() == theirs.keys()
    same = [
        name
        for name, record in theirs.items()
        if record.generated_token_ids == ours[name].generated_token_ids
    ]
    for name in theirs.keys() - set(same):
        verdict = judge_greedy(
            target, prompts[name], theirs[name].generated_token_ids, max_new_tokens=LENGTH
        )
        assert verdict.num_ties > 0, (name, verdict)
        assert verdict.error is None, (name, verdict)
    assert len(same) >= len(ours) - 2
    return same


def counts_of(record):
    return {name: getattr(record, name) for name in COUNTS}


@pytest.fixture(scope="module", params=["drafting model", "n-grams", "EAGLE head"])
def both(request, example, tmp_path_factory):
    """60 requests at concurrency 1 and 8 to a server, and in process by `backend=vllm`."""
    folder = tmp_path_factory.mktemp("server")
    head = eagle_head(folder / "head")
    speculation, in_process = {
        "drafting model": (None, {}),
        "n-grams": (NGRAMS, {"drafter": "prompt_lookup"}),
        "EAGLE head": (
            {"method": "eagle", "model": head},
            {"drafter": head, "speculative_config": {"method": "eagle"}},
        ),
    }[request.param]
    port = example.free_port()
    runs = {}
    command = example.vllm_command(port, speculation)
    with example.running(command, port, folder / "log") as url:
        for at_once in (1, 8):
            runs[at_once] = served(folder / f"at{at_once}", url, num_concurrent=at_once)
    in_one = run(folder / "in process", backend="vllm", enforce_eager=True, **in_process)
    return request.param, runs, in_one


def test_texts_are_our_engines_and_counts_are_backend_vllms(both, ours, models, prompts):
    kind, runs, in_process = both
    assert len(ours) == 60
    assert len({record.task for record in ours.values()}) == 30
    everywhere = set(ours)
    for at_once, records in runs.items():
        same = same_texts(ours, records, models[0], prompts)
        everywhere &= set(same)
        for name in same:
            record, other = records[name], in_process[name]
            assert record.num_prompt_tokens == ours[name].num_prompt_tokens
            assert record.generated_text == ours[name].generated_text
            assert record.finish_reason == ours[name].finish_reason
            if other.generated_token_ids == record.generated_token_ids:
                found, expected = counts_of(record), counts_of(other)
                unsaid = {field for field, value in found.items() if value is None}
                assert found == {**expected, **dict.fromkeys(unsaid)}, (kind, at_once, name)
                # Where a step that kept nothing stood among passes without drafts does not show.
                assert unsaid <= (DOUBTFUL if kind == "n-grams" else set()), (name, unsaid)
            else:
                everywhere.discard(name)
            if kind == "drafting model":
                steps = expected_steps(
                    models[1], prompts[name], record.generated_token_ids, LENGTH,
                    gamma=GAMMA, first_is_prefill=True,
                )  # fmt: skip
                assert (record.drafted_per_step, record.accepted_per_step) == steps, name
        assert sum(record.num_accepted_draft_tokens for record in records.values()) > 10
    assert len(everywhere) > 55
    assert by_language(runs[1], everywhere) == by_language(runs[8], everywhere)
    assert by_language(runs[1], everywhere) == by_language(in_process, everywhere)


def by_language(records, names):
    """Steps and accepted drafts of each language."""
    sums = Counter()
    for name in names:
        record = records[name]
        sums[record.task, "accepted"] += record.num_accepted_draft_tokens
        sums[record.task, "steps"] += record.num_spec_steps
    return sums


def test_times_are_the_clients_and_what_no_server_says_is_null(both):
    _, runs, _ = both
    for records in runs.values():
        for record in records.values():
            assert record.draft_seconds is record.verify_seconds is record.overlap_sum is None
            assert record.prefill_seconds > 0
            assert record.decode_seconds > 0


def test_a_run_counted_by_metrics_has_the_same_sums(example, ours, tmp_path):
    """With one request at a time, differences of a server's counters are a request's own."""
    port = example.free_port()
    with example.running(example.vllm_command(port), port, tmp_path / "log") as url:
        own = served(tmp_path / "own", url, num_concurrent=1)
        counted = served(tmp_path / "counted", url, counts="metrics")
    known = [name for name, record in counted.items() if record.num_spec_steps is not None]
    assert len(known) > 50
    for name in known:
        assert counted[name].num_spec_steps == own[name].num_spec_steps
        assert counted[name].num_accepted_draft_tokens == own[name].num_accepted_draft_tokens


def test_the_readmes_command_starts_a_server_audits_it_and_stops_it(tmp_path):
    """As users do, in the environment of the tests' own Python."""
    command = [sys.executable, ROOT / "examples" / "audit_a_server.py", "--engine", "vllm"]
    done = subprocess.run(
        [*command, "--limit", "1", "-o", tmp_path / "run"],
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "30 requests generated" in done.stdout
    report = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert report["settings"]["backend"] == "server"
