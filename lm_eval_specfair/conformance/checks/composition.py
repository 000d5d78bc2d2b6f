"""Who shares a batch, and who takes whose place in it."""

import random

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Capability,
    Drafting,
    Settings,
)
from lm_eval_specfair.conformance.checks.common import asks, script
from lm_eval_specfair.conformance.checks.rollback import keeps_all
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial


def moved_rows(trial: Trial) -> None:
    """Rows end in every order, are closed up and refilled; each keeps its own cache and drafts."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(14, longest=9, vocab_size=260, seed=19)]
    chance = random.Random(3)
    lengths = [chance.randint(1, 20) for _ in prompts]
    requests = asks(prompts, lengths)
    drafters: list[Drafting] = [models.near_drafter(), PROMPT_LOOKUP]
    if Capability.SCRIPTED in trial.backend.capabilities:
        patterns = [(place % 4, 3, 0) for place in range(len(prompts))]
        drafters.append(script(model, prompts, 20, patterns))
    for drafter in drafters:
        answers = trial.decode(model, drafter, requests, Settings(batch_size=4))
        trial.judge(model, requests, answers)
    if trial.has(Capability.COUNTS, "the drafter's own rows"):
        keeps_all(trial, model, models.twin(), requests, "a drafter equal to the target")


CHECKS = (
    Check(
        number=27,
        name="moved-rows",
        group="composition",
        proves="A row that takes another's place brings its cache and its drafter's state.",
        witness="found here: our own batches are closed up and refilled",
        needs=frozenset({Capability.BATCHES, Capability.SAMPLING}),
        body=moved_rows,
    ),
)
