"""The metadata of the tasks that are run, and the data sets that they read.

lm-eval hands a model requests that know only their task's name. But every task builds them by one
method before the model sees them, and `watch` makes it note the task's configuration first.
"""

import functools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task

from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import LANGUAGE_FIELDS

logger = logging.getLogger(__name__)

_LONGEST_TEXT = 200
_LONGEST_LIST = 50

_facts: dict[str, TaskFacts] = {}
# lm-eval adds the model's arguments to every task's metadata; they say nothing about the task. Nor
# does the place of its rows.
_ignored: set[str] = {"config_source", "data_dir", "pretrained"}


def watch(model_arguments: Iterable[str] = ()) -> None:
    """From now on, note what a task says when it builds its requests, but not model arguments."""
    _ignored.update(model_arguments)
    original = Task.build_all_requests
    if hasattr(original, "notes_task_facts"):
        return

    @functools.wraps(original)
    def build_all_requests(self: Task, *args: Any, **kwargs: Any) -> None:
        note(self)
        original(self, *args, **kwargs)
        note_right_choices(self)

    build_all_requests.notes_task_facts = True  # type: ignore[attr-defined]
    Task.build_all_requests = build_all_requests


def note(task: Task) -> None:
    """Note what a task says; never raises, since a run can do without."""
    try:
        config = task.config
        name, metadata = str(config.task), _metadata(getattr(config, "metadata", None))
        _facts[name] = TaskFacts(name, metadata, _config(config), _facts.keys())
    except Exception as error:  # a task of another class may have any configuration
        logger.debug("nothing is known about the task %r: %r", task, error)


def note_right_choices(task: Task) -> None:
    """Note of each request of a multiple-choice task whether it scores a right answer."""
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice":
        return
    try:
        for instance in task.instances:
            instance.is_right_choice = instance.idx in _right_choices(task, instance.doc)
    except Exception as error:  # a task of another class may say it in any way
        logger.debug("the right answers of %r are not known: %r", task, error)


def _right_choices(task: Any, doc: Any) -> list[int]:
    """The numbers of a document's right choices, as lm-eval reads its target."""
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = list(task.doc_to_choice(doc))
    targets = target if isinstance(target, list) else [target]
    return [
        choices.index(each) if isinstance(each, str) and each in choices else int(each)
        for each in targets
    ]


def facts(task: str) -> TaskFacts:
    """What the task of this name said when it last built its requests; empty if it never did."""
    return _facts.get(task) or TaskFacts(task, peers=_facts.keys())


def _metadata(metadata: object) -> dict[str, Any]:
    return {
        str(key): list(value) if isinstance(value, (list, tuple)) else value
        for key, value in (metadata.items() if isinstance(metadata, Mapping) else ())
        if key not in _ignored and _is_fact(value)
    }


def _config(config: object) -> dict[str, Any]:
    path, name, kwargs = (
        getattr(config, key, None) for key in ("dataset_path", "dataset_name", "dataset_kwargs")
    )
    # Of a local folder only its name: where it is stays private.
    path = Path(path).name if isinstance(path, str) and Path(path).is_absolute() else path
    texts = {"dataset_path": path, "dataset_name": name}
    named = {key: kwargs.get(key) for key in LANGUAGE_FIELDS} if isinstance(kwargs, Mapping) else {}
    language = {key: value for key, value in named.items() if isinstance(value, str) and value}
    return {
        **{key: text for key, text in texts.items() if isinstance(text, str) and _is_fact(text)},
        **({"dataset_kwargs": language} if language else {}),
    }


def _is_fact(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        flat = all(not isinstance(item, (list, tuple)) and _is_fact(item) for item in value)
        return flat and 0 < len(value) <= _LONGEST_LIST
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")  # JSON has no others
    return isinstance(value, (bool, int)) or (
        isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT
    )
