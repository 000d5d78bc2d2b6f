"""Heads in training: steps as in drafting, losses, draft vocabularies, runs that are resumed."""

import itertools
import json
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lm_eval_specfair import divergence
from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_drafter import Eagle3Chain
from lm_eval_specfair.decoding.heads.head_folder import read_head
from lm_eval_specfair.decoding.heads.head_memory import UnrolledMemory
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import SplitModel
from lm_eval_specfair.training.heads import head_distiller
from lm_eval_specfair.training.heads.draft_vocabulary import choose_ids, token_counts
from lm_eval_specfair.training.heads.head_distiller import HeadDistiller, HeadTeacher
from lm_eval_specfair.training.heads.head_setup import new_head, refuse_unfit
from lm_eval_specfair.training.job import train_drafter
from lm_eval_specfair.training.losses import DIVERGENCES
from lm_eval_specfair.training.options import TrainConfig

from support.training_runs import job, without_seconds, write_lines

STEPS = 3


def row(tokens, first=2):
    return Row(
        tokens=np.array(tokens, dtype=np.int32), first=first, num_bytes=1.0, membership=np.ones(1)
    )


@pytest.fixture(scope="module")
def deep():
    return llama(0, layers=3).double().requires_grad_(False)


def head_of(target, ids=None):
    head = new_head(target, ids, name="tiny", num_steps=STEPS, seed=5).double()
    # Larger than a new one's, or hardly anything would depend on anything.
    with torch.no_grad():
        for name, weight in head.named_parameters():
            if weight.ndim == 2 and name != "lm_head.weight":
                weight.mul_(8)
    return head


def drafted_logprobs(head, tokens, features, begin, number):
    """Log q of a chain's step over the drafted tokens, read as the engine reads: one row's cache.

    The chain begins at a token of the text that is kept; its later tokens are the text's.
    """
    chain, cache = Eagle3Chain(head), RaggedCache()
    cache.room, cache.lengths = (1, len(tokens)), [0]
    size = begin  # entries with features: tokens 1 ... begin
    positions = torch.arange(size)[None]
    cache.aim([0], positions, is_prompt=True)
    read = torch.tensor(tokens[1 : begin + 1])[None]
    scored, hidden = chain.step(read, head.combine(features[None, :size]), positions, cache, None)
    hidden = hidden[:, -1:]
    for step in range(1, number + 1):
        cache.lengths = [size + step - 1]
        position = torch.tensor([[size - 1 + step]])
        cache.aim([0], position, is_prompt=False)
        mask = torch.ones(1, 1, 1, size + step, dtype=torch.bool)
        token = torch.tensor([[tokens[begin + step]]])
        scored, hidden = chain.step(token, hidden, position, cache, mask)
    return head.lm_head(scored[0, -1]).log_softmax(-1)


@torch.no_grad()
def by_the_book(head, target, rows, weights, loss_function):
    """Loss and what is measured of each place, chain by chain."""
    total, measured = 0.0, []
    decay = np.array([head_distiller.STEP_DECAY**k for k in range(STEPS)])
    decay /= decay.sum()
    for one, weight in zip(rows, weights, strict=True):
        tokens = one.tokens.tolist()
        read = target(torch.tensor(tokens)[None], output_hidden_states=True)
        layers = head.config.feature_layers
        features = torch.cat([read.hidden_states[layer][0] for layer in layers], -1)
        log_p = read.logits[0].log_softmax(-1)[:, head.target_ids]
        for place in range(one.first - 1, len(tokens) - 1):
            sums, examined, reached = np.zeros(3), 0.0, 1.0
            for step in range(STEPS):
                at = place + step  # predicts token at + 1
                if at >= len(tokens) - 1:
                    break
                log_q = drafted_logprobs(head, tokens, features, place, step)
                total = (
                    total + weight * decay[step] * loss_function(log_p[at][None], log_q[None])[0]
                )
                p, q = log_p[at].exp(), log_q.exp()
                overlap = float(torch.minimum(p, q).sum())
                mass = float(p.sum())
                cross = float(-(p * log_q).sum())
                entropy = float(-(p * (p / mass).log()).sum())
                sums += reached * np.array([overlap, cross, entropy])
                examined += reached
                reached *= overlap
            measured.append(sums / examined)
    return total, np.array(measured)


def unrolled(head, target, rows, weights, loss_function, chunk=None):
    teacher = HeadTeacher(SplitModel(target), head.config.feature_layers, name="tiny")
    distiller = HeadDistiller(head, loss_function, num_steps=STEPS, chunk=chunk)
    tokens, counted = collate(rows, torch.device("cpu"))
    of_position = torch.tensor(weights, dtype=torch.float64)[counted.nonzero()[:, 0]]
    return distiller(tokens, counted, of_position, teacher.read(tokens, counted, rows))


ROWS = [row([5, 9, 7, 3, 9, 1, 8, 2]), row([4, 4, 6, 2, 7, 7], first=4), row([8, 1, 3])]
WEIGHTS = [0.7, 1.3, 2.0]


@pytest.mark.parametrize("name", ["forward-kl", "tv", "lk", "neg-log-overlap"])
@pytest.mark.parametrize("ids", [None, tuple(range(0, 30, 2))])
def test_unrolled_steps_are_those_of_drafting(deep, name, ids):
    head, loss_function = head_of(deep, ids), DIVERGENCES[name]
    expected, measured = by_the_book(head, deep, ROWS, WEIGHTS, loss_function)
    loss, found = unrolled(head, deep, ROWS, WEIGHTS, loss_function, chunk=2)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-9)
    np.testing.assert_allclose(found.numpy(), measured, atol=1e-9)
    assert (found[:, 1] - found[:, 2] > -1e-12).all()  # KL
    if name == "lk":  # which takes its own mixing share for a constant
        return
    # The engine's cache is written in place, so its own slope is taken, along the gradient; norms
    # are computed in fp32, hence no smaller step.
    parameters = list(head.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    slope = float(sum((g**2).sum() for g in gradients) ** 0.5)
    along = [g / slope for g in gradients]
    ends = []
    for size in (3e-4, -3e-4):
        _move(parameters, along, size)
        ends.append(float(by_the_book(head, deep, ROWS, WEIGHTS, loss_function)[0]))
        _move(parameters, along, -size)
    assert slope == pytest.approx((ends[0] - ends[1]) / 6e-4, rel=1e-2)


@torch.no_grad()
def _move(parameters, along, size):
    for parameter, direction in zip(parameters, along, strict=True):
        parameter.add_(direction, alpha=size)


def _fed(offset):
    """A head whose later steps read another token of the text than the one that was kept."""
    original = Eagle3Head.step

    def step(self, tokens, hidden, positions, memory):
        if isinstance(memory, UnrolledMemory) and memory._step:
            tokens = tokens.roll(offset, 1)
        return original(self, tokens, hidden, positions, memory)

    return step


@pytest.mark.parametrize("offset", [1, -1])
def test_a_step_that_is_fed_another_token_is_noticed(deep, offset):
    head, loss_function = head_of(deep), DIVERGENCES["forward-kl"]
    expected, _ = by_the_book(head, deep, ROWS, WEIGHTS, loss_function)
    with mock.patch.object(Eagle3Head, "step", _fed(offset)):
        loss, _ = unrolled(head, deep, ROWS, WEIGHTS, loss_function)
    assert abs(loss.item() - expected.item()) > 1e-3


@pytest.mark.parametrize("layers", [(0, 1, 3), (1, 2, 3)])
def test_features_of_other_layers_are_noticed(deep, layers):
    head, loss_function = head_of(deep), DIVERGENCES["forward-kl"]
    right = head.config.feature_layers
    assert right == (0, 1, 2)
    teacher = HeadTeacher(SplitModel(deep), layers, name="tiny")
    tokens, counted = collate(ROWS, torch.device("cpu"))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[counted.nonzero()[:, 0]]
    wrong, _ = HeadDistiller(head, loss_function, num_steps=STEPS)(
        tokens, counted, weights, teacher.read(tokens, counted)
    )
    loss, _ = unrolled(head, deep, ROWS, WEIGHTS, loss_function)
    assert abs(wrong.item() - loss.item()) > 1e-3


def test_a_lossless_draft_has_no_loss():
    """Against itself: a head whose scores are the deep's has overlap 1 and KL 0."""
    p = torch.randn(4, 9).log_softmax(-1)
    overlap, cross, entropy = head_distiller.drafted_divergences(p, p)
    torch.testing.assert_close(overlap, torch.ones(4))
    torch.testing.assert_close(cross, entropy)
    # Of half of the mass, with the right proportions: half is accepted, and KL is still 0.
    half = p[:, :5]
    overlap, cross, entropy = head_distiller.drafted_divergences(half, half.log_softmax(-1))
    torch.testing.assert_close(overlap, half.exp().sum(-1))
    torch.testing.assert_close(cross, entropy)


# ---------------------------------------------------------------- draft vocabularies


def test_groups_of_other_scripts_need_what_covers_each():
    """Disjoint tokens: the fewest are each group's most frequent ones, which is closed form."""
    counts = np.zeros((2, 12))
    counts[0, :6] = [40, 30, 15, 9, 4, 2]
    counts[1, 6:] = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
    found = choose_ids(counts, 7, floor=0.8)
    # 40 + 30 + 15 = 85%; 0.5 + 0.2 + 0.1 = 80%.
    assert found.forced == 6
    assert set(found.ids) == {0, 1, 2, 3, 6, 7, 8}
    np.testing.assert_allclose(found.coverage, [0.94, 0.8])
    assert choose_ids(counts, 7).coverage[1] == pytest.approx(0.5)
    with pytest.raises(ConfigError, match=r"cannot cover 95\.0% of every group's text: about 10"):
        choose_ids(counts, 7, floor=0.95, names=["en", "th"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.95))
def test_the_floor_is_kept_with_nearly_the_fewest_tokens(seed, floor):
    generator = np.random.default_rng(seed)
    counts = generator.exponential(size=(3, 9)) ** 3
    shares = counts / counts.sum(1, keepdims=True)
    fewest = next(
        size
        for size in range(10)
        if any(
            (shares[:, list(ids)].sum(1) >= floor - 1e-12).all()
            for ids in itertools.combinations(range(9), size)
        )
    )
    found = choose_ids(counts, 9, floor=floor)
    assert fewest <= found.forced <= 2 * fewest
    least = choose_ids(counts, found.forced, floor=floor)
    assert len(least.ids) == found.forced
    assert (least.coverage >= floor - 1e-6).all()


def test_tokens_are_counted_where_they_are_learnt_from():
    rows = [
        Row(
            tokens=np.array([3, 3, 1, 1, 2]), first=2, num_bytes=1.0, membership=np.array([1.0, 0])
        ),
        Row(tokens=np.array([1, 0, 0]), first=1, num_bytes=1.0, membership=np.array([0.25, 0.75])),
    ]
    found = token_counts(rows, 2, 4)
    np.testing.assert_allclose(found, [[0.5, 2, 1, 0], [1.5, 0, 0, 0]])


# ---------------------------------------------------------------- runs


SETTINGS = {"kind": "eagle3", "unrolled_steps": 2, "length": 12, "tokens": 4 * 6 * 12}


def head_job(folder, **more):
    return job(folder, models=(llama(0, layers=3), None), **(SETTINGS | more))


def test_a_head_is_trained_saved_and_described(tmp_path):
    results = train_drafter(head_job(tmp_path / "out", draft_vocabulary=60, coverage_floor=0.9))
    found = json.loads(results.read_text())
    assert found["head"]["feature_layers"] == [0, 1, 2]
    assert min(found["head"]["coverage"].values()) >= 0.9
    head = read_head(tmp_path / "out")
    assert head.config.draft_vocab_size == len(head.target_ids) == 60
    assert set(found["groups"]) == {"a", "b", "c"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It drafts among 60 tokens" in card
    assert "a head, trained from new weights" in card
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_the_command_makes_a_head_and_refuses_what_it_cannot(pair_folder, tmp_path, capsys):
    words = ["train", "--kind", "eagle3", "--target", str(pair_folder / "target")]
    data = [{"text": f"{g} {'x' * 30} {n}", "group": g} for g in ("de", "sw") for n in range(12)]
    words += ["--data", str(write_lines(tmp_path / "texts.jsonl", data)), "--tokens", "192"]
    words += ["--rows", "6", "--length", "16", "--probe-rows", "2", "--draft-vocabulary"]

    assert main([*words, "4", "--coverage-floor", "0.99", "-o", str(tmp_path / "small")]) == 2
    assert "cannot cover 99.0% of every group's text" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
    assert main([*words, "40", "-o", str(tmp_path / "head")]) == 0
    assert "textbook speed-up" in capsys.readouterr().out
    assert read_head(tmp_path / "head").config.draft_vocab_size == 40


def test_learning_lowers_the_loss(tmp_path):
    settings_ = {"tokens": 40 * 6 * 12, "learning_rate": 3e-3, "num_probes": 4}
    results = json.loads(train_drafter(head_job(tmp_path / "out", **settings_)).read_text())
    kl = results["across_groups"]["kl"]["mean"]
    assert kl["after"] < 0.8 * kl["before"]


@pytest.mark.parametrize("weighting", ["s-cdf", "mix", "cvar:share=0.5", "s-cdf-literal"])
def test_a_head_is_resumed_to_the_same_bits(tmp_path, weighting):
    whole, parts = (
        head_job(tmp_path / name, weighting=weighting, draft_vocabulary=50)
        for name in ("whole", "parts")
    )
    train_drafter(whole)
    assert train_drafter(parts, stop_after=2) is None
    train_drafter(
        head_job(tmp_path / "parts", weighting=weighting, draft_vocabulary=50), resume=True
    )
    for name in ("model.safetensors", "train_results.json", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "parts")


def test_cached_features_are_those_of_the_target(tmp_path, caplog):
    live, cached = (
        head_job(tmp_path / name, cache_features=name == "cached", draft_vocabulary=50)
        for name in ("live", "cached")
    )
    train_drafter(live)
    assert train_drafter(cached, stop_after=3) is None
    assert "recording the target's hidden states at" in caplog.text
    assert (tmp_path / "cached" / "head_features.npy").exists()
    again = head_job(tmp_path / "cached", cache_features=True, draft_vocabulary=50)
    train_drafter(again, resume=True)
    found, wanted = (load_file(tmp_path / x / "model.safetensors") for x in ("cached", "live"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    assert not list((tmp_path / "cached").glob("head_features*"))


@pytest.mark.parametrize(
    ("given", "others", "line"),
    [
        ({"draft_vocabulary": 9}, {}, "--draft-vocabulary is of heads: pass --kind eagle3"),
        ({"unrolled_steps": 2}, {}, "--unrolled-steps is of heads"),
        ({"kind": "eagle3"}, {"lora_rank": 4}, "takes no --lora-rank"),
        ({"kind": "eagle3"}, {"drafter": "x"}, "takes no --drafter"),
        ({"kind": "eagle3"}, {"teacher_cache": "x"}, "takes no --teacher-cache"),
        ({"kind": "eagle3", "cache_top_k": 4}, {}, "takes no --cache-top-k"),
        ({"kind": "eagle3", "gradient_checkpointing": True}, {}, "no --gradient-checkpointing"),
        ({"kind": "eagle3", "responses": "drafter"}, {}, "takes no --responses drafter"),
        ({"kind": "eagle3", "coverage_floor": 0.9}, {}, "name its size with --draft-vocabulary"),
    ],
)
def test_what_does_not_go_with_a_kind_is_one_line(given, others, line):
    with pytest.raises(ConfigError, match=line):
        refuse_unfit(TrainConfig(**given), **others)


def test_an_older_run_of_a_drafting_model_has_no_settings_of_heads(tmp_path):
    train_drafter(job(tmp_path / "out"), stop_after=1)
    saved = json.loads((tmp_path / "out" / "train.json").read_text())
    assert not {"kind", "draft_vocabulary", "coverage_floor", "unrolled_steps"} & set(saved)
    assert divergence.kl is DIVERGENCES["forward-kl"]
