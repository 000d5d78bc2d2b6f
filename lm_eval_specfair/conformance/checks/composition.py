"""The check of batches whose rows end, move and are refilled."""

import random

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import PROMPT_LOOKUP, Capability, Drafting
from lm_eval_specfair.conformance.checks.common import asks, prompts_of, script
from lm_eval_specfair.conformance.checks.rollback import keeps_all
from lm_eval_specfair.conformance.trial import Trial, check


@check(
    27,
    "composition",
    "found here: our own batches are closed up and refilled",
    Capability.BATCHES,
    Capability.SAMPLING,
)
def moved_rows(trial: Trial) -> None:
    """A row that takes another's place brings its cache and its drafter's state."""
    model = models.target()
    prompts = prompts_of(14, 9, seed=19)
    chance = random.Random(3)
    requests = asks(prompts, [chance.randint(1, 20) for _ in prompts])
    drafters: list[Drafting] = [models.near_drafter(), PROMPT_LOOKUP]
    if trial.can(Capability.SCRIPTED):
        patterns = [(place % 4, 3, 0) for place in range(len(prompts))]
        drafters.append(script(model, prompts, 20, patterns))
    for drafter in drafters:
        trial.greedy(model, drafter, requests, batch_size=4)
    if trial.has(Capability.COUNTS, "the drafter's own rows"):
        keeps_all(trial, requests, "a drafter equal to the target")
