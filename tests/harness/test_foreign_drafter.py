"""Runs whose drafter has another tokenizer: the target's own texts, and what is on record."""

import json

import pytest

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.evaluations import answers, generation, save_pair, scoring, specfair
from support.vocabularies import ENGLISH, MIXED, byte_level_bpe, metaspace_bpe

PROMPTS = ["The old miller", "Der alte Müller ging", "老磨坊主", "1, 2, 3"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Byte-level BPE of English, and a drafter with blocks for spaces."""
    tokenizers = byte_level_bpe(ENGLISH, 380), metaspace_bpe(MIXED, 430)
    models = (
        llama(seed, layers=1, vocab_size=len(each)) for seed, each in enumerate(tokenizers, start=7)
    )
    return save_pair(tmp_path_factory.mktemp("pair"), *models, tokenizers)


def requests(**gen_kwargs):
    return [generation(prompt, place, **gen_kwargs) for place, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("method", ["auto", "intersection", "text"])
def test_texts_are_those_of_the_target_alone_and_the_run_says_how_it_drafted(
    pair, tmp_path, method
):
    plain = answers(specfair(pair, tmp_path / "plain", drafter="none"), requests())
    model = specfair(pair, tmp_path / "run", drafter_vocabulary=method, batch_size=3)

    assert answers(model, requests()) == plain

    settings = read_run(tmp_path / "run")["settings"]["drafter_vocabulary"]
    assert settings["method"] == ("intersection" if method == "auto" else method)
    assert 0 < settings["share_of_target_tokens"] < 1
    assert settings["num_shared_tokens"] > 256
    records = list(read_records(tmp_path / "run"))
    assert all(record.num_draft_tokens for record in records)
    # Through text nothing is drawn from a distribution, but q is known: it is on the drafted token.
    assert all(record.overlap_sum is not None for record in records)
    report = render(build_summary([tmp_path / "run"], min_requests=1), "table")
    way = "text" if method == "text" else "the tokens that both have"
    assert f"has a tokenizer of its own and drafts through {way}" in " ".join(report.split())
    cause = "drafts go through text" if method == "text" else "vocabulary lacks tokens"
    assert cause in " ".join(report.split())


def test_a_killed_run_is_resumed_in_the_same_way_only(pair, tmp_path):
    first = specfair(pair, tmp_path / "run", drafter_vocabulary="text")
    answers(first, requests()[:2])
    with pytest.raises(ConfigError, match=r"drafter_vocabulary was .*'text'"):
        specfair(pair, tmp_path / "run", drafter_vocabulary="intersection", resume=True)

    answers(specfair(pair, tmp_path / "run", drafter_vocabulary="text", resume=True), requests())

    assert len(list(read_records(tmp_path / "run"))) == len(PROMPTS)


def test_scored_texts_have_the_targets_scores_and_none_of_a_drafter_with_other_tokens(
    pair, tmp_path
):
    asked = [scoring("The old", " miller"), scoring("Der alte", " Müller", 1)]
    alone = specfair(pair, tmp_path / "plain", drafter="none").loglikelihood(asked)
    model = specfair(pair, tmp_path / "run")

    assert model.loglikelihood(asked) == alone

    model.get_model_info()
    for record in read_records(tmp_path / "run"):
        assert record.target_nll_sum is not None
        assert record.drafter_nll_sum is None


def test_a_run_with_the_targets_tokenizer_has_no_such_setting(pair_folder, tmp_path):
    answers(specfair(pair_folder, tmp_path / "run"), [generation("Hello")])

    assert "drafter_vocabulary" not in json.dumps(read_run(tmp_path / "run"))
