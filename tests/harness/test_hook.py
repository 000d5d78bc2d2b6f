"""The hook in real interpreters: an environment of its own, with a copy of the package in it.

    python -m pytest tests/harness/test_hook.py

The copy has one toy task, so nothing here depends on the task files of the checkout.
"""

import shutil
import sys
from pathlib import Path

import pytest

from support.environments import CHECKOUT, Environment

TOY_TASK = "task: {name}\ndataset_path: json\noutput_type: generate_until\n"


def write_toy_task(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(TOY_TASK.format(name=name))
    return folder


def with_a_copy(folder: Path) -> Environment:
    environment = Environment(folder)
    shutil.copytree(
        CHECKOUT / "lm_eval_specfair",
        environment.package,
        ignore=shutil.ignore_patterns("__pycache__", "embedded"),
    )
    shutil.copy(CHECKOUT / "lm_eval_specfair.pth", environment.site_packages)
    write_toy_task(environment.package / "task_configs", "toy_ours")
    return environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return with_a_copy(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def breakable(tmp_path: Path) -> Environment:
    return with_a_copy(tmp_path / "breakable")


# Without the json module, whose own imports would hide what the hook imports.
LOADED = """import sys; print(str(sorted(sys.modules)).replace("'", '"'))"""


def test_a_start_of_python_loads_three_small_modules_and_no_more(installed):
    with_hook = set(installed.value(LOADED))
    without = set(installed.value(LOADED, LM_EVAL_SPECFAIR_NO_HOOK="1"))

    assert with_hook - without == {
        "lm_eval_specfair",
        "lm_eval_specfair.harness",
        "lm_eval_specfair.harness.hook",
    }
    assert not with_hook & {"lm_eval", "torch", "transformers"}


def test_the_variable_switches_the_automatic_hook_off_but_not_an_explicit_call(installed):
    code = (
        "import json, sys\n"
        "def hooked(): return any('specfair' in type(f).__module__ for f in sys.meta_path)\n"
        "before = hooked()\n"
        "from lm_eval_specfair.harness import hook\n"
        "hook.autostart(); still = hooked()\n"
        "hook.install(); print(json.dumps([before, still, hooked()]))"
    )

    off = installed.value(code, LM_EVAL_SPECFAIR_NO_HOOK="1")

    assert off == [False, False, True]


def test_the_model_is_registered_by_name_beside_the_built_in_ones(installed):
    # Registry first: a model registered before lm_eval.models is imported would hide all others.
    code = (
        "import json, sys\n"
        "from lm_eval.api.registry import get_model, model_registry\n"
        "dummy = get_model('dummy').__name__\n"
        "names = list(model_registry.keys())\n"
        "ours = model_registry._objs['specfair']\n"
        "loaded = [m for m in ('lm_eval_specfair.harness.model',) if m in sys.modules]\n"
        "print(json.dumps([dummy, 'hf' in names, 'vllm' in names, ours, loaded]))"
    )

    assert installed.value(code) == [
        "DummyLM",
        True,
        True,
        "lm_eval_specfair.harness.model:SpecFairLM",
        [],
    ]


def test_tasks_are_found_beside_the_users_own_in_every_form_of_include_path(installed, tmp_path):
    one = write_toy_task(tmp_path / "one", "toy_one")
    two = write_toy_task(tmp_path / "two", "toy_two")
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from lm_eval.tasks import TaskManager\n"
        f"one, two = {str(one)!r}, {str(two)!r}\n"
        "def names(*args, **kwargs):\n"
        "    manager = TaskManager(*args, include_defaults=False, **kwargs)\n"
        "    return manager.all_tasks\n"
        "print(json.dumps([\n"
        "    names(), names(include_path=None), names(None, one), names(include_path=one),\n"
        "    names(include_path=Path(one)), names(include_path=[one, Path(two)]),\n"
        "    names(include_path=(two,)), names(include_path='')]))"
    )

    ours, with_one, with_two = ["toy_ours"], ["toy_one", "toy_ours"], ["toy_ours", "toy_two"]
    assert installed.value(code) == [
        *(ours, ours, with_one, with_one, with_one),
        *(["toy_one", "toy_ours", "toy_two"], with_two, ours),
    ]


def test_the_users_task_wins_over_ours_of_the_same_name(installed, tmp_path):
    theirs = write_toy_task(tmp_path / "theirs", "toy_ours")
    code = (
        "import json, logging; logging.disable(logging.WARNING)\n"
        "from lm_eval.tasks import TaskManager\n"
        f"manager = TaskManager(include_path={str(theirs)!r}, include_defaults=False)\n"
        "print(json.dumps(str(manager.task_index['toy_ours'].yaml_path.parent)))"
    )

    assert installed.value(code) == str(theirs)


@pytest.mark.slow
def test_built_in_tasks_stay_known(installed):
    code = (
        "import json\n"
        "from lm_eval.tasks import TaskManager\n"
        "names = set(TaskManager().all_tasks)\n"
        "print(json.dumps(sorted({'toy_ours', 'hellaswag', 'mgsm_direct_sw'} & names)))"
    )

    assert installed.value(code) == ["hellaswag", "mgsm_direct_sw", "toy_ours"]


def test_installing_twice_or_late_is_the_same_as_once(installed):
    code = (
        "import json, sys\n"
        "import lm_eval.models, lm_eval.tasks\n"
        "from lm_eval.api.registry import model_registry\n"
        "from lm_eval_specfair.harness import hook\n"
        "hook.install(); hook.install()\n"
        "from lm_eval.tasks.manager import TaskManager\n"
        "once = not hasattr(TaskManager.__init__.__wrapped__, '__wrapped__')\n"
        "finders = sum('specfair' in type(f).__module__ for f in sys.meta_path)\n"
        "tasks = TaskManager(include_defaults=False).all_tasks\n"
        "print(json.dumps([once, finders, tasks, 'specfair' in model_registry]))"
    )

    expected = [True, 1, ["toy_ours"], True]
    assert installed.value(code) == expected
    assert installed.value(code, LM_EVAL_SPECFAIR_NO_HOOK="1") == expected


def test_only_our_own_errors_are_one_line_in_lm_evals_command_line(installed):
    code = "import lm_eval._cli; from lm_eval_specfair.errors import ConfigError; raise {}"

    ours = installed.run("-c", code.format("ConfigError('a word')"))
    assert (ours.returncode, ours.stderr) == (1, "lm_eval: error: a word\n")
    theirs = installed.run("-c", code.format("ValueError('a word')"))
    assert theirs.returncode == 1
    assert theirs.stderr.startswith("Traceback")
    assert theirs.stderr.endswith("ValueError: a word\n")


def test_a_folder_that_lm_eval_or_the_user_already_reads_is_not_read_twice(installed):
    code = (
        "import json\n"
        "from lm_eval.tasks import manager\n"
        "from lm_eval_specfair.harness.paths import task_configs_dir\n"
        "ours = task_configs_dir()\n"
        "def paths(**kwargs):\n"
        "    built = manager.TaskManager(include_defaults=False, **kwargs).include_path\n"
        "    return [str(path) for path in built]\n"
        "given = paths(include_path=ours)\n"
        # The shape of lm-eval's pull request 4015.
        "manager.discover_plugin_task_paths = lambda: [ours]\n"
        "print(json.dumps([given, paths(), str(ours)]))"
    )

    given, native, ours = installed.value(code)

    assert given == [ours]
    assert native == []


@pytest.mark.parametrize("content", ["raise RuntimeError('boom')", "def (", "raise OSError('x')"])
def test_a_broken_hook_is_a_warning_and_python_starts(breakable, content):
    (breakable.package / "harness" / "hook.py").write_text(content)

    done = breakable.run("-c", "print('started')")

    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "its hook is off" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hook_whose_package_is_gone_is_silent(breakable):
    # An editable checkout that was moved away.
    shutil.rmtree(breakable.package)

    done = breakable.run("-W", "error", "-c", "print('started')")

    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_a_failing_follow_up_is_a_warning_and_lm_eval_goes_on(breakable, tmp_path):
    shutil.rmtree(breakable.package / "task_configs")
    theirs = write_toy_task(tmp_path / "theirs", "toy_theirs")
    code = (
        "from lm_eval.tasks import TaskManager\n"
        f"print(TaskManager(include_path={str(theirs)!r}, include_defaults=False).all_tasks)"
    )

    for options in ((), ("-W", "error::RuntimeWarning")):
        done = breakable.run(*options, "-c", code)
        assert (done.returncode, done.stdout) == (0, "['toy_theirs']\n"), done.stderr
        assert "expected a task_configs folder" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_lm_eval_of_another_shape_is_a_warning(breakable):
    # A later lm-eval whose TaskManager takes no include_path and whose registry has moved.
    other = breakable.site_packages / "lm_eval"
    for name, text in {
        "__init__.py": "",
        "models/__init__.py": "",
        "tasks/__init__.py": "",
        "tasks/manager.py": "class TaskManager:\n    pass\n",
    }.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(text)

    done = breakable.run("-c", "import lm_eval.models, lm_eval.tasks.manager as m; m.TaskManager()")

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 2


def test_the_line_for_python_3_15_names_the_same_function_as_the_pth_line():
    module, _, function = (CHECKOUT / "lm_eval_specfair.start").read_text().strip().partition(":")
    line = (CHECKOUT / "lm_eval_specfair.pth").read_text()

    assert (module, function) == ("lm_eval_specfair.harness.hook", "autostart")
    assert f"__import__('{module}'" in line
    assert f".{function}()" in line
    assert line.count("\n") == 1, "site runs each line of a .pth by itself"
    assert hasattr(sys.modules.get(module) or __import__(module, fromlist=["_"]), function)
