"""The suite itself: it passes on our engine, leaves no class out, and cannot pass by silence."""

import copy
import json
from pathlib import Path

import pytest
import torch

from lm_eval_specfair import cli
from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Capability, RefusedError
from lm_eval_specfair.conformance.backends import load as load_backend
from lm_eval_specfair.conformance.reference import (
    goodness_of_fit,
    greedy_text,
    judge_greedy,
    text_law,
)
from lm_eval_specfair.conformance.results import render
from lm_eval_specfair.conformance.script import Script, expected_counts
from lm_eval_specfair.conformance.suite import (
    CHECKS,
    HARNESS_CLASSES,
    Result,
    chosen,
    make_report,
)
from lm_eval_specfair.conformance.trial import Check, CheckOutcome, Status
from lm_eval_specfair.errors import ConfigError

NUM_CLASSES = 25
PROMPT = (5, 6, 7)
EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")


@pytest.fixture(scope="module")
def ours():
    backend = load_backend("specfair")
    backend.num_samples = 1_500  # half of the verb's: the mutants are caught with as many
    return backend


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.number}-{check.name}")
def test_our_engine_passes(ours, check):
    outcome = check.run(ours)
    assert not outcome.errors
    assert outcome.num_real_bugs == 0
    assert outcome.status is Status.PASSED  # nothing is refused


def test_no_class_is_missing_and_names_are_unique():
    entries = [*CHECKS, *HARNESS_CLASSES]
    numbers = [entry.number for entry in entries]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert len(numbers) >= NUM_CLASSES
    assert len({entry.name for entry in entries}) == len(entries)
    assert all(entry.witness and entry.proves.endswith(".") for entry in entries)


# The judge


def judged(text, **more):
    return judge_greedy(models.target(), PROMPT, text, **({"max_new_tokens": 6} | more))


def test_the_likeliest_tokens_are_exact_and_any_other_is_a_bug_with_its_gap():
    text = list(greedy_text(models.target(), PROMPT, 6))
    assert judged(text).error is None
    assert judged(text).num_ties == 0
    for place in range(6):
        wrong = [*text[:place], (text[place] + 1) % 260, *text[place + 1 :]]
        assert "apart in fp64" in judged(wrong).error


def test_the_reference_is_what_generate_of_transformers_gives():
    tokens = torch.tensor([PROMPT])
    output = models.target().generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=1_000_000,
        pad_token_id=0,
    )
    assert tuple(output[0, 3:].tolist()) == greedy_text(models.target(), PROMPT, 20)


def test_a_tie_is_excused_only_within_the_rounding_of_the_models_type():
    best = greedy_text(models.target(), PROMPT, 1)[0]

    def verdicts(gap, dtype=torch.float32):
        """Of the two tokens whose scores differ by this share."""
        model = copy.deepcopy(models.target()).to(dtype)
        with torch.no_grad():
            model.lm_head.weight[11] = model.lm_head.weight[best] * (1 + gap)
        return [judge_greedy(model, PROMPT, [token], max_new_tokens=1) for token in (best, 11)]

    exact, tied = sorted(verdicts(2e-7), key=lambda verdict: verdict.num_ties)
    assert (exact.error, tied.error) == (None, None)
    assert (exact.num_ties, tied.num_ties) == (0, 1)
    behind, ahead = verdicts(1e-3)
    assert "apart in fp64" in behind.error
    assert ahead.error is None
    # bf16 rounds more away: four in a thousand between neighbours.
    assert [verdict.error for verdict in verdicts(5e-3, torch.bfloat16)] == [None, None]
    assert verdicts(0.5, torch.bfloat16)[0].error is not None


def test_texts_that_end_wrongly_are_bugs():
    text = list(greedy_text(models.target(), PROMPT, 6))
    assert "no tokens" in judged([]).error
    assert "for no reason" in judged(text[:4]).error
    assert "were asked for" in judged(text, max_new_tokens=5).error
    assert "follow the one" in judged(text, eos_token_ids=[text[2]]).error
    assert judged(text[:3], eos_token_ids=[text[2]]).error is None
    assert "outside the vocabulary" in judged([*text[:5], 260]).error


def test_a_law_that_is_a_little_off_is_seen_and_the_right_one_is_not():
    target, drafter = (models.llama(seed, layers=1, vocab_size=4) for seed in (3, 4))
    law, other = (text_law(model, (1, 2), 2, 1.0, None, None) for model in (target, drafter))
    assert float(law.sum()) == pytest.approx(1)
    draws = torch.multinomial(
        law.flatten(), 4_000, True, generator=torch.Generator().manual_seed(0)
    )
    observed = torch.bincount(draws, minlength=16).reshape(4, 4).double()
    assert goodness_of_fit(observed, law) > 1e-3
    assert goodness_of_fit(observed, 0.85 * law + 0.15 * other) < 1e-5
    impossible = law.clone()
    impossible[0, 0] = 0
    assert goodness_of_fit(observed, impossible) == 0


def test_counts_of_a_script_worked_by_hand():
    script = Script(answers={(1,): tuple(range(20))}, num_right={(1,): (2, 4, 0)})
    # Steps keep 2, 4, 0, 2 drafts and one token more: 3 + 5 + 1 + 1 of the ten that are asked for.
    assert expected_counts(script, [1], 10, 4) == ([4, 4, 1, 0], [2, 4, 0, 0])
    assert script.draft([1], 3, 4, 1) == [3, 4, 5, 6]
    assert script.draft([1], 0, 4, 0) == [0, 1, 3, 4]
    resumed = Script(answers=script.answers, num_right={(1,): (1,)}, resumes=True)
    assert resumed.draft([1], 0, 4, 0) == [0, 2, 2, 3]


# Outcomes


def check_of(body, *, needs=frozenset(), may_refuse=False) -> Check:
    return Check(
        number=1, name="x", group="x", proves="x.", witness="x", needs=needs, body=body,
        may_refuse=may_refuse,
    )  # fmt: skip


def refuse(trial):
    raise RefusedError("not this one")


def crash(trial):
    raise KeyError("what")


def test_what_a_backend_lacks_is_not_applicable_and_silence_is_no_pass(ours):
    needs = frozenset({Capability.REPETITION_PENALTY})
    outcome = check_of(crash, needs=needs).run(ours)
    assert outcome.status is Status.NOT_APPLICABLE
    assert "repetition penalty" in outcome.notes[0]
    assert check_of(lambda trial: None).run(ours).status is Status.FAILED
    assert check_of(refuse).run(ours).status is Status.FAILED
    assert check_of(refuse, may_refuse=True).run(ours).status is Status.REFUSED
    crashed = check_of(crash).run(ours)
    assert crashed.status is Status.FAILED
    assert crashed.errors == ("raised KeyError: 'what'",)


def test_many_errors_are_counted_and_a_few_shown(ours):
    def body(trial):
        for number in range(9):
            trial.equal(number, -1, "number")

    assert len(check_of(body).run(ours).errors) == 6
    assert check_of(body).run(ours).errors[-1] == "and 4 more"
    assert len(check_of(body).run(ours, first_only=True).errors) == 1


def test_a_report_counts_outcomes_and_shows_a_backends_words_without_effect(ours):
    outcome = CheckOutcome(status=Status.FAILED, num_real_bugs=2, errors=("<script>|x|",))
    report = make_report(ours, [Result(check=CHECKS[0], outcome=outcome, seconds=0.0)])
    found = json.loads(render(report, "json"))
    assert found["summary"] == {
        "passed": 0, "failed": 1, "refused": 0, "not_applicable": 0,
        "exact": 0, "near_ties": 0, "real_bugs": 2,
    }  # fmt: skip
    assert found["versions"]["torch"] == torch.__version__
    page = render(report, "md")
    assert "<script>" not in page
    assert "| failed" in page
    assert "1 failed" in render(report, "table")


# The verb


def test_the_verb_prints_what_it_found_and_says_so_by_its_status(capsys, monkeypatch):
    assert cli.main(["conformance", "--check", "9", "--check", "length", "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert [check["name"] for check in json.loads(shown.out)["checks"]] == ["residual", "length"]
    assert "specfair: 9 residual: passed" in shown.err
    monkeypatch.setattr(
        "lm_eval_specfair.conformance.suite.CHECKS", (check_of(crash),), raising=True
    )
    assert cli.main(["conformance", "--format", "table"]) == 1
    assert "raised KeyError" in capsys.readouterr().out


def test_results_are_kept_after_each_check_and_gone_on_from(capsys, monkeypatch, tmp_path):
    file = tmp_path / "ours.json"
    whole = ["conformance", "--check", "13", "--check", "9", "-o", str(file)]
    interrupted = [check_of(lambda trial: None), check_of(interrupt)]
    monkeypatch.setattr("lm_eval_specfair.conformance.suite.chosen", lambda names: interrupted)
    assert cli.main(whole) == 130
    assert len(json.loads(file.read_text("utf-8"))["checks"]) == 1
    monkeypatch.undo()
    file.unlink()

    assert cli.main([*whole[:-4], "-o", str(file)]) == 0  # length alone
    before = json.loads(file.read_text("utf-8"))["checks"]
    assert "13 length: passed" in capsys.readouterr().err
    assert cli.main([*whole, "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert f"1 checks are in {file} already" in shown.err
    assert "13 length" not in shown.err
    found = json.loads(file.read_text("utf-8"))
    assert [check["name"] for check in found["checks"]] == ["residual", "length"]
    assert found["checks"][1] == before[0]
    assert json.loads(shown.out) == found
    assert "| residual" in (tmp_path / "ours.md").read_text("utf-8")

    found["versions"]["torch"] = "0.1"
    file.write_text(json.dumps(found), encoding="utf-8")
    assert cli.main(whole) == 2
    assert "go on with another file, or remove" in capsys.readouterr().err
    assert json.loads(file.read_text("utf-8")) == found


def interrupt(trial):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_decoder_of_ones_own_is_checked_and_its_bug_is_seen(capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    own = ["conformance", "--backend", "conformance_backend:TextbookBackend", "--format", "json"]
    assert cli.main(own) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "textbook"
    assert found["summary"]["passed"] >= 10
    assert found["summary"]["failed"] == found["summary"]["real_bugs"] == 0
    import conformance_backend

    right = conformance_backend._most_likely
    monkeypatch.setattr(  # the target's word for the place before
        conformance_backend,
        "_most_likely",
        lambda model, tokens: right(model, tokens[:-1] or tokens),
    )
    assert cli.main([*own, "--check", "counters"]) == 1
    assert json.loads(capsys.readouterr().out)["summary"]["real_bugs"] > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--backend", "nobody"], "must be one of specfair, specfair-heads, assisted, vllm"),
        (["--backend", "nobody:"], "or package.module:Name, got 'nobody:'"),
        (["--backend", "nobody_s_module:Decoder"], "cannot be imported (No module named"),
        (["--backend", "fractions:Decoder"], "cannot be imported (module 'fractions' has no"),
        (["--backend", "fractions:Fraction"], "is no backend: it lacks name, capabilities"),
        (["--check", "nothing"], "--check must be one of stale-keys"),
        (["-o", "report.md"], "expected a name that ends in .json"),
        (["-o", "project.json/report.json"], "project.json is no folder; name another place"),
        (["-o", "project.json"], "is no report of this suite"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(capsys, monkeypatch, tmp_path, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.json").write_text("[project]", encoding="utf-8")
    assert cli.main(["conformance", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert complaint in shown.err
    assert shown.err.count("\n") == 1


def test_vllm_that_is_not_installed_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(ConfigError, match="vLLM, which is not installed"):
        load_backend("vllm")


def test_checks_are_chosen_by_name_or_number():
    assert chosen([]) == CHECKS
    assert [check.number for check in chosen(["seeds", "1"])] == [1, 19]
