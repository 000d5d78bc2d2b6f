"""Each bug class is put into our engine, and the check of its name sees it."""

import pytest

from lm_eval_specfair.conformance.backends import load as load_backend
from lm_eval_specfair.conformance.backends import specfair
from lm_eval_specfair.conformance.suite import CHECKS
from lm_eval_specfair.conformance.trial import Status
from lm_eval_specfair.decoding.models import CausalModel

from support.mutants import MUTANTS, Mutant, rule, sampled_rule

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture
def fresh_models():
    """Models are wrapped anew, so that no refusal or wrapper of another test is used."""
    specfair.wrapped_model.cache_clear()
    yield
    specfair.wrapped_model.cache_clear()


def label(mutant: Mutant) -> str:
    return f"{mutant.number}: {mutant.what}"


@pytest.mark.usefixtures("fresh_models")
@pytest.mark.parametrize("mutant", MUTANTS, ids=label)
def test_the_check_of_its_name_sees_the_bug(monkeypatch, mutant):
    # The trial at loading sees some of these too: here the suite must see them by itself.
    monkeypatch.setattr(CausalModel, "_refuse_by_trial", lambda self: None)
    mutant.apply(monkeypatch)
    backend = load_backend("specfair")
    backend.num_samples = 1_500
    outcome = BY_NAME[mutant.check].run(backend, first_only=True)
    assert outcome.status is Status.FAILED, outcome
    assert outcome.errors


def test_every_check_has_a_mutant_of_its_number():
    assert {(check.number, check.name) for check in CHECKS} == {
        (mutant.number, mutant.check) for mutant in MUTANTS
    }


@pytest.mark.parametrize("name", ["residual", "bonus-token"])
def test_the_rule_that_mutants_are_made_of_is_right_where_nothing_is_changed(monkeypatch, name):
    sampled_rule()(monkeypatch)
    assert specfair.acceptance.accept_sampled.__qualname__.startswith(rule.__name__)
    assert BY_NAME[name].run(load_backend("specfair")).status is Status.PASSED
