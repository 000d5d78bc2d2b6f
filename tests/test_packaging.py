"""The wheel and the editable install, each in an environment of its own, outside of the checkout.

    python -m pytest tests/test_packaging.py -m slow

The environments borrow the dependencies of this one, so nothing is downloaded; `make dist` does
the same with a complete installation.
"""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from lm_eval_specfair import __version__

from support.environments import CHECKOUT, Environment

pytestmark = pytest.mark.slow

LM_EVAL = Path(sysconfig.get_path("scripts")) / "lm_eval"


def pip(environment: Environment, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", environment.python, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def files_of(environment: Environment) -> set[str]:
    found = {environment.site_packages, environment.folder / "bin"}
    return {
        str(path.relative_to(environment.folder))
        for folder in found
        for path in folder.rglob("*")
        if path.is_file()  # pip leaves empty folders of an editable install behind
        and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that a file missing there is missed here."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CHECKOUT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_tasks_weights_hook_and_types_but_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    for source, parent in (("task_configs", CHECKOUT), ("embedded", CHECKOUT / "lm_eval_specfair")):
        data = {
            f"lm_eval_specfair/{path.relative_to(parent)}"
            for path in (parent / source).rglob("*")
            if path.is_file()
        }
        assert data
        assert data <= names
    assert {
        "lm_eval_specfair.pth",
        "lm_eval_specfair.start",
        "lm_eval_specfair/py.typed",
        f"lm_eval_specfair-{__version__}.dist-info/licenses/LICENSE",
    } <= names
    assert not {name for name in names if name.startswith(("tests", "experiments", "results"))}


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_plain_lm_eval_finds_the_tasks_and_uninstalling_leaves_nothing(how, wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    before = files_of(environment)
    given = [wheel] if how == "wheel" else ["--no-build-isolation", "--editable", CHECKOUT]
    pip(environment, "install", "--no-deps", "--no-index", *given)

    expected = environment.package if how == "wheel" else CHECKOUT
    path = environment.run("-m", "lm_eval_specfair", "tasks-path")
    assert path.stdout.strip() == str(expected / "task_configs")

    # Half a minute each: both ways to start it once, from the wheel.
    for command in ([LM_EVAL], ["-m", "lm_eval"])[: 2 if how == "wheel" else 1]:
        listed = environment.run(*command, "ls", "tasks")
        assert "specfair_demo" in listed.stdout, listed.stderr

    script = environment.run(environment.folder / "bin" / "specfair", "--version")
    assert script.stdout.startswith("specfair 0."), script.stderr

    pip(environment, "uninstall", "--yes", "lm_eval_specfair")
    assert files_of(environment) == before
    assert "specfair" not in environment.run("-c", "import sys; print(sys.meta_path)").stdout


def test_the_entry_points_name_things_that_exist(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"lm_eval_specfair-{__version__}.dist-info/entry_points.txt").decode()
        names = set(archive.namelist())

    assert "specfair = lm_eval_specfair.cli:main" in text
    assert "specfair = lm_eval_specfair.harness.model:SpecFairLM" in text
    assert "lm_eval_specfair/harness/model.py" in names
