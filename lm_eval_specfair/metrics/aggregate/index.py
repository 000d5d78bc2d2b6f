"""Integer ids of tasks, runs, groups and group sets."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.groups import assign as grouping
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups


class RequestIndex:
    """Ids in the order in which requests name them."""

    def __init__(self, group_by: str, mapping: UserGroups) -> None:
        self._group_by = group_by
        self._mapping = mapping
        self.groups: dict[str, int] = {}
        self.sets: dict[tuple[int, ...], int] = {}  # of groups' numbers, that requests belong to
        self.tasks: dict[str, int] = {}
        self.suites: list[str] = []  # of each task: its name without the part that names the group
        self.runs: dict[str, int] = {}
        self._known: dict[tuple[int, int, str], int] = {}
        self._assigned: dict[tuple[int, int, str], tuple[str, tuple[grouping.Assignment, ...]]] = {}
        self._counts: Counter[tuple[int, int, str]] = Counter()
        self._resources: dict[str, set[str]] = {}

    def of(
        self, facts: TaskFacts, document: Mapping[str, Any], run: str, count: int
    ) -> tuple[int, int]:
        """The numbers of the set of groups and of the task of some requests that say the same."""
        task = self.tasks.setdefault(facts.name, len(self.tasks))
        if task == len(self.suites):
            self.suites.append(grouping.parallel_key(facts.name, 0, self._group_by)[0])
        number = self.runs.setdefault(run, len(self.runs))
        # Documents of a task that say the same of themselves have the same groups.
        facts_key = (number, task, repr(document) if document else "")
        if facts_key not in self._known:
            assigned, classes = (
                grouping.assignments(facts, document, key, self._mapping)
                for key in (self._group_by, "resource_class")
            )
            groups = tuple(self.groups.setdefault(g.group, len(self.groups)) for g in assigned)
            self._assigned[facts_key] = facts.name, assigned
            self._known[facts_key] = self.sets.setdefault(groups, len(self.sets))
            resource = classes[0].group if len(classes) == 1 else grouping.NO_GROUP
            for one in assigned:
                self._resources.setdefault(one.group, set()).add(resource)
        self._counts[facts_key] += count
        return self._known[facts_key], task

    @property
    def sources(self) -> Counter[tuple[str, grouping.Assignment]]:
        """Requests by task and by group with its source."""
        counts: Counter[tuple[str, grouping.Assignment]] = Counter()
        for facts_key, (task, assigned) in self._assigned.items():
            for assignment in assigned:
                counts[task, assignment] += self._counts[facts_key]
        return counts

    @property
    def resource_classes(self) -> dict[str, str]:
        """The resource class of each group whose requests all name the same one."""
        return {
            group: next(iter(classes))
            for group, classes in self._resources.items()
            if len(classes) == 1 and grouping.NO_GROUP not in classes
        }
