"""Log-likelihoods from servers, and what is made of a served run afterwards."""

import json

import numpy as np
import pytest

from lm_eval_specfair.api.measure_verbs import replay
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.serving.protocols import PROTOCOLS, BrokenAnswerError

from support.evaluations import answers, generation, hf, records_of, scoring

PAIRS = [("A cat", " sat."), ("One dog", " ran away"), ("", "Two birds"), ("Tail ", "space")]


def served(server, folder, tokenizer, **arguments):
    given = {"base_url": server.url, "records_dir": str(folder), "tokenizer": tokenizer}
    return SpecFairLM(backend="server", **(given | arguments))


# ------------------------------------------------------------------ log-likelihoods


@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_scores_are_those_of_the_model_itself(api, serve, tmp_path, tokenizer_folder, pair_folder):
    requests = [scoring(*pair, number) for number, pair in enumerate(PAIRS)]
    expected = hf(pair_folder).loglikelihood(requests, disable_tqdm=True)
    model = served(serve(api), tmp_path, tokenizer_folder)

    found = model.loglikelihood(requests, disable_tqdm=True)
    model.get_model_info()

    records = sorted(records_of(tmp_path).values(), key=lambda record: record.doc_id)
    for (nats, greedy), (own, is_own), record in zip(expected, found, records, strict=True):
        assert own == pytest.approx(nats, abs=1e-4)
        assert is_own == greedy
        assert record.target_nll_sum == pytest.approx(-nats, abs=1e-4)
        assert record.request_type == "loglikelihood"
    resumed = served(serve(api), tmp_path, tokenizer_folder, resume=True)
    assert resumed.loglikelihood(requests, disable_tqdm=True) == found
    assert len(records_of(tmp_path)) == len(PAIRS)


def test_a_server_without_log_probabilities_of_prompts_says_who_has_them(
    serve, tmp_path, tokenizer_folder
):
    model = served(serve("llamacpp"), tmp_path, tokenizer_folder)

    with pytest.raises(ConfigError, match=r"api=llamacpp gives no .* \(these do: vllm, sglang\)"):
        model.loglikelihood([scoring("a", "b")])


@pytest.mark.parametrize("value", [None, "high", 3.0, float("-inf")])
@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_what_is_no_log_probability_is_refused(api, value):
    given = [None, {"5": {"logprob": value, "rank": 1}}]
    meta = {"input_token_logprobs": [[value, 5, None]], "input_top_logprobs": [[[value, 5, None]]]}
    data = json.dumps({"choices": [{"prompt_logprobs": given}], "meta_info": meta})

    with pytest.raises(BrokenAnswerError):
        PROTOCOLS[api].scores(data.replace("-Infinity", "-1e999").encode(), [4, 5], 1)


# ------------------------------------------------------------------ reports and replays


@pytest.fixture
def paired_run(serve, tmp_path, tokenizer_folder):
    """Twelve texts of two groups, each also from a server without drafter."""
    requests = [generation(f"Text {n}.", n, max_gen_toks=12) for n in range(12)]
    for number, request in enumerate(requests):
        request.doc["language"] = "sw" if number % 2 else "de"
    plain = serve(drafts=False)
    model = served(
        serve(), tmp_path / "run", tokenizer_folder, baseline_url=plain.url, baseline="all"
    )
    answers(model, requests)
    return tmp_path / "run"


def test_the_report_has_latency_speed_up_and_what_the_server_counts(paired_run):
    summary = build_summary([paired_run], min_requests=1)

    records = list(records_of(paired_run).values())
    groups = {"sw": [], "de": []}
    for record in records:
        groups[record.group_fields["language"]].append(record)
    for name, of_group in groups.items():
        first = sorted(record.first_token_seconds for record in of_group)
        each = [record.decode_seconds / 11 for record in of_group]
        pooled = sum(record.decode_seconds for record in of_group) / (11 * len(of_group))
        figures = summary.groups[name]
        assert figures["time_to_first_token_p50"].value == first[2]
        assert figures["time_to_first_token_p95"].value == first[5]
        assert figures["time_per_output_token_p95"].value == pytest.approx(np.max(each))
        assert figures["time_per_output_token"].value == pytest.approx(pooled)
        plain, own = (
            sum(getattr(record, field) for record in of_group)
            for field in ("baseline_seconds", "decode_seconds")
        )
        assert figures["measured_speedup"].value == pytest.approx(plain / own)
    text = render(summary, "table")
    assert "Latency by group" in text
    assert "Counted by the server (vllm 0.32.0)" in text
    assert "pretends its acceptance" in text
    assert not summary.contradictions
    assert "Latency by group" in render(summary, "html")
    assert "Latency by group" in render(summary, "md")


def test_a_run_in_process_has_no_such_table(pair_folder, tmp_path):
    from support.evaluations import specfair

    answers(specfair(pair_folder, tmp_path), [generation("A cat.", 0)])

    assert "Latency by group" not in render(build_summary([tmp_path]), "table")


def test_a_served_run_is_replayed(paired_run, pair_folder, tmp_path):
    replay(
        paired_run,
        drafter=str(pair_folder / "drafter"),
        target=str(pair_folder / "target"),
        output=tmp_path / "replay",
    )

    replayed, served_records = records_of(tmp_path / "replay"), records_of(paired_run)
    assert replayed.keys() == served_records.keys()
    for name, record in replayed.items():
        own = served_records[name]
        assert record.generated_token_ids == own.generated_token_ids
        assert record.overlap_sum is not None
        assert record.group_fields == own.group_fields
        assert not record.plain_pass_differing
        # The server's first step is the prompt's pass: one without drafts.
        assert abs(record.num_spec_steps - own.num_spec_steps) <= 1
