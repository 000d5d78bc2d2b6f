"""The hook that registers this package's model and tasks, without touching lm-eval's files.

lm-eval 0.4.13 reads no entry points, so ``lm_eval --model specfair`` would not find the model.
``install`` puts one finder on ``sys.meta_path``. It stays idle until one of three of its modules is
imported, and acts once that import is done:

- ``lm_eval.models``: the model ``specfair`` joins the registry, by name, without being imported;
- ``lm_eval.tasks.manager``: ``TaskManager`` also looks into this package's ``task_configs``;
- ``lm_eval._cli``: prints ``ConfigError`` as one line instead of a traceback.

Two callers: ``lm_eval_specfair.pth`` (Python 3.15 on: ``lm_eval_specfair.start``) calls
``autostart`` whenever Python starts, unless ``LM_EVAL_SPECFAIR_NO_HOOK`` is set;
``specfair run`` calls ``install``. So this module imports only ``sys``, and any failure in it
becomes a warning: it runs in programs that have nothing to do with lm-eval.
"""

import sys

TYPE_CHECKING = False  # type checkers take it as true; importing typing costs every Python start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType
    from typing import Any

_MODEL = "lm_eval_specfair.harness.model:SpecFairLM"


def autostart() -> None:
    """Call ``install`` unless the environment variable LM_EVAL_SPECFAIR_NO_HOOK is set."""
    import os  # loaded by then, as site needs it

    if not os.environ.get("LM_EVAL_SPECFAIR_NO_HOOK"):
        install()


def install() -> None:
    """Register the model and the tasks, now or as soon as lm-eval is imported.

    A second call does nothing.
    """
    for name, follow_up in _FOLLOW_UPS.items():
        module = sys.modules.get(name)
        if module is not None:
            _guarded(follow_up, module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Leaves the finding to the other finders; adds a follow-up to the three modules' import."""

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        follow_up = _FOLLOW_UPS.get(fullname)
        if follow_up is None:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None:
                _guarded(_extend_loader, spec, follow_up)
                return spec
        return None


def _extend_loader(spec: "ModuleSpec", follow_up: "Callable[[ModuleType], None]") -> None:
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        execute(module)
        _guarded(follow_up, module)

    # On the instance: this loader belongs to this one import.
    loader.exec_module = exec_module


def _register_model(_models: "ModuleType") -> None:
    # Only now: lm-eval imports its built-in models only while the registry is empty.
    from lm_eval.api.registry import model_registry

    if "specfair" not in model_registry:  # a later lm-eval has read the entry point itself
        model_registry.register("specfair", target=_MODEL)


def _add_tasks(manager: "ModuleType") -> None:
    import functools
    import inspect

    original = manager.TaskManager.__init__
    if hasattr(original, "adds_specfair_tasks"):
        return
    signature = inspect.signature(original)
    if "include_path" not in signature.parameters:
        raise TypeError("TaskManager no longer takes include_path")

    def added(self: object, *args: "Any", **kwargs: "Any") -> "tuple[Any, ...]":
        bound = signature.bind(self, *args, **kwargs)
        bound.arguments["include_path"] = _with_own_tasks(
            bound.arguments.get("include_path"), manager
        )
        return bound.args, bound.kwargs

    @functools.wraps(original)
    def init(self: object, *args: "Any", **kwargs: "Any") -> None:
        changed = _guarded(added, self, *args, **kwargs)
        if changed is None:
            original(self, *args, **kwargs)
        else:
            original(*changed[0], **changed[1])

    init.adds_specfair_tasks = True  # type: ignore[attr-defined]
    manager.TaskManager.__init__ = init


def _shorten_errors(_cli: "ModuleType") -> None:
    original = sys.excepthook
    if hasattr(original, "knows_specfair_errors"):
        return

    def show(kind: "type[BaseException]", error: BaseException, trace: "Any") -> None:
        from lm_eval_specfair.errors import ConfigError

        if isinstance(error, ConfigError):
            sys.stderr.write(f"lm_eval: error: {error}\n")
        else:
            original(kind, error, trace)

    show.knows_specfair_errors = True  # type: ignore[attr-defined]
    sys.excepthook = show


def _with_own_tasks(include_path: "Any", manager: "ModuleType") -> "list[str | Path]":
    """This package's folder, then the user's: in lm-eval the later one wins where names clash."""
    from pathlib import Path

    from lm_eval_specfair.harness.paths import task_configs_dir

    folders = include_path if isinstance(include_path, (list, tuple)) else [include_path]
    folders = [folder for folder in folders if folder]
    own = task_configs_dir()
    # lm-eval's pull request 4015 makes it read the entry point lm_eval.tasks by this function.
    discover = getattr(manager, "discover_plugin_task_paths", tuple)
    known = {Path(folder).resolve() for folder in (*folders, *discover())}
    return folders if own in known else [own, *folders]


def _guarded(function: "Callable[..., Any]", *args: "Any", **kwargs: "Any") -> "Any":
    """The function's result; None, and a warning, where it fails."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        _warn(f"lm_eval_specfair: its model or tasks could not be added to lm-eval: {error!r}")
        return None


def _warn(message: str) -> None:
    import warnings

    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        # "python -W error" makes it an exception, and this may be another program's start.
        if sys.stderr is not None:
            sys.stderr.write(f"{message}\n")


_FOLLOW_UPS: "dict[str, Callable[[ModuleType], None]]" = {
    "lm_eval.models": _register_model,
    "lm_eval.tasks.manager": _add_tasks,
    "lm_eval._cli": _shorten_errors,
}
