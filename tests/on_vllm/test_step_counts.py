"""What `backend=vllm` does without vLLM: counts, arguments, and sums over finished texts."""

import dataclasses
import importlib.util
import math

import pytest
import torch

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.drafters import ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.reporting.report.record_notes import backend_notes
from lm_eval_specfair.vllm.cpu_patches import expand, expands_rightly, has_workers
from lm_eval_specfair.vllm.engine_arguments import read_vllm
from lm_eval_specfair.vllm.step_counts import Step, counted, examined_places
from lm_eval_specfair.vllm.text_distributions import TextScores

EOS = 0


def steps(*given):
    """Steps whose tokens count on from 1, each accepted + 1 of them."""
    token, made = 1, []
    for drafted, accepted in given:
        made.append(Step(list(range(token, token + accepted + 1)), drafted, accepted))
        token += accepted + 1
    return made


def counts(done):
    each = done.counters
    return each.drafted_per_step, each.accepted_per_step, each.num_examined


# ------------------------------------------------------------------ counts


def test_a_text_that_nothing_cuts_keeps_its_counts():
    done = counted(steps((0, 0), (4, 4), (4, 1), (4, 0)), Stopping(max_new_tokens=9))
    assert done.token_ids == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert done.finish_reason == "length"
    # Six tokens were there before the third step: three were wanted, of which one comes anyway.
    # Before the last step one was wanted, and no draft was useful.
    assert counts(done) == ([0, 4, 2, 0], [0, 4, 1, 0], 4 + 2)


def test_drafts_beyond_the_length_limit_are_neither_drafted_nor_accepted():
    # Three tokens are wanted behind the first: two drafts are useful, the third comes as the
    # token that follows, though vLLM had it as an accepted draft.
    done = counted(steps((0, 0), (4, 4)), Stopping(max_new_tokens=4))
    assert done.token_ids == [1, 2, 3, 4]
    assert counts(done) == ([0, 2], [0, 2], 2)


def test_drafts_behind_eos_were_not_examined():
    inside = [Step([5], 0, 0), Step([6, EOS, 7, 8, 9], 4, 4)]
    done = counted(inside, Stopping(max_new_tokens=50, eos_token_ids=frozenset({EOS})))
    assert (done.token_ids, done.finish_reason) == ([5, 6, EOS], "eos")
    assert counts(done) == ([0, 4], [0, 2], 2)

    # vLLM cuts the tokens there but not its counts (vllm#56101); EOS may also be the recovered one.
    cut = [Step([5], 0, 0), Step([6, EOS], 4, 3)]
    assert counted(cut, Stopping(max_new_tokens=50, eos_token_ids=frozenset({EOS}))) == done
    recovered = [Step([5], 0, 0), Step([6, EOS], 4, 1)]
    done = counted(recovered, Stopping(max_new_tokens=50, eos_token_ids=frozenset({EOS})))
    assert counts(done) == ([0, 4], [0, 1], 2)


def test_a_stop_string_ends_text_and_counts():
    stopping = Stopping(
        max_new_tokens=50,
        stop_strings=("c",),
        decode=lambda tokens: "".join(chr(96 + token) for token in tokens),
    )
    done = counted(steps((0, 0), (4, 4), (4, 4)), stopping)
    assert (done.token_ids, done.finish_reason) == ([1, 2, 3], "stop")
    assert counts(done) == ([0, 4], [0, 2], 2)


def test_a_text_that_none_of_its_stops_ended_has_no_reason():
    assert counted(steps((0, 0), (4, 1)), Stopping(max_new_tokens=50)).finish_reason is None


def test_the_counts_are_those_of_our_own_engine(target, near_drafter):
    """Our engine's steps, with what vLLM would add behind the limit, come out as they were."""
    prompts = [[1, 2, 3], [7, 7], [9, 8, 7, 6, 5]]
    for done in decoded(target, near_drafter, prompts, DecodeConfig(), max_new_tokens=13):
        place, given = 0, []
        for drafted, accepted in zip(
            done.counters.drafted_per_step, done.counters.accepted_per_step, strict=True
        ):
            tokens = done.token_ids[place : place + accepted + 1]
            place += accepted + 1
            wasted = 4 - drafted  # what vLLM drafts beyond the limit; it may accept it
            given.append(Step(tokens + [11] * wasted, 4, accepted))
            if drafted == accepted and wasted:
                given[-1] = Step(tokens + [11] * wasted, 4, accepted + wasted)
        again = counted(given, done.request.stopping)
        assert again.token_ids == done.token_ids
        assert counts(again) == (
            done.counters.drafted_per_step,
            done.counters.accepted_per_step,
            done.counters.num_examined,
        )


def test_examined_places_are_those_of_accepted_and_replaced_drafts():
    each = RequestCounters(
        drafted_per_step=[0, 4, 2, 3], accepted_per_step=[0, 1, 2, 1], num_examined=5
    )
    # The last step ended the text inside its accepted drafts: its rejected one was not examined.
    assert examined_places(each) == [1, 2, 3, 4, 6]


# ------------------------------------------------------------------ sums over finished texts


def decoded(target, drafter, prompts, config, *, max_new_tokens):
    model = CausalModel(target)
    drafting = ModelDrafter(CausalModel(drafter, role="drafter"), vocab_size=model.vocab_size)
    requests = [
        Request(
            request_id=str(number), prompt=prompt, stopping=Stopping(max_new_tokens=max_new_tokens)
        )
        for number, prompt in enumerate(prompts)
    ]
    return list(Engine(model, config).decode(requests, drafting, batch_size=2))


@pytest.mark.parametrize("temperature", [0.0, 0.7], ids=["greedy", "sampled"])
@pytest.mark.parametrize("narrower", [0, 5])
def test_a_pass_over_finished_texts_sums_what_decoding_sums(target, temperature, narrower):
    drafter = disturbed(target, 0.02)
    if narrower:
        drafter = llama(3, vocab_size=target.config.vocab_size - narrower)
    config = DecodeConfig(temperature=temperature)
    prompts = [[1, 2, 3], [7, 7], [9, 8, 7, 6, 5] * 4]
    for done in decoded(target, drafter, prompts, config, max_new_tokens=17):
        during = done.counters
        after = dataclasses.replace(
            during,
            overlap_sum=0.0,
            kl_sum=0.0,
            cross_entropy_sum=0.0,
            target_entropy_sum=0.0,
            num_positions=0,
            num_infinite=0,
        )
        again = dataclasses.replace(done, counters=after)
        TextScores(lambda: (target, drafter), draws_drafts=True).add([again], config)
        assert after.num_positions == during.num_positions > 0
        assert after.num_infinite == during.num_infinite
        for name in ("overlap_sum", "kl_sum", "cross_entropy_sum", "target_entropy_sum"):
            ours, theirs = getattr(during, name), getattr(after, name)
            assert math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-3), name


def test_drafts_that_are_not_drawn_overlap_in_one_token(target, near_drafter):
    config = DecodeConfig(temperature=1.0)
    (done, *_) = decoded(target, near_drafter, [[1, 2, 3]], config, max_new_tokens=9)
    fresh = dataclasses.replace(
        done.counters, overlap_sum=0.0, num_positions=0, num_infinite=0, kl_sum=0.0
    )
    again = dataclasses.replace(done, counters=fresh)
    TextScores(lambda: (target, near_drafter), draws_drafts=False).add([again], config)

    text = [*done.request.prompt, *done.token_ids]
    with torch.no_grad():
        p = target(input_ids=torch.tensor([text])).logits[0].softmax(-1)
        best = near_drafter(input_ids=torch.tensor([text])).logits[0].argmax(-1)
    first = len(done.request.prompt) - 1
    places = [first + place for place in examined_places(fresh)]
    expected = sum(float(p[place, best[place]]) for place in places)
    assert math.isclose(fresh.overlap_sum, expected, rel_tol=1e-4)
    assert fresh.num_infinite == fresh.num_positions


# ------------------------------------------------------------------ what is mended


def test_values_are_repeated_for_each_draft_as_fractions():
    assert expands_rightly(expand)

    def into_a_copy(output, *more):  # what vLLM 0.32 does on CPUs
        expand(output.long(), *more)

    assert not expands_rightly(into_a_copy)


# ------------------------------------------------------------------ arguments


def read(drafter="some/drafter", score_distributions=False, **given):
    return read_vllm(given, drafter, score_distributions=score_distributions, seed=3)


def test_vllm_gets_its_own_settings_as_they_are():
    vllm, for_hf = read(
        tensor_parallel_size=2, gpu_memory_utilization=0.4, max_model_len=512, truncation=True
    )
    assert vllm.engine == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.4,
        "max_model_len": 512,
        "seed": 3,
    }
    assert for_hf == {"max_length": 512, "truncation": True}
    assert vllm.speculation == {
        "method": "draft_model",
        "model": "some/drafter",
        "draft_sample_method": "probabilistic",
    }
    assert vllm.flags() == {}


def test_engines_that_would_wait_for_others_are_refused():
    with pytest.raises(ConfigError, match="specfair report RUN_A RUN_B"):
        read(data_parallel_size=2)
    launched = {"data_parallel_size": 2, "distributed_executor_backend": "external_launcher"}
    assert read(**launched)[0].engine.items() >= launched.items()
    assert read(data_parallel_size=1)[0].engine["data_parallel_size"] == 1


def test_workers_are_out_of_reach():
    for arguments in (
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
        {"distributed_executor_backend": "mp"},
    ):
        assert has_workers(arguments)
    for arguments in ({}, {"tensor_parallel_size": 1}, {"tensor_parallel_size": None}):
        assert not has_workers(arguments)


def test_drafters_become_speculative_configs():
    assert read("none")[0].speculation is None
    assert read("prompt_lookup")[0].speculation == {
        "method": "ngram",
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    }
    head = {"method": "eagle3", "model": "some/head"}
    assert read(None, speculative_config=head)[0].speculation == head
    assert read("some/head", speculative_config={"method": "eagle3"})[0].speculation == head


def test_a_folder_of_a_head_is_served_as_one(tmp_path):
    (tmp_path / "config.json").write_text('{"speculators_model_type": "eagle3"}')
    head = {"method": "eagle3", "model": str(tmp_path)}
    assert read(str(tmp_path))[0].speculation == head
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read(str(tmp_path))[0].speculation["method"] == "draft_model"


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.0}, "lossy"),
        ({"posterior_threshold": 0.1}, "lossy"),
        ({"num_speculative_tokens_per_batch_size": [[1, 8, 4]]}, "adaptive"),
        ({"rejection_sample_method": "block"}, "other_rule"),
        ({"draft_sample_method": "greedy"}, "other_rule"),
    ],
)
def test_adaptive_and_lossy_settings_are_flagged(extra, kind):
    vllm, _ = read(speculative_config=extra)
    assert set(vllm.flags()) == {kind}
    assert len(vllm.flags()[kind]) == len(extra)
    assert vllm.settings()["flags"] == vllm.flags()


def test_a_report_says_what_was_flagged():
    vllm, _ = read(speculative_config={"synthetic_acceptance_length": 2.0})
    settings = {"backend": "vllm", **vllm.settings()}
    notes = backend_notes({"settings": settings})
    assert "vLLM" in notes[0]
    assert "Not lossless, by its settings (synthetic_acceptance_length=2.0)" in notes[1]
    several = {"differing": {"settings": [{"backend": "hf"}, settings]}}
    assert backend_notes(several) == notes
    assert backend_notes({"settings": {"backend": "hf"}}) == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"max_num_seqs": 4}, "--batch_size"),
        ({"model": "x"}, "pretrained"),
        ({"max_length": 5, "max_model_len": 6}, "same setting"),
        ({"speculative_config": {"num_speculative_tokens": 3}}, "num_speculative_tokens"),
        ({"speculative_config": {"model": "another"}}, "differ"),
        ({"speculative_config": "ngram"}, "dictionary"),
        ({"drafter": "none", "speculative_config": {"method": "ngram"}}, "drafter=none"),
        ({"drafter": "none", "score_distributions": True}, "score_distributions"),
        ({"drafter": "prompt_lookup", "score_distributions": True}, "score_distributions"),
    ],
)
def test_what_contradicts_itself_is_refused(given, reason):
    with pytest.raises(ConfigError, match=reason):
        read(**given)


def test_vllms_arguments_are_refused_in_process():
    with pytest.raises(ConfigError, match="backend=vllm only"):
        Arguments.read(None, {"score_distributions": True})


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_one_line_that_says_what_to_do():
    with pytest.raises(ConfigError, match="make vllm-env") as caught:
        Arguments.read(None, {"backend": "vllm"})
    assert "\n" not in str(caught.value)
