"""The composite action of `examples/`: its shell steps run here, with a fake `gh`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.synthetic_records import parallel_run, write_folder

ACTION = Path(__file__).parents[2] / "examples" / "gate-action" / "action.yml"
WORKFLOW = ACTION.parents[1] / "gate-workflow.yaml"
BOT = "github-actions[bot]"
MOST_CHARACTERS = 65_536

FAKE_GH = '''#!{python}
"""A fake of GitHub's command line: an issue's comments in a file, listed, made and changed."""
import json, os, sys

store, log = os.environ["FAKE_STORE"], os.environ["FAKE_LOG"]
arguments = sys.argv[1:]
assert arguments.pop(0) == "api"
options = {{"method": "GET", "jq": None, "body": None}}
paths = []
while arguments:
    word = arguments.pop(0)
    if word in ("--paginate", "--silent"):
        continue
    if word in ("--method", "--jq"):
        options[word[2:]] = arguments.pop(0)
    elif word == "-F":
        name, _, value = arguments.pop(0).partition("=@")
        options[name] = open(value, encoding="utf-8").read()
    else:
        paths.append(word)
[path] = paths
with open(log, "a") as file:
    file.write(options["method"] + " " + path + "\\n")
comments = json.load(open(store))
if os.environ.get("FAKE_REFUSES") == options["method"]:
    sys.exit("HTTP 403: Resource not accessible by integration")
if options["body"] is not None and len(options["body"]) > {most}:
    sys.exit("HTTP 422: body is too long")
if options["method"] == "GET":
    assert options["jq"] == (
        ".[] | select(.user.login == env.AUTHOR) | select(.body | startswith(env.MARKER)) | .id"
    )
    for each in comments:
        if each["user"]["login"] == os.environ["AUTHOR"]:
            if each["body"].startswith(os.environ["MARKER"]):
                print(each["id"])
elif options["method"] == "POST":
    assert path == "repos/o/r/issues/7/comments"
    author = {{"login": "{bot}"}}
    comments.append({{"id": 100 + len(comments), "user": author, "body": options["body"]}})
else:
    assert options["method"] == "PATCH"
    [one] = [each for each in comments if path == "repos/o/r/issues/comments/%d" % each["id"]]
    one["body"] = options["body"]
json.dump(comments, open(store, "w"))
'''


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load(ACTION.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, a candidate that is the same, and one that loses."""
    folder = tmp_path_factory.mktemp("runs")
    rates = {"sw": 0.5, "fr": 0.8}
    options = {"num_documents": 8, "num_baselines": 8}
    made = {"served": rates, "same": rates, "worse": {"sw": 0.1, "fr": 0.2}}
    about = {"settings": {"target": "t", "dtype": "float32"}}
    return {
        name: write_folder(folder / name, parallel_run(one, **options), **about)
        for name, one in made.items()
    }


class Runner:
    """What runs an action's shell steps: expressions become environment variables, no more."""

    def __init__(self, action, folder, **inputs):
        self.steps = {step["name"]: step for step in action["runs"]["steps"]}
        self.inputs = {key: each.get("default", "") for key, each in action["inputs"].items()}
        self.inputs |= {name.replace("_", "-"): value for name, value in inputs.items()}
        self.folder = folder
        self.outputs = {}
        fakes = folder / "bin"
        fakes.mkdir()
        source = FAKE_GH.format(python=sys.executable, most=MOST_CHARACTERS, bot=BOT)
        (fakes / "gh").write_text(source)
        (fakes / "gh").chmod(0o755)
        (fakes / "specfair").write_text(
            f"#!{sys.executable}\nimport sys\nfrom lm_eval_specfair.cli import main\n"
            "sys.exit(main())\n"
        )
        (fakes / "specfair").chmod(0o755)
        self.store, self.log = folder / "comments.json", folder / "log"
        self.store.write_text("[]")
        self.environment = os.environ | {
            "PATH": f"{fakes}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "FAKE_STORE": str(self.store),
            "FAKE_LOG": str(self.log),
        }

    def value(self, text):
        known = {
            "runner.temp": str(self.folder),
            "github.event.pull_request.number": "7",
            "github.repository": "o/r",
            "github.server_url": "https://host",
            "github.run_id": "9",
            "github.token": "secret",
            "github.event.pull_request.head.sha": "c0ffee",
            **{f"inputs.{name}": value for name, value in self.inputs.items()},
            **{f"steps.compare.outputs.{name}": each for name, each in self.outputs.items()},
        }
        return re.sub(r"\$\{\{ ([^}]+) \}\}", lambda found: known[found[1]], text)

    def run(self, name, **more):
        step = self.steps[name]
        environment = {key: self.value(value) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            env=self.environment | environment | more,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if (output := self.folder / "output").exists():
            pairs = (line.split("=", 1) for line in output.read_text().splitlines())
            self.outputs |= dict(pairs)
        return done

    @property
    def comments(self):
        return json.loads(self.store.read_text())


def test_one_comment_is_made_and_then_kept_up_to_date(action, runs, tmp_path):
    runner = Runner(action, tmp_path, base=str(runs["served"]), candidates=f"\n{runs['same']}\n")
    stranger = {"id": 3, "user": {"login": "someone"}, "body": "<!-- specfair gate: drafter --> no"}
    runner.store.write_text(json.dumps([stranger]))

    assert runner.run("Compare").returncode == 0
    assert runner.outputs["passed"] == "true"
    assert runner.run("Comment").returncode == 0
    assert runner.run("Judge").returncode == 0
    first = runner.comments
    runner.inputs["candidates"] = str(runs["worse"])
    assert runner.run("Compare").returncode == 0  # the verdict is the last step's
    assert runner.outputs["passed"] == "false"
    assert runner.run("Comment").returncode == 0
    assert runner.run("Judge").returncode == 1
    second = runner.comments

    assert [len(each) for each in (first, second)] == [2, 2]
    assert second[0] == stranger
    posts = [line.split()[0] for line in runner.log.read_text().splitlines()]
    assert posts == ["GET", "POST", "GET", "PATCH"]
    for comments, verdict in ((first, "lets same pass"), (second, "turns worse down")):
        marker, heading, *rest = comments[1]["body"].split("\n")
        assert marker == "<!-- specfair gate: drafter -->"
        assert heading.startswith("# ")
        assert rest[1].startswith(f"- The gate {verdict}")
        assert "<details><summary>" in comments[1]["body"]
        assert "https://host/o/r/actions/runs/9" in comments[1]["body"]
    written = {path.name for path in (tmp_path / "specfair-gate").iterdir()}
    assert {"comparison.html", "comparison.json", "comparison.md", "junit.xml"} <= written
    assert "The gate turns worse down" in (tmp_path / "summary.md").read_text()


def test_a_token_that_may_not_write_ends_nothing(action, runs, tmp_path):
    runner = Runner(action, tmp_path, base=str(runs["served"]), candidates=str(runs["same"]))
    runner.run("Compare")

    done = runner.run("Comment", FAKE_REFUSES="POST")

    assert done.returncode == 0
    assert "::warning::no comment could be written" in done.stdout
    assert runner.run("Judge").returncode == 0


def test_a_run_that_is_not_there_fails_the_check_and_leaves_no_older_verdict(
    action, runs, tmp_path
):
    runner = Runner(action, tmp_path, base=str(runs["served"]), candidates=str(runs["same"]))
    runner.run("Compare")
    runner.run("Comment")
    runner.inputs["candidates"] = str(tmp_path / "none")

    done = runner.run("Compare")

    assert "specfair: error:" in done.stderr
    assert runner.run("Comment").returncode == 0
    [comment] = runner.comments
    assert "could not be compared" in comment["body"]
    assert "Commit c0ffee" in comment["body"]
    assert "lets same pass" not in comment["body"]
    assert runner.run("Judge").returncode == 2


@pytest.mark.parametrize(
    "hostile", ['"; touch broken; "', "$(touch broken)", "-x", "`touch broken`"]
)
def test_inputs_are_never_part_of_a_script(action, runs, tmp_path, hostile):
    runner = Runner(
        action,
        tmp_path,
        **dict.fromkeys(("base", "candidates", "gate", "group_by", "name", "specfair"), hostile),
    )

    for name in ("Compare", "Comment", "Judge"):
        runner.run(name)

    assert not (tmp_path / "broken").exists()
    assert runner.outputs["status"] == "2"


def test_what_pip_installs_is_no_option_of_pip(action, tmp_path):
    done = Runner(action, tmp_path, specfair="--index-url=https://evil").run("Install")

    assert done.returncode == 2
    assert "must be a folder" in done.stderr


def test_scripts_hold_no_expression_and_others_actions_are_pinned(action):
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    steps = [*action["runs"]["steps"], *workflow["jobs"]["gate"]["steps"]]

    for step in steps:
        assert "${{" not in step.get("run", "")
        used = step.get("uses", "./")
        assert used.startswith("./") or re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", used)
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    # Nothing has to be on PyPI: what is installed is always named.
    assert action["inputs"]["specfair"]["required"]
    assert [step["name"] for step in action["runs"]["steps"]][:2] == ["Set up Python", "Install"]
