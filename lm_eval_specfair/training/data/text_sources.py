"""The sources of items: a path, `task:NAME` (prompts of lm-eval tasks), or `datasets:ID`."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import NO_GROUP, group_of
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import language_in_name
from lm_eval_specfair.training.data.items import Item, from_rows, read_path

logger = logging.getLogger(__name__)


def read_source(name: str, *, task_folders: list[str] | None = None) -> list[Item]:
    """Items of a path, of `task:NAME,NAME`, or of `datasets:ID[:CONFIG][:SPLIT]`.

    Tasks give the prompts of their training documents, grouped by the task's language where a
    report would know it, else by task. A data set, of the hub or a local folder, has the columns of
    a JSON Lines file. `task_folders` have further tasks.

    Raises:
        ConfigError: If it cannot be read.
    """
    kind, _, rest = name.partition(":")
    if kind == "task" and rest:
        return _task_prompts(rest.split(","), task_folders or [])
    if kind == "datasets" and rest:
        return _dataset(rest)
    return read_path(Path(name))


def _task_prompts(names: list[str], folders: list[str]) -> list[Item]:
    from lm_eval.tasks import TaskManager

    try:
        tasks = TaskManager(include_path=list(folders) or None).load(names)["tasks"]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"--data task: expected names that `lm_eval ls tasks` lists, got {', '.join(names)} "
            f"({error})"
        ) from error
    items: list[Item] = []
    for name, task in sorted(tasks.items()):
        if not (task.has_training_docs() or task.has_validation_docs()):
            raise ConfigError(
                f"--data task:{name} has neither training nor validation documents; its test "
                "documents are for measuring, so pass other prompts as JSON Lines"
            )
        in_training = task.has_training_docs()
        documents = task.training_docs() if in_training else task.validation_docs()
        # The same rules as in a report, so that what is mended is what was measured.
        group = group_of(_facts(name, task, tasks), {}, "language")
        group = name if group == NO_GROUP else group
        rest = language_in_name(name).rest
        rows = [
            {"prompt": task.doc_to_text(document), "group": group, "item": f"{rest}/{n}"}
            for n, document in enumerate(documents)
        ]
        items.extend(from_rows(rows, f"task {name}"))
    return items


def _facts(name: str, task: Any, tasks: Collection[str]) -> TaskFacts:
    metadata = getattr(task.config, "metadata", None)
    keys = ("dataset_path", "dataset_name", "dataset_kwargs")
    config = {key: getattr(task.config, key, None) for key in keys}
    return TaskFacts(name, metadata if isinstance(metadata, dict) else {}, config, tasks)


def _dataset(name: str) -> list[Item]:
    import datasets

    path, _, rest = name.partition(":")
    config, _, split = rest.rpartition(":")
    try:
        rows = datasets.load_dataset(path, config or None, split=split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--data datasets:{name}: expected a data set that can be reached, as ID, ID:SPLIT or "
            f"ID:CONFIG:SPLIT ({type(error).__name__}: {str(error).splitlines()[0]:.160})"
        ) from error
    return from_rows(rows, f"data set {path}")
