"""The law of what comes out: drawn texts against enumerated ones, greedy ones against fp64."""

import math
from collections.abc import Sequence

import torch

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Capability,
    Drafting,
    Settings,
)
from lm_eval_specfair.conformance.checks.common import (
    Prompt,
    asks,
    check_law,
    check_not_vacuous,
    toy_pair,
)
from lm_eval_specfair.conformance.reference import in_fp64, plain_scores, random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial


def drafter_distribution(trial: Trial) -> None:
    """What is accepted by must be what the draft was drawn from, at any temperature."""
    drafter = toy_pair()[1]
    for temperature in (1.0, 0.6):
        settings = Settings(num_speculative_tokens=2, temperature=temperature, batch_size=1_000)
        check_law(trial, drafter, settings, f"a model drafts at temperature {temperature:g}")
    settings = Settings(num_speculative_tokens=2, temperature=1.0, batch_size=1_000)
    check_law(trial, PROMPT_LOOKUP, settings, "prompt lookup")


def processors(trial: Trial) -> None:
    """Temperature, top-k and top-p on the target; a penalty that must see accepted drafts."""
    drafter = toy_pair()[1]
    for temperature, top_k, top_p in ((0.7, 3, None), (1.0, None, 0.8), (0.9, 4, 0.9)):
        settings = Settings(
            num_speculative_tokens=2,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=1_000,
        )
        what = f"temperature {temperature:g}, top-k {top_k}, top-p {top_p}"
        check_law(trial, drafter, settings, what)
    if trial.has(Capability.REPETITION_PENALTY, "repetition penalty"):
        _penalty(trial)


def _penalty(trial: Trial) -> None:
    model, penalty, length = models.target(), 1.3, 16
    prompts = [tuple(p) for p in random_prompts(4, longest=8, vocab_size=260, seed=12)]
    requests = asks(prompts, length)
    settings = Settings(repetition_penalty=penalty)
    answers = trial.decode(model, models.near_drafter(), requests, settings)
    for ask, answer in zip(requests, answers, strict=True):
        tokens = list(ask.prompt)
        for _ in range(length):
            scores = plain_scores(in_fp64(model), tokens)[-1]
            seen = torch.tensor(sorted(set(tokens)))
            had = scores[seen]
            scores[seen] = torch.where(had < 0, had * penalty, had / penalty)
            tokens.append(int(scores.argmax()))
        expected = tokens[len(ask.prompt) :]
        trial.equal(answer.token_ids, expected, f"penalty {penalty}, request {ask.name}")


def draft_length(trial: Trial) -> None:
    """Every step drafts what was asked for, and no request changes it for the next."""
    model, cap, length = models.target(), 4, 18
    prompts = [tuple(p) for p in random_prompts(6, longest=9, vocab_size=260, seed=14)]
    requests = asks(prompts, length)
    for temperature in (0.0, 1.0):
        settings = Settings(num_speculative_tokens=cap, temperature=temperature, batch_size=1)
        runs = []
        for order in (requests, requests[::-1]):
            answers = trial.decode(model, models.near_drafter(), order, settings)
            found = dict(zip([ask.name for ask in order], answers, strict=True))
            runs.append([found[ask.name] for ask in requests])
            for ask, answer in zip(order, answers, strict=True):
                if answer.counts is None:
                    continue
                kept, wanted = 0, []
                for accepted in answer.counts.accepted:
                    wanted.append(min(cap, length - kept - 1))
                    kept += accepted + 1
                if Capability.PREFILL_TOKEN in trial.backend.capabilities:
                    wanted[0] = 0
                trial.equal(
                    answer.counts.drafted,
                    wanted,
                    f"drafts a step, temperature {temperature:g}, request {ask.name}",
                )
            check_not_vacuous(trial, [answer.counts for answer in answers], "draft length")
        if temperature == 0:
            trial.equal(
                [answer.counts for answer in runs[1]],
                [answer.counts for answer in runs[0]],
                "counts when requests come in the reverse order",
            )


def greedy_by_chance(trial: Trial) -> None:
    """Greedy decoding keeps the likeliest token and no other, whoever drafts."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(8, longest=20, vocab_size=260, seed=15)]
    prompts = [prompt * 2 for prompt in prompts]  # something for prompt lookup to find
    drafters: Sequence[tuple[str, Drafting]] = (
        ("a near drafter", models.near_drafter()),
        ("a far drafter", models.far_drafter()),
        ("prompt lookup", PROMPT_LOOKUP),
        ("no drafter", None),
    )
    for what, drafter in drafters:
        requests = asks(prompts, 20, eos=[0])
        answers = trial.decode(model, drafter, requests, Settings())
        trial.judge(model, requests, answers)
        if what == "a near drafter":
            check_not_vacuous(trial, [answer.counts for answer in answers], what)


def non_finite(trial: Trial) -> None:
    """Half precision, vanishing probabilities, masks by addition: whole texts, finite sums."""
    target = models.target()
    prompts: list[Prompt] = [(5, 6, 7) * 5, (9,), (20, 21, 20, 21, 20)]
    eager = models.llama(0, head_dim=32, attn_implementation="eager")
    half, half_drafter = (
        models.disturbed(model, 0).bfloat16() for model in (target, models.near_drafter())
    )
    requests = asks(prompts, 14)
    for model, drafter in ((half, half_drafter), (eager, models.near_drafter())):
        answers = trial.decode(model, drafter, requests, Settings(batch_size=3))
        trial.judge(model, requests, answers)
    if not trial.has(Capability.SAMPLING, "sampling at extreme temperatures"):
        return
    for model, drafter, temperature, top_k in (
        (half, half_drafter, 0.8, 40),
        (target, PROMPT_LOOKUP, 0.01, None),
        (target, models.near_drafter(), 1.0, 1),
        (eager, models.near_drafter(), 0.05, None),
    ):
        settings = Settings(temperature=temperature, top_k=top_k, batch_size=3)
        answers = trial.decode(model, drafter, requests, settings)
        for ask, answer in zip(requests, answers, strict=True):
            what = f"temperature {temperature:g}, request {ask.name}"
            trial.equal(len(answer.token_ids), 14, f"tokens at {what}")
            trial.expect(
                all(0 <= token < 260 for token in answer.token_ids), f"{what}: no tokens of p"
            )
            for name, value in answer.sums.items():
                trial.expect(math.isfinite(value), f"{what}: {name} is {value}")
                trial.expect(value >= -1e-3, f"{what}: {name} is {value}")
        if top_k == 1:
            trial.judge(model, requests, answers)


_SAMPLES = frozenset({Capability.SAMPLING})

CHECKS = (
    Check(
        number=7,
        name="drafter-distribution",
        group="acceptance law",
        proves="Drafts are accepted by the distribution that they were drawn from.",
        witness="transformers#32867, transformers#47932, DeepSpec#31, ml-recurrent-drafter#6",
        needs=_SAMPLES,
        body=drafter_distribution,
    ),
    Check(
        number=8,
        name="processors",
        group="acceptance law",
        proves="Temperature, top-k, top-p (and penalties, position by position) shape the law.",
        witness="vllm#10198, lattice#388, mistral.rs#2424",
        needs=_SAMPLES,
        body=processors,
    ),
    Check(
        number=11,
        name="draft-length",
        group="acceptance law",
        proves="No drawn draft is dropped by its own probability; no state outlives a request.",
        witness="transformers#28759 (heuristic), llama.cpp#3919",
        needs=frozenset({Capability.COUNTS, Capability.SAMPLING}),
        body=draft_length,
    ),
    Check(
        number=25,
        name="non-finite",
        group="acceptance law",
        proves="bf16, underflow and masked rows give whole texts and finite sums.",
        witness="general",
        needs=frozenset(),
        body=non_finite,
    ),
    Check(
        number=28,
        name="greedy-by-chance",
        group="acceptance law",
        proves="Greedy decoding draws nothing: each token is the target's likeliest.",
        witness="romsto/Speculative-Decoding",
        needs=frozenset(),
        body=greedy_by_chance,
    ),
)
