"""Divergences as losses: gradients against finite differences, chunks against the whole."""

import math

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lm_eval_specfair import divergence
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.divergence import jensen_shannon, reverse_kl, total_variation
from lm_eval_specfair.training.distil import Distiller, LiveTarget, SplitModel
from lm_eval_specfair.training.losses import (
    DIVERGENCES,
    chunked_loss,
    lk_hybrid,
    negative_log_overlap,
)
from lm_eval_specfair.training.teacher_cache import CachedTarget

WIDE = torch.float64
POSITIONS, WIDTH, VOCAB = 7, 5, 11


class FixedTarget:
    """A target that says the same whatever the drafter."""

    def __init__(self, log_p):
        self.log_p = log_p

    def outcomes(self, chunk, drafter_scores):
        return self.log_p[chunk], drafter_scores.log_softmax(-1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE)


@pytest.fixture
def problem():
    hidden = random(POSITIONS, WIDTH, seed=1).requires_grad_()
    weight = random(VOCAB, WIDTH, seed=2).requires_grad_()
    bias = random(VOCAB, seed=3).requires_grad_()
    log_p = (2 * random(POSITIONS, VOCAB, seed=4)).log_softmax(-1)
    weights = random(POSITIONS, seed=5)  # some are negative, as the signed rule's
    return hidden, weight, bias, log_p, weights


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_gradients_agree_with_finite_differences(problem, name, chunk):
    hidden, weight, bias, log_p, weights = problem

    def loss(hidden, weight, bias):
        return chunked_loss(
            hidden, weight, bias, weights, FixedTarget(log_p), DIVERGENCES[name], chunk=chunk
        )[0]

    if name == "lk":
        # Its mixing factor is a constant by definition, which finite differences cannot know.
        factor = (-3 * divergence.overlap(log_p, scores_of(problem).log_softmax(-1))).exp().detach()

        def frozen(log_p, log_q):
            distance = total_variation(log_p, log_q)
            return factor * divergence.kl(log_p, log_q) + (1 - factor) * distance

        def plain(hidden, weight, bias):
            log_q = functional.linear(hidden, weight, bias).log_softmax(-1)
            return (weights * frozen(log_p, log_q)).sum()

        assert torch.autograd.gradcheck(plain, (hidden, weight, bias))
        ours = torch.autograd.grad(loss(hidden, weight, bias), (hidden, weight, bias))
        theirs = torch.autograd.grad(plain(hidden, weight, bias), (hidden, weight, bias))
        torch.testing.assert_close(ours, theirs)
        return
    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def scores_of(problem):
    hidden, weight, bias, *_ = problem
    return functional.linear(hidden, weight, bias)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_chunks_give_what_the_whole_gives(problem, name):
    hidden, weight, bias, log_p, weights = problem
    inputs = (hidden, weight, bias)
    whole = (weights * DIVERGENCES[name](log_p, scores_of(problem).log_softmax(-1))).sum()
    expected = torch.autograd.grad(3 * whole, inputs)
    for chunk in (1, 2, 5, 7, 50):
        loss, measured = chunked_loss(
            *inputs, weights, FixedTarget(log_p), DIVERGENCES[name], chunk=chunk
        )
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), expected)
        log_q = scores_of(problem).log_softmax(-1)
        torch.testing.assert_close(measured[:, 0], divergence.overlap(log_p, log_q))
        torch.testing.assert_close(measured[:, 1], divergence.cross_entropy(log_p, log_q))
        torch.testing.assert_close(measured[:, 2], divergence.entropy(log_p))
        assert not measured.requires_grad


def test_without_gradients_nothing_is_kept(problem):
    hidden, weight, bias, log_p, weights = problem
    with torch.no_grad():
        loss, _ = chunked_loss(
            hidden, weight, bias, weights, FixedTarget(log_p), DIVERGENCES["js"], chunk=2
        )
    assert loss.grad_fn is None


def test_a_frozen_head_gets_no_gradient(problem):
    hidden, weight, _, log_p, weights = problem
    frozen = weight.detach()
    loss, _ = chunked_loss(hidden, frozen, None, weights, FixedTarget(log_p), DIVERGENCES["tv"])
    loss.backward()
    assert frozen.grad is None
    assert hidden.grad is not None


def test_divergences_worked_by_hand():
    p = torch.tensor([0.5, 0.25, 0.25], dtype=WIDE).log()
    q = torch.tensor([0.25, 0.25, 0.5], dtype=WIDE).log()
    assert total_variation(p, q).item() == pytest.approx(0.25)
    assert negative_log_overlap(p, q).item() == pytest.approx(-math.log(0.75))
    # q log(q/p) summed: 0.25 log(1/2) + 0.5 log 2.
    assert reverse_kl(p, q).item() == pytest.approx(0.25 * math.log(2))
    # m = (3/8, 1/4, 3/8), symmetric: KL(p || m) = KL(q || m).
    half = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    assert jensen_shannon(p, q).item() == pytest.approx(half)
    share = math.exp(-3 * 0.75)
    expected = share * 0.25 * math.log(2) + (1 - share) * 0.25
    assert lk_hybrid(p, q).item() == pytest.approx(expected)


def test_the_gradient_of_minus_log_overlap_is_that_of_tv_over_the_overlap():
    log_p, scores = random(4, 9).log_softmax(-1), random(4, 9, seed=8).requires_grad_()
    log_q = scores.log_softmax(-1)
    (ours,) = torch.autograd.grad(negative_log_overlap(log_p, log_q).sum(), scores)
    (tv,) = torch.autograd.grad(total_variation(log_p, scores.log_softmax(-1)).sum(), scores)
    overlap = divergence.overlap(log_p, log_q.detach())[:, None]
    torch.testing.assert_close(ours, tv / overlap)


def test_at_the_scores_forward_kl_descends_along_q_minus_p():
    log_p, scores = random(4, 9).log_softmax(-1), random(4, 9, seed=8).requires_grad_()
    (found,) = torch.autograd.grad(divergence.kl(log_p, scores.log_softmax(-1)).sum(), scores)
    torch.testing.assert_close(found, scores.detach().softmax(-1) - log_p.exp())


def test_minus_log_overlap_is_finite_where_the_overlap_underflows():
    log_p = torch.tensor([0.0, -300.0]).log_softmax(-1)
    log_q = torch.tensor([-300.0, 0.0]).log_softmax(-1)
    assert negative_log_overlap(log_p, log_q).item() == pytest.approx(300 - math.log(2), rel=1e-4)


# ---------------------------------------------------------------- on real models


def whole_loss(target, drafter, tokens):
    with torch.no_grad():
        log_p = target(input_ids=tokens).logits[:, :-1].double().log_softmax(-1)
    log_q = drafter(input_ids=tokens).logits[:, :-1].double().log_softmax(-1)
    return divergence.kl(log_p, log_q).mean()


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_taken_apart_has_the_loss_and_gradients_of_the_whole(tied):
    target, drafter = llama(0).double(), llama(1, layers=1, tie_word_embeddings=tied).double()
    tokens = torch.randint(0, 260, (3, 12), generator=torch.Generator().manual_seed(0))
    counted = torch.ones(3, 11, dtype=torch.bool)
    distiller = Distiller(drafter, DIVERGENCES["forward-kl"], chunk=5)
    weights = torch.full((33,), 1 / 33, dtype=WIDE)

    loss, _ = distiller(tokens, counted, weights, SplitModel(target).read(tokens, counted))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in drafter.named_parameters()}
    drafter.zero_grad()
    expected = whole_loss(target, drafter, tokens)
    expected.backward()

    torch.testing.assert_close(loss, expected)
    for name, parameter in drafter.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, msg=name)


def test_a_head_with_more_than_a_product_is_used_as_it_is(caplog):
    class Capped(type(llama(0))):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = torch.tanh(output.logits / 3) * 3
            return output

    target, drafter = llama(0).double(), llama(1, layers=1).double()
    drafter.__class__ = Capped
    tokens = torch.randint(0, 260, (2, 9), generator=torch.Generator().manual_seed(0))
    counted = torch.ones(2, 8, dtype=torch.bool)
    distiller = Distiller(drafter, DIVERGENCES["forward-kl"])

    assert "not a plain product" in caplog.text
    weights = torch.full((16,), 1 / 16, dtype=WIDE)
    loss, _ = distiller(tokens, counted, weights, SplitModel(target).read(tokens, counted))
    torch.testing.assert_close(loss, whole_loss(target, drafter, tokens))


def test_ids_that_only_one_model_has_are_left_out():
    wide, narrow = random(3, 12), random(3, 9, seed=2)
    log_p, log_q = LiveTarget(None, wide).outcomes(slice(0, 3), narrow)
    torch.testing.assert_close(log_p, wide[:, :9].log_softmax(-1))
    torch.testing.assert_close(log_q, narrow.log_softmax(-1))


def test_a_slight_soft_cap_is_seen_in_half_precision():
    """A cap of 30 moves scores of up to 8 by less than three per cent."""

    class Capped(type(llama(0))):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = torch.tanh(output.logits / 30) * 30
            return output

    def half() -> torch.nn.Module:
        model = llama(0)
        with torch.no_grad():
            tokens = torch.arange(8)[None]
            highest = model(input_ids=tokens).logits.abs().max()
            model.get_output_embeddings().weight.mul_(8 / highest)
        return model.bfloat16()

    plain, capped = half(), half()
    capped.__class__ = Capped
    assert SplitModel(plain).head is not None
    assert SplitModel(capped).head is None


def test_a_cache_leaves_out_ids_that_only_one_model_has():
    """Outcomes of the cache are those of the live target, lumped, whatever the vocabularies."""
    logprobs = random(2, 9).log_softmax(-1)
    ids = logprobs.topk(3).indices
    rest = logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    cached = CachedTarget(ids, torch.cat([logprobs.gather(-1, ids), rest], -1), vocab_size=9)
    wide = random(2, 12, seed=2)
    _, log_q = cached.outcomes(slice(0, 2), wide)
    q = wide[:, :9].softmax(-1)
    expected = torch.cat([q.gather(-1, ids), 1 - q.gather(-1, ids).sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(log_q.exp(), expected)


class Casts(TorchDispatchMode):
    """Counts the copies of a weight in another type."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.number = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.number += 1
        return func(*args, **(kwargs or {}))


def test_autocast_copies_a_head_once_however_many_chunks(problem):
    hidden, weight, _, _, weights = (part.detach().float() for part in problem)
    frozen = torch.nn.Linear(WIDTH, VOCAB, bias=False).requires_grad_(False)
    numbers = {}
    for chunk in (1, 100):
        learnt = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), Casts(weight.shape) as casts:
            target = LiveTarget(frozen, hidden)
            # Not the gradient of the head, whose chunks are added in its own wider type.
            with torch.no_grad():
                kl = DIVERGENCES["forward-kl"]
                chunked_loss(hidden, learnt, None, weights, target, kl, chunk=chunk)
        numbers[chunk] = casts.number
    assert numbers == {1: 2, 100: 2}
