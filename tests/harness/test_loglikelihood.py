"""Log-likelihood requests: lm-eval's results to the last bit, and the drafter measured on them.

What the records say is computed again here, text by text, from plain passes of both models.
"""

import math

import pytest
import torch
from msgspec import structs
from torch import Tensor

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.harness.loglikelihood.scoring import Score, ScoreTap
from lm_eval_specfair.records import read_records

from support.evaluations import (
    assert_same_records,
    hf,
    records_of,
    rolling,
    save_pair,
    scoring,
    specfair,
)

LENGTH = 256  # positions of the tiny models; a token a byte

CHOICES = [
    ("The sky is", " blue"),
    ("The sky is", " b"),
    ("The sky is", "x"),  # one token: lm-eval takes it from the pass of another choice
    ("The sky is", "y"),
    ("The sky is", "z"),
    ("The sky is ", "blue"),  # its trailing space moves into the continuation
    ("", "No context at all."),
    ("", "N"),
    ("Привет", " мир"),
    ("long " * 80, "cut on the left"),
    ("long " * 80, "c"),
    ("x" * (LENGTH - 5), "just fits"[:6]),
    ("short", "y" * LENGTH),  # nothing of the context is left but one token
    ("The sky is", " blue and the sea is blue too"),
]
ROLLING = [
    "Short.",
    "A text of several windows. " * 30,
    "x",
    "y" * (LENGTH - 1),
    "z" * LENGTH,
    "Привет, мир! " * 25,
]


def choices():
    return [scoring(context, text, place) for place, (context, text) in enumerate(CHOICES)]


def rollings():
    return [rolling(text, place) for place, text in enumerate(ROLLING)]


@torch.inference_mode()
def figures(model_p, model_q, tokens: list[int], num_scored: int) -> dict[str, float]:
    """The record's sums over a text's last tokens, from one plain pass of each model."""

    def log_probabilities(model) -> Tensor:
        logits = model(torch.tensor([tokens[:-1]])).logits[0, -num_scored:]
        return torch.log_softmax(logits.double(), -1)

    p, q = log_probabilities(model_p), log_probabilities(model_q)
    scored = torch.tensor(tokens[-num_scored:])[:, None]
    return {
        "overlap_sum": float(torch.minimum(p.exp(), q.exp()).sum()),
        "kl_sum": float((p.exp() * (p - q)).sum()),
        "cross_entropy_sum": float(-(p.exp() * q).sum()),
        "target_entropy_sum": float(-(p.exp() * p).sum()),
        "target_nll_sum": float(-p.gather(1, scored).sum()),
        "drafter_nll_sum": float(-q.gather(1, scored).sum()),
        "target_reference_probability_sum": float(p.gather(1, scored).exp().sum()),
        "drafter_reference_probability_sum": float(q.gather(1, scored).exp().sum()),
        "num_distribution_positions": num_scored,
        "num_scored_tokens": num_scored,
    }


def assert_figures(record, expected):
    for name, value in expected.items():
        assert math.isclose(getattr(record, name), value, rel_tol=1e-4), (record.request_id, name)
    assert record.num_infinite_positions == 0


@pytest.mark.parametrize("batch_size", [1, 3, pytest.param("auto", marks=pytest.mark.slow)])
def test_results_are_hfs_to_the_last_bit(pair_folder, tmp_path, batch_size, capsys):
    plain = hf(pair_folder, batch_size=batch_size)
    model = specfair(pair_folder, tmp_path, batch_size=batch_size)

    assert model.loglikelihood(choices(), disable_tqdm=True) == plain.loglikelihood(
        choices(), disable_tqdm=True
    )
    assert model.loglikelihood_rolling(rollings(), disable_tqdm=True) == (
        plain.loglikelihood_rolling(rollings(), disable_tqdm=True)
    )
    model.get_model_info()
    assert len(records_of(tmp_path)) == len(CHOICES) + len(ROLLING)


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_the_drafter_is_measured_on_every_continuation(
    pair_folder, target, near_drafter, tmp_path, batch_size, capsys
):
    model = specfair(pair_folder, tmp_path, batch_size=batch_size)
    results = model.loglikelihood(choices(), disable_tqdm=True)
    model.get_model_info()
    records = {record.doc_id: record for record in records_of(tmp_path).values()}

    tokenizer = byte_tokenizer()
    for place, (context, text) in enumerate(CHOICES):
        moved = len(context) - len(context.rstrip())
        if moved:
            context, text = context[:-moved], context[-moved:] + text
        before = tokenizer.encode(context) or [tokenizer.eos_token_id]
        scored = tokenizer.encode(text)
        record = records[place]

        tokens = (before + scored)[-(LENGTH + 1) :]
        assert_figures(record, figures(target, near_drafter, tokens, len(scored)))
        assert record.request_type == "loglikelihood"
        assert record.num_prompt_tokens == len(tokens) - len(scored)
        assert record.num_scored_bytes == len(CHOICES[place][1].encode())
        assert (-record.target_nll_sum, record.is_greedy) == results[place]
        assert record.num_generated_tokens is None
        assert record.num_spec_steps is None
        assert record.settings is None


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_the_drafter_is_measured_on_every_window_of_a_whole_text(
    pair_folder, target, near_drafter, tmp_path, batch_size, capsys
):
    model = specfair(pair_folder, tmp_path, batch_size=batch_size)
    results = model.loglikelihood_rolling(rollings(), disable_tqdm=True)
    model.get_model_info()
    records = {record.doc_id: record for record in records_of(tmp_path).values()}

    tokenizer = byte_tokenizer()
    for place, text in enumerate(ROLLING):
        tokens = [tokenizer.eos_token_id, *tokenizer.encode(text)]
        expected: dict[str, float] = {}
        # Windows of 256 new tokens, each behind the (up to) 256 tokens before its last one.
        for first in range(1, len(tokens), LENGTH):
            end = min(first + LENGTH, len(tokens))
            window = tokens[max(0, end - LENGTH - 1) : end]
            for name, value in figures(target, near_drafter, window, end - first).items():
                expected[name] = expected.get(name, 0) + value
        assert_figures(records[place], expected)
        assert records[place].request_type == "loglikelihood_rolling"
        assert records[place].num_scored_tokens == len(tokens) - 1
        assert records[place].is_greedy is None
        assert -records[place].target_nll_sum == results[place]


def test_an_empty_text_has_nothing_to_measure(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path)

    assert model.loglikelihood_rolling([rolling("")], disable_tqdm=True) == [0]

    model.get_model_info()
    (record,) = records_of(tmp_path).values()
    assert record.num_scored_tokens == 0
    assert record.overlap_sum is None


def test_the_same_text_twice_is_measured_twice(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path, batch_size=2)

    model.loglikelihood([scoring("a", "bc", i) for i in range(3)], disable_tqdm=True)

    model.get_model_info()
    one, *others = records_of(tmp_path).values()
    for other in others:
        assert structs.replace(other, request_id=one.request_id, doc_id=0) == one
    assert one.num_distribution_positions == 2


def test_records_of_scores_depend_neither_on_the_batch_nor_on_the_order(pair_folder, tmp_path):
    for batch_size, order in ((1, 1), (5, -1)):
        model = specfair(pair_folder, tmp_path / str(batch_size), batch_size=batch_size)
        model.loglikelihood(choices()[::order], disable_tqdm=True)
        model.loglikelihood_rolling(rollings()[::order], disable_tqdm=True)
        model.get_model_info()

    assert_same_records(records_of(tmp_path / "1"), records_of(tmp_path / "5"))


@pytest.mark.parametrize("drafter", ["none", "prompt_lookup"])
def test_without_a_drafting_model_only_the_target_is_on_record(pair_folder, tmp_path, drafter):
    plain = hf(pair_folder, batch_size=2)
    model = specfair(pair_folder, tmp_path, drafter=drafter, batch_size=2)

    results = model.loglikelihood(choices(), disable_tqdm=True)

    assert results == plain.loglikelihood(choices(), disable_tqdm=True)
    model.get_model_info()
    for record in records_of(tmp_path).values():
        assert record.overlap_sum is None
        assert record.drafter_nll_sum is None
        assert record.num_distribution_positions is None
        assert -record.target_nll_sum == results[record.doc_id][0]


def test_a_text_too_long_for_the_drafter_is_not_measured_in_part(target, tmp_path):
    short_sighted = llama(2, max_position_embeddings=32)
    pair = save_pair(tmp_path / "pair", target, short_sighted)
    model = specfair(pair, tmp_path / "run", batch_size=2)

    model.loglikelihood([scoring("a", "b" * 10, 0), scoring("a", "b" * 40, 1)], disable_tqdm=True)
    model.loglikelihood_rolling([rolling("c" * 290, 2)], disable_tqdm=True)

    model.get_model_info()
    records = {record.doc_id: record for record in records_of(tmp_path / "run").values()}
    assert records[0].num_distribution_positions == 10
    for place in (1, 2):
        assert records[place].overlap_sum is None
        assert records[place].drafter_nll_sum is None
        assert records[place].target_nll_sum > 0


class Interrupted(Exception):
    """Stands for a kill between two passes."""


@pytest.mark.parametrize(("kind", "make"), [("loglikelihood", choices), ("rolling", rollings)])
def test_each_record_is_written_when_its_text_is_scored_and_reused_afterwards(
    pair_folder, tmp_path, monkeypatch, kind, make
):
    method = "loglikelihood" if kind == "loglikelihood" else "loglikelihood_rolling"
    whole = specfair(pair_folder, tmp_path / "whole", batch_size=1)
    expected = getattr(whole, method)(make(), disable_tqdm=True)
    whole.get_model_info()

    model = specfair(pair_folder, tmp_path / "run", batch_size=1)
    calls = []
    original = type(model)._model_call

    def counted(self, *arguments, **keywords):
        calls.append(None)
        if len(calls) == 5:
            raise Interrupted
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(type(model), "_model_call", counted)
    with pytest.raises(Interrupted):
        getattr(model, method)(make(), disable_tqdm=True)
    model._folder.finish({})
    early = records_of(tmp_path / "run")
    assert 0 < len(early) < len(make())

    calls.clear()
    monkeypatch.setattr(type(model), "_model_call", original)
    resumed = specfair(pair_folder, tmp_path / "run", batch_size=1, resume=True)
    assert getattr(resumed, method)(make(), disable_tqdm=True) == expected
    resumed.get_model_info()
    assert_same_records(records_of(tmp_path / "run"), records_of(tmp_path / "whole"))


def test_a_task_evaluated_twice_by_one_model_is_on_record_once(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path, batch_size=2)
    first = model.loglikelihood(choices(), disable_tqdm=True)
    assert model.loglikelihood(choices(), disable_tqdm=True) == first
    model.get_model_info()
    written = list(read_records(tmp_path))
    assert len(written) == len({record.request_id for record in written}) == len(CHOICES)


def test_token_ids_that_the_drafter_lacks_are_measured_without_a_lookup(target, tmp_path):
    narrow = llama(vocab_size=target.config.vocab_size - 20, seed=5)
    seen = []
    narrow.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(int(kwargs["input_ids"].max())),
        with_kwargs=True,
    )
    tap = ScoreTap(narrow, LENGTH)
    high = target.config.vocab_size - 1
    score = Score("name", scoring("a", "b"), "b", [None])
    tap.expect([score], [([5, high], [7, high, 8])], LENGTH)
    tokens = torch.tensor([[5, high, 7, high]])
    tap.see(tokens, target(tokens).logits)
    assert seen == [narrow.config.vocab_size - 1]
    assert score.num_measured == 3
    assert score.drafter_nll_sum == math.inf  # it can't ever say `high`


def test_texts_whose_hashes_collide_are_told_apart(target, monkeypatch):
    monkeypatch.setattr(
        "lm_eval_specfair.harness.loglikelihood.scoring.prefix_hashes", lambda line: [0] * len(line)
    )
    tap = ScoreTap(target, LENGTH)
    scores = [Score(str(n), scoring("a", "b"), "b", [None]) for n in range(3)]
    texts = [([5], [6, 7]), ([5], [8, 9]), ([5, 6], [7, 9])]
    tap.expect(scores, texts, LENGTH)
    tokens = torch.tensor([[5, 8]])
    tap.see(tokens, target(tokens).logits)
    assert [score.num_measured for score in scores] == [0, 2, 0]
    tokens = torch.tensor([[5, 6, 7]])
    tap.see(tokens, target(tokens).logits)
    assert [score.num_measured for score in scores] == [2, 2, 2]
