"""The command line in tests: an environment without a network, and what a refusal looks like."""

import os

import pytest

OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a refusal: one printable line, after what lm-eval logged; stdout is empty."""
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "Traceback" not in err, err[-2000:]
    assert lines, "nothing was said"
    assert lines[-1].startswith("specfair: error: "), err[-2000:]
    assert sum("error:" in line for line in lines) == 1, err[-2000:]
    assert not any(line.startswith("usage:") for line in lines)
    assert 20 < len(lines[-1]) < 1000, lines[-1]
    assert lines[-1].isprintable(), lines[-1]
    return str(lines[-1])
