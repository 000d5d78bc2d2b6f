"""Greedy texts are held against the target's own plain pass, which shares nothing with ours."""

import copy

import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import architecture, disturbed, llama
from lm_eval_specfair.decoding import plain_pass
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.jobs import lossless_check
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.evaluations import answers, generation, records_of, run_of, save_pair, specfair

TEXTS = [f"{'A long story about a fox. ' * n}Number {n}." for n in range(6)]


def requests(**options):
    return [generation(text, number, **options) for number, text in enumerate(TEXTS)]


def forget_the_first_tokens(monkeypatch):
    """A fault of masks that does not depend on who shares the batch, or on what is drafted."""
    original = CausalModel._forward

    def changed(self, tokens, positions, mask):
        if mask is not None:
            mask = mask.clone()
            mask[..., :6] = False
        return original(self, tokens, positions, mask)

    monkeypatch.setattr(CausalModel, "_forward", changed)


def test_a_fault_that_the_baseline_shares_is_found(pair_folder, tmp_path, monkeypatch, caplog):
    model = specfair(pair_folder, tmp_path / "run", baseline="all", batch_size=3)
    forget_the_first_tokens(monkeypatch)  # once the trial has passed
    answers(model, requests())

    records = records_of(tmp_path / "run").values()
    checked = [record for record in records if record.plain_pass_tokens is not None]
    assert all(record.baseline_agrees for record in records)
    assert len(checked) == 2
    assert all(record.plain_pass_differing for record in checked)
    assert "NOT LOSSLESS" in caplog.text
    assert tmp_path / "run" in SpecFairLM.failed_runs
    noted = run_of(tmp_path / "run")["totals"]["lossless_check"]
    assert noted["requests"] == 2
    assert noted["equal"] + noted["ties"] + noted["differing"] == noted["tokens"] == 40
    assert {each["request_id"]: each["place"] for each in noted["places"]} == {
        record.request_id: record.plain_pass_differs_at for record in checked
    }
    report = build_summary([tmp_path / "run"])
    assert "not lossless: 2 of 2 checked texts" in " ".join(render(report, "table").split())
    for form in ("md", "html"):
        assert "not lossless: 2 of 2" in render(report, form)


def test_right_texts_pass_and_cost_no_status(pair_folder, tmp_path):
    answers(specfair(pair_folder, tmp_path / "run", batch_size=3), requests())

    noted = run_of(tmp_path / "run")["totals"]["lossless_check"]
    assert noted == {
        "requests": 2, "tokens": 40, "ties": 0, "differing": 0,
        "tied_baselines": 0, "faulty_baselines": 0, "equal": 40, "places": [],
    }  # fmt: skip
    assert tmp_path / "run" not in SpecFairLM.failed_runs
    assert "40 of 40 tokens are its most likely" in " ".join(
        render(build_summary([tmp_path / "run"]), "table").split()
    )


@pytest.mark.parametrize(("given", "expected"), [("all", 6), (0, 0), ("3", 3), (50, 6)])
def test_how_many_are_checked_can_be_said(pair_folder, tmp_path, given, expected):
    answers(specfair(pair_folder, tmp_path / "run", lossless_checks=given), requests())

    checked = [record.plain_pass_tokens for record in records_of(tmp_path / "run").values()]
    assert sum(tokens is not None for tokens in checked) == expected
    if not expected:
        assert run_of(tmp_path / "run")["totals"]["lossless_check"] is None
    elif expected < 6:  # the longest is among them
        assert records_of(tmp_path / "run")[longest(tmp_path / "run")].plain_pass_tokens


def longest(folder):
    records = records_of(folder).values()
    return max(records, key=lambda record: record.num_prompt_tokens).request_id


def test_a_number_of_checks_that_is_none(pair_folder, tmp_path):
    with pytest.raises(ConfigError, match="lossless_checks must be a whole number"):
        specfair(pair_folder, tmp_path / "run", lossless_checks=-1)


def test_sampled_texts_are_not_checked(pair_folder, tmp_path):
    answers(specfair(pair_folder, tmp_path / "run"), requests(temperature=1.0, do_sample=True))

    assert all(record.plain_pass_tokens is None for record in records_of(tmp_path / "run").values())


def test_a_pass_that_fails_loses_no_record(pair_folder, tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(lossless_check, "check_greedy", fails)
    answers(specfair(pair_folder, tmp_path / "run"), requests())

    assert len(records_of(tmp_path / "run")) == 6
    assert "not checked against the target's own pass" in caplog.text


@pytest.fixture(scope="module")
def pair_with_ties(tmp_path_factory):
    """A target whose bytes 2 n and 2 n + 1 have the same scores, and nothing else does."""
    target = llama(5)
    with torch.no_grad():
        head = target.get_output_embeddings().weight
        even = len(head) // 2 * 2
        head[1:even:2] = head[0:even:2]
    return save_pair(tmp_path_factory.mktemp("ties"), target, disturbed(target, 0.02))


def test_differences_from_the_baseline_are_told_apart(pair_with_ties, tmp_path, monkeypatch):
    """The plain texts are made to differ, once at a tie and once not."""
    model = specfair(pair_with_ties, tmp_path / "run", baseline="all", lossless_checks=0)
    original = model._paired._run
    by = {"0": 1, "1": 2}

    def disturbed_run(jobs, config, *, plain):
        found = original(jobs, config, plain=plain)
        for job in jobs if plain else ():
            step = by.get(job.request.request_id.split("/")[1])
            if step:
                tokens = found[job.request.request_id].token_ids
                tokens[7] ^= step
        return found

    monkeypatch.setattr(model._paired, "_run", disturbed_run)
    answers(model, requests())

    records = {record.doc_id: record for record in records_of(tmp_path / "run").values()}
    assert [records[n].baseline_agrees for n in range(6)] == [False, False, True, True, True, True]
    assert [records[n].baseline_is_tie for n in range(3)] == [True, False, None]
    assert [records[n].baseline_differs_at for n in range(3)] == [7, 7, None]
    assert records[0].baseline_margin == 0
    assert records[1].baseline_margin > 0.01
    notes = " ".join(render(build_summary([tmp_path / "run"]), "table").split())
    assert (
        "2 of 6 greedy requests that were decoded both ways differ in their tokens, 1 of" in notes
    )
    assert "1 NOT: the engine is at fault" in notes
    assert "1 baseline, differ" in notes


def test_differences_at_ties_alone_are_no_fault(pair_with_ties, tmp_path, monkeypatch):
    model = specfair(pair_with_ties, tmp_path / "run", baseline="all")
    original = model._paired._run

    def disturbed_run(jobs, config, *, plain):
        found = original(jobs, config, plain=plain)
        for job in jobs if plain else ():
            found[job.request.request_id].token_ids[3] ^= 1
        return found

    monkeypatch.setattr(model._paired, "_run", disturbed_run)
    answers(model, requests())

    notes = " ".join(render(build_summary([tmp_path / "run"]), "table").split())
    assert (
        "6 of 6 greedy requests that were decoded both ways differ in their tokens, all at" in notes
    )
    assert "INVALID" not in notes
    assert tmp_path / "run" not in SpecFairLM.failed_runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["Llama", "Gemma", "GPT-2", "OPT"])
def test_the_bound_holds_against_a_wider_type_and_is_of_its_size(kind, dtype):
    model = copy.deepcopy(architecture(kind)).to(dtype)
    exact = copy.deepcopy(model).double()  # the same weights
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 100, (60,), generator=generator).tolist()
    rough = plain_pass.own_scores(model, tokens, 50)
    right = plain_pass.own_scores(exact, tokens, 50)

    bound = plain_pass.rounding_bound(model, tokens, rough)
    top = right.topk(2).indices
    errors = (rough.double() - right).gather(1, top)
    worst = ((errors[:, 0] - errors[:, 1]).abs() / bound).max()

    assert 0.03 < worst < 1
    assert torch.equal(plain_pass.own_scores(model, tokens, 50), rough)  # nothing is left behind


def test_a_token_is_equal_a_tie_or_different():
    model = llama(5)
    prompt = [5, 6, 7]
    scores = plain_pass.own_scores(model, prompt, 1)[0]
    best, second = scores.topk(2).indices.tolist()

    assert plain_pass.check_greedy(model, prompt, [best]).differing == []
    assert plain_pass.check_greedy(model, prompt, [second]).differing == [0]
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[second] = head[best] * (1 - 1e-7)
    found = plain_pass.check_greedy(model, prompt, [second if scores[best] > 0 else best])
    assert (found.num_ties + found.num_tokens - len(found.differing)) in (1, 2)
    assert found.differing == []
