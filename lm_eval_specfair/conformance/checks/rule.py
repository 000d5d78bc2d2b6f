"""The acceptance rule by itself: every draft and every random number enumerated, nothing drawn."""

import itertools
from collections import Counter

import torch
from torch import Tensor

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Capability, Settings
from lm_eval_specfair.conformance.checks.common import asks, check_law, script, toy_pair
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial

GRID = 20  # all probabilities, ratios and residuals below are multiples of 1/20: no rounding
LARGEST = 1 - 2**-53


def _midpoints() -> Tensor:
    return (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID


# (p, q): overlapping, equal, disjoint, holes in both, certain p, certain q.
PAIRS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5)),
    ((0.25, 0.25, 0.5), (0.25, 0.25, 0.5)),
    ((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.3, 0.7)),
    ((0.0, 0.7, 0.3), (0.5, 0.5, 0.0)),
    ((1.0, 0.0, 0.0), (0.3, 0.3, 0.4)),
    ((0.2, 0.4, 0.4), (1.0, 0.0, 0.0)),
)


def first_token_law(trial: Trial, p: Tensor, q: Tensor, *, certain: bool) -> Tensor:
    """The law of a step's first token, by enumerating its draft and all random numbers.

    Args:
        trial: Whose rule it is.
        p: Target's distribution, shape (vocab,).
        q: Drafter's.
        certain: Whether q is handed over as "all on the token" (q is then one-hot).
    """
    numbers = torch.cartesian_prod(_midpoints(), _midpoints())
    rows = len(numbers)
    law = torch.zeros_like(p)
    for token in range(len(p)):
        if q[token] == 0:
            continue
        verdict = trial.backend.rule(
            torch.full((rows, 1), token),
            None if certain else q.expand(rows, 1, -1),
            p.expand(rows, 2, -1),
            numbers[:, :1],
            numbers[:, 1],
        )
        kept = verdict.num_accepted > 0
        first = torch.where(kept, torch.full_like(verdict.next_token, token), verdict.next_token)
        law += q[token] * torch.bincount(first, minlength=len(p)) / rows
    return law


def residual(trial: Trial) -> None:
    """Kept and recovered tokens together follow p, exactly, for pairs that break careless rules."""
    if Capability.RULE not in trial.backend.capabilities:
        settings = Settings(num_speculative_tokens=2, temperature=1.0, batch_size=1_000, seed=2)
        check_law(trial, toy_pair()[1], settings, "drawn texts, since its rule cannot be called")
        return
    for target_shares, drafter_shares in PAIRS:
        p = torch.tensor(target_shares, dtype=torch.float64)
        q = torch.tensor(drafter_shares, dtype=torch.float64)
        law = first_token_law(trial, p, q, certain=False)
        trial.expect(
            bool(torch.allclose(law, p, rtol=0, atol=1e-9)),
            f"p {target_shares}, q {drafter_shares}: the law is {law.tolist()}",
        )
    p = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    law = first_token_law(trial, p, torch.tensor([1.0, 0, 0]).double(), certain=True)
    trial.expect(
        bool(torch.allclose(law, p, rtol=0, atol=1e-9)),
        f"a drafter without distributions: the law is {law.tolist()}",
    )
    # q is p but for its last digits, and larger everywhere: nothing is left to recover from.
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    verdict = trial.backend.rule(
        torch.tensor([[1]] * 3),
        (p * (1 + 1e-15)).expand(3, 1, -1),
        p.expand(3, 2, -1),
        torch.full((3, 1), LARGEST, dtype=torch.float64),
        torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64),
    )
    trial.expect(
        bool(((verdict.next_token >= 0) & (verdict.next_token < 3)).all()),
        "where rounding leaves no residual, no token of p is drawn",
    )


def block_law(trial: Trial) -> tuple[dict[tuple[int, ...], float], Tensor]:
    """The joint law of three tokens, of two drafts and all random numbers, and the target's p.

    Steps that yield fewer than three tokens are filled up by independent draws from p.
    """
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4]], dtype=torch.float64)
    q = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3]], dtype=torch.float64)
    numbers = torch.cartesian_prod(_midpoints(), _midpoints(), _midpoints())
    rows, vocab = len(numbers), len(p)
    law: dict[tuple[int, ...], float] = {}
    for first, second in itertools.product(range(vocab), repeat=2):
        verdict = trial.backend.rule(
            torch.tensor([[first, second]]).expand(rows, -1),
            torch.stack([q[0], q[first]]).expand(rows, -1, -1),
            torch.stack([p[0], p[first], p[second]]).expand(rows, -1, -1),
            numbers[:, :2],
            numbers[:, 2],
        )
        outcomes = zip(verdict.num_accepted.tolist(), verdict.next_token.tolist(), strict=True)
        for (kept, following), count in Counter(outcomes).items():
            weight = float(q[0, first] * q[first, second]) * count / rows
            texts = {(*(first, second)[:kept], following): weight}
            while len(next(iter(texts))) < 3:
                texts = {
                    (*text, x): share * float(p[text[-1], x])
                    for text, share in texts.items()
                    for x in range(vocab)
                }
            for text, share in texts.items():
                law[text] = law.get(text, 0.0) + share
    return law, p


def bonus_token(trial: Trial) -> None:
    """The bonus token comes from the row behind the last draft, and only after full acceptance."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(4, longest=9, vocab_size=260, seed=13)]
    for length in (1, 4):
        requests = asks(prompts, 17)
        answers = trial.decode(
            model,
            script(model, prompts, 17),
            requests,
            Settings(num_speculative_tokens=length, batch_size=2),
        )
        trial.judge(model, requests, answers)
        full, rest = divmod(17, length + 1)
        for answer in answers:
            if answer.counts is not None:
                expected = [length] * full + ([rest - 1] if rest else [])
                trial.equal(answer.counts.accepted, expected, "drafts kept of an oracle")
    if trial.has(Capability.RULE, "the joint law of a block, by enumeration"):
        law, p = block_law(trial)
        for text in itertools.product(range(3), repeat=3):
            a, b, c = text
            expected_share = float(p[0, a] * p[a, b] * p[b, c])
            trial.expect(
                abs(law.get(text, 0.0) - expected_share) < 1e-9,
                f"text {text} has probability {law.get(text, 0.0):.4f}, not {expected_share:.4f}",
            )


CHECKS = (
    Check(
        number=9,
        name="residual",
        group="acceptance law",
        proves="q * accept + (1 - sum) * residual = p, also where p = q, disjoint or without mass.",
        witness="transformers `_speculative_sampling`, DeepSpec's guards",
        needs=frozenset({Capability.SAMPLING}),
        body=residual,
    ),
    Check(
        number=10,
        name="bonus-token",
        group="acceptance law",
        proves="The joint law of whole blocks is the target's, the bonus token included.",
        witness="vllm#2658, openvino.genai#4190",
        needs=frozenset({Capability.SCRIPTED}),
        body=bonus_token,
    ),
)
