"""Version, citation, changelog, workflows and templates agree with the package."""

import json
import re
import tomllib
from importlib.metadata import version

import pytest
import yaml

from lm_eval_specfair import __version__

from support.markdown import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = {
    name
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    if (rule := re.match(r"([\w -]+):(?!=)", line))
    for name in rule[1].split()
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "lm_eval_specfair/__init__.py"
    assert version("lm_eval_specfair") == __version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == __version__
    assert re.search(rf"^## \[{re.escape(__version__)}\]", read("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_read_and_call_targets_that_exist(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert all(job["runs-on"] for job in jobs.values())
    named = set(re.findall(r"make ([\w-]+)(?!\S)", "\n".join(commands)))
    assert {name for name in named if not name.endswith("-")} <= TARGETS


def test_ci_tests_every_python_and_the_oldest_and_newest_dependencies():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert jobs["versions"]["strategy"]["matrix"]["which"] == ["oldest", "newest"]
    assert {"check", "wheel", "docs", "slow"} <= set(jobs)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_issue_templates_have_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert ids
    assert len(ids) == len(set(ids))


def test_the_readme_is_short_and_its_table_is_that_of_the_published_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "docs")
    import readme_table

    import lm_eval_specfair as sf

    text = read("README.md")
    assert len(text.splitlines()) <= 130
    assert text == readme_table.page(text, readme_table.table(sf.report(readme_table.RUN))), (
        "run: python tools/docs/readme_table.py"
    )


def test_every_command_of_a_published_run_is_told():
    for name in ("demo_batch_1", "embedded_pair"):
        run = json.loads(read(f"results/{name}/run.json"))
        told = read("results/README.md")
        assert f"--model_args {run['command'][-1]}`" in told
        assert f"--batch_size {run['settings']['batch_size']} " in told
