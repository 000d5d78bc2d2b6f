"""Checks of randomness: each draw has a number of its own, and each request its own generator."""

import random

import torch

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Ask,
    AskSettings,
    Capability,
    Drafting,
)
from lm_eval_specfair.conformance.checks.common import asks, check_law, prompts_of, toy_pair
from lm_eval_specfair.conformance.trial import Trial, check


@check(19, "randomness", "feifeibear/LLMSpeculativeSampling", Capability.SAMPLING)
def seeds(trial: Trial) -> None:
    """Each draw has a number of its own, and each request its own source of them."""
    # Companions, their order and the global state don't matter.
    check_law(trial, toy_pair()[1], "three tokens of a step", seed=7)
    if not trial.has(Capability.SEEDS, "texts that depend on the request alone"):
        return
    prompts = [prompt * 2 for prompt in prompts_of(9, 9, seed=18)]
    chance = random.Random(0)
    requests = asks(prompts, [chance.randint(1, 16) for _ in prompts], eos=[0])
    for name in ("again", "and again"):
        requests.append(Ask(name=name, prompt=prompts[0], max_new_tokens=16))
    shuffled = random.Random(1).sample(requests, len(requests))
    drafters: dict[str, Drafting] = {"model": models.near_drafter(), PROMPT_LOOKUP: PROMPT_LOOKUP}
    before = torch.get_rng_state()

    def texts(what: str, chosen: list[Ask], batch_size: int, seed: int = 0) -> dict[str, list[int]]:
        settings = AskSettings(temperature=1.0, top_k=50, batch_size=batch_size, seed=seed)
        answers = trial.decode(models.target(), drafters[what], chosen, settings)
        return {ask.name: answer.token_ids for ask, answer in zip(chosen, answers, strict=True)}

    try:
        for drafter in drafters:
            torch.manual_seed(0)
            state = torch.get_rng_state()
            alone = texts(drafter, requests, 1)
            trial.expect(
                torch.equal(torch.get_rng_state(), state), "global random numbers were consumed"
            )
            torch.manual_seed(1)
            for what, chosen, batch_size in (
                ("in a batch", requests, len(requests)),
                ("in another order and refilled", shuffled, 3),
                ("without some companions", requests[::3], 4),
            ):
                got = texts(drafter, chosen, batch_size)
                trial.equal(got, {name: alone[name] for name in got}, f"{drafter}: texts {what}")
            trial.expect(alone["again"] != alone["and again"], "two requests draw the same numbers")
            trial.expect(texts(drafter, requests, 4, 1) != alone, "another seed changes nothing")
    finally:
        torch.set_rng_state(before)
