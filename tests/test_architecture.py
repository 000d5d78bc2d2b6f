"""Who may import whom: the contracts of pyproject.toml, and what a report really loads.

python -m pytest tests/test_architecture.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def test_the_import_contracts_hold():
    # A process of its own: import-linter silences the loggers of whoever calls it.
    code = "import sys; from importlinter.cli import lint_imports as lint; "
    code += "sys.exit(lint(no_cache=True, no_logo=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("room", ["records", "metrics", "reporting"])
def test_reading_a_run_loads_no_torch(room):
    # A subprocess, as other tests of this process have loaded torch; the contract above can't see
    # what a third library imports.
    code = (
        "import importlib, pkgutil, sys\n"
        f"room = importlib.import_module('lm_eval_specfair.{room}')\n"
        "for found in pkgutil.walk_packages(getattr(room, '__path__', []), room.__name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'datasets', 'lm_eval'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import lm_eval_specfair\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    # Without the hook, which would have imported it when Python started.
    environment = os.environ | {"LM_EVAL_SPECFAIR_NO_HOOK": "1"}

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )

    assert done.stdout == "['lm_eval_specfair']\n"
