"""Checks of texts: sampled ones against the enumerated law, greedy ones against fp64."""

import math

import torch

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import PROMPT_LOOKUP, AskSettings, Capability, Drafting
from lm_eval_specfair.conformance.checks.common import (
    Prompt,
    asks,
    check_law,
    check_not_vacuous,
    counted,
    prompts_of,
    toy_pair,
)
from lm_eval_specfair.conformance.reference import in_fp64, plain_scores
from lm_eval_specfair.conformance.trial import Trial, check


@check(
    7,
    "acceptance law",
    "transformers#32867, transformers#47932, DeepSpec#31, ml-recurrent-drafter#6",
    Capability.SAMPLING,
)
def drafter_distribution(trial: Trial) -> None:
    """Drafts are accepted by the distribution that they were drawn from."""
    for temperature in (1.0, 0.6):
        what = f"a model drafts at temperature {temperature:g}"
        check_law(trial, toy_pair()[1], what, temperature=temperature)
    check_law(trial, PROMPT_LOOKUP, "prompt lookup")


@check(8, "acceptance law", "vllm#10198, lattice#388, mistral.rs#2424", Capability.SAMPLING)
def processors(trial: Trial) -> None:
    """Temperature, top-k, top-p (and penalties, position by position) shape the law."""
    for temperature, top_k, top_p in ((0.7, 3, None), (1.0, None, 0.8), (0.9, 4, 0.9)):
        what = f"temperature {temperature:g}, top-k {top_k}, top-p {top_p}"
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        check_law(trial, toy_pair()[1], what, **settings)
    if trial.has(Capability.REPETITION_PENALTY, "repetition penalty"):
        _penalty(trial)


def _penalty(trial: Trial) -> None:
    """A penalty must see accepted drafts."""
    model, penalty, length = models.target(), 1.3, 16
    requests = asks(prompts_of(4, 8, seed=12), length)
    settings = AskSettings(repetition_penalty=penalty)
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


@check(
    11,
    "acceptance law",
    "transformers#28759 (heuristic), llama.cpp#3919",
    Capability.COUNTS,
    Capability.SAMPLING,
)
def draft_length(trial: Trial) -> None:
    """No drawn draft is dropped by its own probability; no state outlives a request."""
    model, cap, length = models.target(), 4, 18
    requests = asks(prompts_of(6, 9, seed=14), length)
    for temperature in (0.0, 1.0):
        settings = AskSettings(num_speculative_tokens=cap, temperature=temperature, batch_size=1)
        counts = []
        for order in (requests, requests[::-1]):
            answers = trial.decode(model, models.near_drafter(), order, settings)
            counts.append({ask.name: count for ask, _, count in counted(order, answers)})
            for ask, _, count in counted(order, answers):
                kept, expected = 0, []
                for accepted in count.accepted:
                    expected.append(min(cap, length - kept - 1))
                    kept += accepted + 1
                if trial.can(Capability.PREFILL_TOKEN):
                    expected[0] = 0
                what = f"drafts a step, temperature {temperature:g}, request {ask.name}"
                trial.equal(count.drafted, expected, what)
            check_not_vacuous(trial, answers, "draft length")
        if temperature == 0:
            trial.equal(counts[1], counts[0], "counts when requests come in the reverse order")


@check(28, "acceptance law", "romsto/Speculative-Decoding")
def greedy_by_chance(trial: Trial) -> None:
    """Greedy decoding draws nothing: each token is the target's most likely one."""
    model = models.target()
    prompts = [prompt * 2 for prompt in prompts_of(8, 20, seed=15)]  # repeats for prompt lookup
    requests = asks(prompts, 20, eos=[0])
    answers = trial.greedy(model, models.near_drafter(), requests)
    check_not_vacuous(trial, answers, "a near drafter")
    others: tuple[Drafting, ...] = (models.far_drafter(), PROMPT_LOOKUP, None)
    for drafter in others:
        trial.greedy(model, drafter, requests)


@check(25, "acceptance law", "general")
def non_finite(trial: Trial) -> None:
    """bf16, underflow and masked rows give whole texts and finite sums."""
    target = models.target()
    prompts: list[Prompt] = [(5, 6, 7) * 5, (9,), (20, 21, 20, 21, 20)]
    eager = models.llama(0, head_dim=32, attn_implementation="eager")  # masks by addition
    half, half_drafter = (
        models.disturbed(model, 0).bfloat16() for model in (target, models.near_drafter())
    )
    requests = asks(prompts, 14)
    for model, drafter in ((half, half_drafter), (eager, models.near_drafter())):
        trial.greedy(model, drafter, requests, batch_size=3)
    if not trial.has(Capability.SAMPLING, "sampling at extreme temperatures"):
        return
    for model, drafter, temperature, top_k in (
        (half, half_drafter, 0.8, 40),
        (target, PROMPT_LOOKUP, 0.01, None),
        (target, models.near_drafter(), 1.0, 1),
        (eager, models.near_drafter(), 0.05, None),
    ):
        settings = AskSettings(temperature=temperature, top_k=top_k, batch_size=3)
        answers = trial.decode(model, drafter, requests, settings)
        for ask, answer in zip(requests, answers, strict=True):
            what = f"temperature {temperature:g}, request {ask.name}"
            trial.equal(len(answer.token_ids), 14, f"tokens at {what}")
            trial.expect(
                all(0 <= token < models.VOCAB_SIZE for token in answer.token_ids),
                f"{what}: no tokens of p",
            )
            for name, value in answer.sums.items():
                finite = math.isfinite(value) and value >= -1e-3
                trial.expect(finite, f"{what}: {name} is {value}")
        if top_k == 1:
            trial.judge(model, requests, answers)
