"""What a run knows of a task: all that names groups, other than its documents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """One task of a run.

    Attributes:
        name: lm-eval's name of it.
        metadata: The task's own metadata; may be empty.
        config: What is known of its data set (`dataset_path`, `dataset_name`, `dataset_kwargs`).
    """

    name: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The task's entry in `run.json`."""
        return {"metadata": dict(self.metadata), "config": dict(self.config)}


def facts_of_task(run: Mapping[str, Any], task: str) -> TaskFacts:
    """What `run.json` says of a task; as good as nothing where the run does not know it.

    Args:
        run: As `records.read_run` gives it.
        task: The task's name.
    """
    tasks = run.get("tasks")
    known = tasks.get(task) if isinstance(tasks, dict) else None
    metadata, config = (
        value if isinstance(known, dict) and isinstance(value := known.get(key), dict) else {}
        for key in ("metadata", "config")
    )
    return TaskFacts(task, metadata, config)
