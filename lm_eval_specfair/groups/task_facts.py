"""Facts of a task that a run keeps: all that names groups, other than its documents."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# What says nothing at the end of a name: numbers of prompts and settings.
_SETTINGS = re.compile(r"([_-](prompt[_-]?\d+|p\d+|v\d+(\.\d+)*|\d+|\d*-?shots?|gen|mc\d?|cot))+$")


@dataclass(frozen=True)
class TaskFacts:
    """One task of a run.

    `config` has `dataset_path`, `dataset_name`, and those of `dataset_kwargs` that name a language;
    `peers` are the names of the run's tasks, or none where they are not known.
    """

    name: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    peers: Collection[str] = ()

    @cached_property
    def last_words(self) -> frozenset[str]:
        """The last words of those tasks of the run that differ from this one in them alone."""
        head, _, settings = split_name(self.name)
        parts = (split_name(name) for name in self.peers if name.startswith(head))
        return frozenset(word for start, word, end in parts if (start, end) == (head, settings))

    def to_json(self) -> dict[str, Any]:
        """The task's entry in `run.json`."""
        return {"metadata": dict(self.metadata), "config": dict(self.config)}


def split_name(task: str) -> tuple[str, str, str]:
    """A task's name before its last word, that word, and the settings that follow it.

    Example:
        >>> split_name("my_task_de_5shot"), split_name("de")
        (('my_task', 'de', '_5shot'), ('', 'de', ''))
    """
    stem = _SETTINGS.sub("", task)
    parts = re.fullmatch("(.*)[_-]([^_-]*)", stem, re.DOTALL)
    head, word = (parts[1], parts[2]) if parts else ("", stem)
    return head, word, task[len(stem) :]


def facts_of_task(
    run: Mapping[str, Any], task: str, peers: Collection[str] | None = None
) -> TaskFacts:
    """What `run.json` says of a task; `peers` are by default the tasks that it has."""
    tasks = run.get("tasks")
    tasks = tasks if isinstance(tasks, dict) else {}
    known = tasks.get(task)
    metadata, config = (
        value if isinstance(known, dict) and isinstance(value := known.get(key), dict) else {}
        for key in ("metadata", "config")
    )
    return TaskFacts(task, metadata, config, tasks if peers is None else peers)
