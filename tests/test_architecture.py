"""The shape of the house: who may import whom, how large things are, and what they are called.

python -m pytest tests/test_architecture.py
"""

import ast
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = CHECKOUT / "lm_eval_specfair", CHECKOUT / "tests"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.startswith("__")]
ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
MOST_MODULES, MOST_LINES = 14, 300


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


def several(names_and_places) -> dict[str, list[str]]:
    """The names that occur at more than one place."""
    places = defaultdict(list)
    for name, place in names_and_places:
        places[name].append(str(place.relative_to(CHECKOUT)))
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_folder_has_too_many_modules():
    in_folder = defaultdict(int)
    for path in MODULES:
        in_folder[str(path.parent.relative_to(CHECKOUT))] += 1

    assert not {name: number for name, number in in_folder.items() if number > MOST_MODULES}


def test_no_module_is_too_long():
    lines = {
        str(path.relative_to(CHECKOUT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
    }

    assert not {name: number for name, number in lines.items() if number > MOST_LINES}


def test_no_two_modules_have_one_name():
    assert not several((path.stem, path) for path in MODULES)


def test_no_two_public_classes_have_one_name():
    classes = [
        (node.name, path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]

    assert not several(classes)


def test_every_module_says_what_it_is():
    first_lines = {
        path: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        for path in MODULES
    }

    assert not [path for path, line in first_lines.items() if not line.endswith((".", "?"))]


def test_tests_are_in_the_folder_of_their_room():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.glob("*.py"))}

    # tests/ is on the path: a folder of the name of a package would stand for it.
    assert folders <= (ROOMS - {"vllm"}) | {"on_vllm", "support", "experiments", "docs"}


def test_no_test_module_imports_another():
    names = {path.stem for path in TESTS.rglob("test_*.py")}
    imported = defaultdict(set)
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                words = [alias.name for alias in node.names]
                words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found = {part for word in words for part in word.split(".")} & names
                imported[str(path.relative_to(CHECKOUT))] |= found

    assert not {path: found for path, found in imported.items() if found}
