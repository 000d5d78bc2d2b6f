"""The errors of lm-eval, transformers and datasets that say that the user's input is wrong."""

import traceback
from types import FrameType

from lm_eval_specfair.errors import ConfigError

# Where lm-eval and transformers refuse the user's input, rather than fail: the module that raises,
# and the function there if it is only one.
_REFUSALS = {
    ("lm_eval.config.evaluate_config", None),  # tasks not found, options that contradict
    ("lm_eval._cli.utils", None),  # broken JSON in an option
    ("lm_eval.api.registry", "get_model"),
    ("lm_eval.evaluator", "simple_evaluate"),
    ("lm_eval.tasks.manager", "_check_duplicates"),
    ("transformers.utils.hub", None),  # no such model
    ("transformers.models.auto.configuration_auto", None),  # a folder without one
}
# A task is made here from what its YAML says, and its requests from what its rows hold. Whatever
# is raised on the way (by YAML, jinja2, datasets, ...) is about them.
_TASKS = ("lm_eval.tasks", "lm_eval.config.task")
_TASK_METHODS = {"__init__", "build_all_requests"}


def refusal(error: Exception) -> ConfigError | None:
    """The one line for an error of lm-eval's run that is the user's to fix; None for any other."""
    if isinstance(error, ConfigError):
        return error
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module, function in map(_place, frames):
        is_task = module == "lm_eval.api.task" and function in _TASK_METHODS
        if is_task or module.startswith(_TASKS):
            return ConfigError(_about_task(error, frames))
    if frames and isinstance(error, (ValueError, TypeError, OSError)):
        module, function = _place(frames[-1])
        if {(module, None), (module, function)} & _REFUSALS:
            return ConfigError(str(error))
    return None


def _place(frame: FrameType) -> tuple[str, str]:
    return frame.f_globals.get("__name__", ""), frame.f_code.co_name


def _about_task(error: Exception, frames: list[FrameType]) -> str:
    # datasets wraps what it met: the first cause says it.
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split())
    names = (
        getattr(getattr(frame.f_locals.get("self"), "config", None), "task", None)
        for frame in reversed(frames)
        if _place(frame)[0] == "lm_eval.api.task"
    )
    name = next((name for name in names if isinstance(name, str)), None)
    which = f"task {name!r}" if name else "--tasks"
    return (
        f"{which} cannot be used: expected a task file and rows that lm-eval can read, got "
        f"{type(cause).__name__}: {said:.300}"
    )
