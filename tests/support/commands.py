"""The command line in tests: an environment without a network, and what a refusal looks like."""

import os

import pytest

OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of complaint, behind whatever lm-eval logged; stdout stays empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("specfair: error: ") == 1
    assert "Traceback" not in err
    last = str(err.splitlines()[-1])
    assert last.startswith("specfair: error: "), err
    return last
