"""Where chance comes from: numbers of its own for each draw, and for each request."""

import random

import torch

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import PROMPT_LOOKUP, Ask, Capability, Settings
from lm_eval_specfair.conformance.checks.common import asks, check_law, toy_pair
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial


def seeds(trial: Trial) -> None:
    """Draws within a step are independent; companions, order and the global state don't matter."""
    settings = Settings(num_speculative_tokens=2, temperature=1.0, batch_size=1_000, seed=7)
    check_law(trial, toy_pair()[1], settings, "three tokens of a step")
    if not trial.has(Capability.SEEDS, "texts that depend on the request alone"):
        return
    prompts = [tuple(p) * 2 for p in random_prompts(9, longest=9, vocab_size=260, seed=18)]
    chance = random.Random(0)
    requests = asks(prompts, [chance.randint(1, 16) for _ in prompts], eos=[0])
    requests.append(Ask(name="again", prompt=prompts[0], max_new_tokens=16))
    requests.append(Ask(name="and again", prompt=prompts[0], max_new_tokens=16))

    def texts(drafter: object, chosen: list[Ask], batch_size: int, seed: int) -> dict[str, object]:
        answers = trial.decode(
            models.target(),
            models.near_drafter() if drafter != PROMPT_LOOKUP else PROMPT_LOOKUP,
            chosen,
            Settings(temperature=1.0, top_k=50, batch_size=batch_size, seed=seed),
        )
        return {ask.name: answer.token_ids for ask, answer in zip(chosen, answers, strict=True)}

    shuffled = random.Random(1).sample(requests, len(requests))
    before = torch.get_rng_state()
    try:
        for drafter in ("model", PROMPT_LOOKUP):
            torch.manual_seed(0)
            state = torch.get_rng_state()
            alone = texts(drafter, requests, 1, 0)
            trial.expect(
                torch.equal(torch.get_rng_state(), state), "global random numbers were consumed"
            )
            torch.manual_seed(1)
            for what, chosen, batch_size in (
                ("in a batch", requests, len(requests)),
                ("in another order and refilled", shuffled, 3),
                ("without some companions", requests[::3], 4),
            ):
                got = texts(drafter, chosen, batch_size, 0)
                trial.equal(got, {name: alone[name] for name in got}, f"{drafter}: texts {what}")
            trial.expect(alone["again"] != alone["and again"], "two requests draw the same numbers")
            trial.expect(texts(drafter, requests, 4, 1) != alone, "another seed changes nothing")
    finally:
        torch.set_rng_state(before)


CHECKS = (
    Check(
        number=19,
        name="seeds",
        group="randomness",
        proves="Each draw has a number of its own, and each request its own source of them.",
        witness="feifeibear/LLMSpeculativeSampling",
        needs=frozenset({Capability.SAMPLING}),
        body=seeds,
    ),
)
