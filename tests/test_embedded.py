"""The embedded pair: small, safe to load, and decoded exactly on the project's own texts."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.decoding.drafters import PromptLookup
from lm_eval_specfair.decoding.loading import (
    EMBEDDED,
    EMBEDDED_DRAFTER,
    EMBEDDED_DRAFTERS,
    EMBEDDED_TARGET,
    shown_name,
)
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.harness.paths import task_configs_dir

from support.decoding_runs import TieJudge, accepted, decode, model_drafter, rejections, request
from support.decoding_runs import transformers_greedy as plain_greedy

MEBIBYTE = 1 << 20


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def embedded_target():
    return load(EMBEDDED_TARGET)


@pytest.fixture(scope="module")
def embedded_drafter():
    return load(EMBEDDED_DRAFTER)


def demo_prompts(per_language: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    folder = task_configs_dir() / "specfair_demo" / "documents"
    prompts = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        prompts += [tokenizer(row["prompt"])["input_ids"] for row in rows[:per_language]]
    return prompts


def test_the_models_are_at_most_60_mebibytes_of_safetensors_and_text():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60 * MEBIBYTE
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}


def test_head_dim_is_one_that_other_engines_can_load(embedded_target, embedded_drafter):
    assert embedded_target.config.head_dim >= 32
    assert embedded_drafter.config.head_dim >= 32


def test_all_models_speak_the_same_tokens():
    ours = AutoTokenizer.from_pretrained(EMBEDDED_TARGET).backend_tokenizer.to_str()
    for folder in EMBEDDED_DRAFTERS.values():
        assert AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str() == ours


def test_it_continues_every_language_as_plain_greedy_decoding_does(
    embedded_target, embedded_drafter
):
    prompts = demo_prompts(1)
    assert len(prompts) >= 24
    done = decode(
        embedded_target,
        model_drafter(embedded_drafter, embedded_target.config.vocab_size),
        [request(prompt, 8) for prompt in prompts],
        num_speculative_tokens=4,
    )
    judge = TieJudge(embedded_target)
    for prompt, completion in zip(prompts, done, strict=True):
        judge.check(prompt, plain_greedy(embedded_target, prompt, 8), completion.token_ids)
    assert judge.num_ties <= 1
    assert accepted(done) > 0
    assert rejections(done) > 0


@pytest.fixture(scope="module")
def two_hundred(embedded_target):
    """Prompts, and what plain greedy decoding makes of them."""
    prompts = [prompt[-24:] for prompt in demo_prompts(7)[:200]]
    assert len(prompts) == 200
    return prompts, [plain_greedy(embedded_target, prompt, 10) for prompt in prompts]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("batch_size", "draft_lengths"),
    # Each batch and each length once; the small models go through all pairs (test_engine.py).
    [
        pytest.param(1, (4,), marks=pytest.mark.thorough),
        pytest.param(3, (1,), marks=pytest.mark.slow),
        pytest.param(8, (4, 8), marks=pytest.mark.thorough),
    ],
)
def test_two_hundred_prompts_equal_plain_decoding(
    embedded_target, embedded_drafter, two_hundred, batch_size, draft_lengths
):
    prompts, expected = two_hundred
    wrapped = CausalModel(embedded_target)
    drafter = model_drafter(embedded_drafter, wrapped.vocab_size)
    judge = TieJudge(embedded_target)
    for draft_length in draft_lengths:
        lookup = [PromptLookup(wrapped.device)] if draft_length == 4 else []
        for each in (drafter, *lookup):
            done = decode(
                wrapped,
                each,
                [request(prompt, 10, name=str(i)) for i, prompt in enumerate(prompts)],
                batch_size=batch_size,
                num_speculative_tokens=draft_length,
            )
            for prompt, right, completion in zip(prompts, expected, done, strict=True):
                judge.check(prompt, right, completion.token_ids)
            assert accepted(done) > 0
            assert rejections(done) > 0
    assert judge.num_ties <= 3  # of 600 texts at most


@pytest.mark.parametrize("name", EMBEDDED_DRAFTERS)
def test_a_drafter_that_comes_with_the_package_is_named_without_a_path(name):
    arguments = Arguments.read(None, {"drafter": name})
    assert arguments.drafter == str(EMBEDDED_DRAFTERS[name])
    assert shown_name(arguments.drafter) == f"embedded/{EMBEDDED_DRAFTERS[name].name}"


@pytest.mark.slow
def test_the_fair_drafter_costs_what_the_other_does_and_drafts_otherwise(
    embedded_target, embedded_drafter
):
    fair = load(EMBEDDED_DRAFTERS["embedded-fair"])
    assert fair.config.to_diff_dict() == embedded_drafter.config.to_diff_dict()
    prompts = demo_prompts(1)

    def decoded(drafter):
        return decode(
            embedded_target,
            model_drafter(drafter, embedded_target.config.vocab_size),
            [request(prompt, 12) for prompt in prompts],
            num_speculative_tokens=4,
        )

    ours, theirs = decoded(fair), decoded(embedded_drafter)
    judge = TieJudge(embedded_target)
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        judge.check(prompt, other.token_ids, one.token_ids)
    assert judge.num_ties <= 1
    assert accepted(ours) != accepted(theirs)
