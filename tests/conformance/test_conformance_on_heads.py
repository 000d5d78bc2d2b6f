"""The conformance suite on heads: no check of a decoder fails with one."""

import pytest

from lm_eval_specfair.conformance import backends
from lm_eval_specfair.conformance.suite import chosen, run_checks
from lm_eval_specfair.conformance.trial import Status

# What it knows of the drafting model's own steps is not a head's.
OF_A_MODEL = {"replay"}


@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_no_check_fails_with_heads():
    backend = backends.load("specfair-heads")
    checks = [check for check in chosen([]) if check.name not in OF_A_MODEL]
    results = run_checks(backend, checks)
    status = {result.check.name: result.outcome for result in results}
    failed = {name: each for name, each in status.items() if each.status is Status.FAILED}
    assert not failed
    assert sum(each.status is Status.PASSED for each in status.values()) > 15
