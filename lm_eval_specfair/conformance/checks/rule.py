"""Checks of the acceptance rule by itself: all drafts and random numbers enumerated, none drawn."""

import itertools
from collections import Counter

import torch
from torch import Tensor

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Capability
from lm_eval_specfair.conformance.checks.common import (
    asks,
    check_law,
    counted,
    prompts_of,
    script,
    toy_pair,
)
from lm_eval_specfair.conformance.trial import Trial, check

GRID = 20  # all probabilities, ratios and residuals below are multiples of 1/20: no rounding
LARGEST = 1 - 2**-53


def _midpoints(number: int) -> Tensor:
    """All combinations of this many random numbers, shape (combinations, number)."""
    return torch.cartesian_prod(*[(torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID] * number)


# (p, q): overlapping, equal, disjoint, holes in both, certain p, certain q.
PAIRS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5)),
    ((0.25, 0.25, 0.5), (0.25, 0.25, 0.5)),
    ((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.3, 0.7)),
    ((0.0, 0.7, 0.3), (0.5, 0.5, 0.0)),
    ((1.0, 0.0, 0.0), (0.3, 0.3, 0.4)),
    ((0.2, 0.4, 0.4), (1.0, 0.0, 0.0)),
)


def block_law(
    trial: Trial, p: Tensor, q: Tensor, *, drafts: int, length: int, certain: bool = False
) -> dict[tuple[int, ...], float]:
    """The law of a text, by enumerating the drafts of its first step and all random numbers.

    Row t of p and q, shape (vocab, vocab), is the target's and the drafter's distribution after
    token t; the text follows token 0. A step that yields fewer tokens than `length` is completed by
    independent draws from p. A one-hot q may be passed to the rule as `certain`.
    """
    numbers = _midpoints(drafts + 1)
    rows, vocab = len(numbers), len(p)
    law: Counter[tuple[int, ...]] = Counter()
    for drafted in itertools.product(range(vocab), repeat=drafts):
        before = [0, *drafted]
        chance = float(q[before[:-1], list(drafted)].prod())
        if chance == 0:
            continue
        verified = trial.backend.rule(
            torch.tensor([drafted]).expand(rows, -1),
            None if certain else q[before[:-1]].expand(rows, -1, -1),
            p[before].expand(rows, -1, -1),
            numbers[:, :drafts],
            numbers[:, drafts],
        )
        outcomes = zip(verified.num_accepted.tolist(), verified.next_token.tolist(), strict=True)
        for (kept, following), count in Counter(outcomes).items():
            texts = {(*drafted[:kept], following)[:length]: chance * count / rows}
            while len(next(iter(texts))) < length:
                texts = {
                    (*text, x): share * float(p[text[-1], x])
                    for text, share in texts.items()
                    for x in range(vocab)
                }
            for text, share in texts.items():
                law[text] += share  # type: ignore[assignment]
    return dict(law)


@check(
    9,
    "acceptance law",
    "transformers `_speculative_sampling`, DeepSpec's guards",
    Capability.SAMPLING,
)
def residual(trial: Trial) -> None:
    """Kept and recovered tokens together follow p, also where p = q, disjoint or without mass."""
    if not trial.can(Capability.RULE):
        check_law(trial, toy_pair()[1], "drawn texts, since its rule cannot be called", seed=2)
        return

    for i, (target_shares, drafter_shares) in enumerate([*PAIRS, PAIRS[-1]]):
        certain = i == len(PAIRS)
        p, q = (torch.tensor(x, dtype=torch.float64) for x in (target_shares, drafter_shares))
        square = (x.expand(len(p), -1) for x in (p, q))
        law = block_law(trial, *square, drafts=1, length=1, certain=certain)
        shares = [law.get((token,), 0.0) for token in range(len(p))]
        what = f"p {target_shares}, q {drafter_shares}"
        trial.expect(
            bool(torch.allclose(torch.tensor(shares, dtype=p.dtype), p, rtol=0, atol=1e-9)),
            f"{'a drafter without distributions' if certain else what}: the law is {shares}",
        )
    # q is p but for its last digits, and larger everywhere: nothing is left to recover from.
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    verified = trial.backend.rule(
        torch.tensor([[1]] * 3),
        (p * (1 + 1e-15)).expand(3, 1, -1),
        p.expand(3, 2, -1),
        torch.full((3, 1), LARGEST, dtype=torch.float64),
        torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64),
    )
    trial.expect(
        bool(((verified.next_token >= 0) & (verified.next_token < 3)).all()),
        "where rounding leaves no residual, no token of p is drawn",
    )


@check(10, "acceptance law", "vllm#2658, openvino.genai#4190", Capability.SCRIPTED)
def bonus_token(trial: Trial) -> None:
    """The joint law of whole blocks is the target's, the bonus token included."""
    model = models.target()
    prompts = prompts_of(4, 9, seed=13)
    requests, oracle = asks(prompts, 17), script(model, prompts, 17)
    for length in (1, 4):
        answers = trial.greedy(model, oracle, requests, num_speculative_tokens=length, batch_size=2)
        full, rest = divmod(17, length + 1)
        expected = [length] * full + ([rest - 1] if rest else [])
        for _, _, counts in counted(requests, answers):
            trial.equal(counts.accepted, expected, "drafts kept of an oracle")
    if trial.has(Capability.RULE, "the joint law of a block, by enumeration"):
        p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4]], dtype=torch.float64)
        q = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3]], dtype=torch.float64)
        law = block_law(trial, p, q, drafts=2, length=3)
        for a, b, c in itertools.product(range(3), repeat=3):
            share, expected_share = law.get((a, b, c), 0.0), float(p[0, a] * p[a, b] * p[b, c])
            trial.expect(
                abs(share - expected_share) < 1e-9,
                f"text {(a, b, c)} has probability {share:.4f}, not {expected_share:.4f}",
            )
