"""The suite on drafters that are fitted, or look up first: they stand where it asks for others.

python -m pytest tests/conformance/test_fitted_conformance.py -m slow
"""

import pytest

from lm_eval_specfair.conformance.adapter import PROMPT_LOOKUP
from lm_eval_specfair.conformance.backends import specfair as backend
from lm_eval_specfair.conformance.suite import CHECKS
from lm_eval_specfair.conformance.trial import Status
from lm_eval_specfair.decoding.drafters import ModelDrafter
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore

from support.decoding_runs import CPU
from support.fitted_drafters import ngram_drafter, trusted_first

TEXTS = [[5, 6, 7, 8, 9, 5, 6, 7, 3], [11, 12, 13, 11, 12, 14, 200, 201, 5, 6, 8]]
# These are about the drafts of a model that is the target's equal, or near it.
OF_MODELS_ALONE = {"drafter-distribution", "drafter-cache", "padding", "moved-rows", "replay"}
OF_GOOD_MODELS = {"padded-vocabulary", "greedy-by-chance"}

pytestmark = pytest.mark.slow


def looking_up_first(make):
    def drafter(asked, target):
        made = make(asked, target)
        if asked == PROMPT_LOOKUP:
            return SuffixLookup(CPU, TextStore(TEXTS))
        if isinstance(made, ModelDrafter):
            return trusted_first(made, target.vocab_size)
        return made

    return drafter


def by_ngrams(make):
    def drafter(asked, target):
        made = make(asked, target)
        if asked == PROMPT_LOOKUP or isinstance(made, ModelDrafter):
            texts = [[token % target.vocab_size for token in text] for text in TEXTS]
            return ngram_drafter(texts, target.vocab_size)
        return made

    return drafter


@pytest.mark.parametrize(
    ("check", "instead"),
    [
        pytest.param(check, instead, id=f"{check.name}-{instead.__name__}")
        for check in CHECKS
        for instead in (looking_up_first, by_ngrams)
        if check.name not in OF_MODELS_ALONE
        and not (instead is by_ngrams and check.name in OF_GOOD_MODELS)
    ],
)
def test_the_suite_passes_with_them_in_place_of_models_and_prompt_lookup(
    monkeypatch, check, instead
):
    monkeypatch.setattr(backend, "_drafter", instead(backend._drafter))
    ours = backend.SpecfairBackend()
    ours.num_samples = 1_500
    outcome = check.run(ours)
    assert not outcome.errors
    assert outcome.status is Status.PASSED
