"""Scripts as modules: each folder of `experiments` imports from itself alone."""

import sys
from pathlib import Path

import pytest

PRETRAINED = Path(__file__).parents[2] / "experiments" / "pretrained"


@pytest.fixture(scope="module")
def pretrained_scripts():
    """The scripts on public models can be imported by name."""
    sys.path.insert(0, str(PRETRAINED))
    yield
    sys.path.remove(str(PRETRAINED))
