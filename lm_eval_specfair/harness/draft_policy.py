"""How many tokens to draft for a request: one number, or a policy file with one for each group."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.harness import task_metadata
from lm_eval_specfair.harness.run_folder import group_fields

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftPolicy:
    """Draft lengths by group.

    Attributes:
        default: Tokens drafted per step where no group says otherwise.
        group_by: What makes a group (`groups.assign.group_of`), or None.
        groups: Tokens drafted per step for each group; 0 decodes it plainly.
    """

    default: int
    group_by: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object) -> "DraftPolicy":
        """A policy from what the user passed: a number, or the path of a JSON file.

        The file holds `{"schema_version": 1, "group_by": "language", "default": 4,
        "groups": {"en": 6, "th": 0}}`.

        Raises:
            ConfigError: If it is neither, or the file is not such a policy.
        """
        if isinstance(value, str) and not value.strip().lstrip("-").isdecimal():
            return cls._from_file(Path(value))
        number = int(value) if isinstance(value, str) else value
        DecodeConfig(num_speculative_tokens=number)  # type: ignore[arg-type]  # it checks
        return cls(default=number)  # type: ignore[arg-type]

    @classmethod
    def _from_file(cls, path: Path) -> "DraftPolicy":
        wrong = ConfigError(
            f"num_speculative_tokens must be a whole number of at least 1 or a policy file, got "
            f'{str(path)!r}; a policy looks like {{"schema_version": {SCHEMA_VERSION}, '
            '"group_by": "language", "default": 4, "groups": {"en": 6, "th": 0}}'
        )
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise wrong from None
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            raise wrong
        default, groups, group_by = data.get("default"), data.get("groups"), data.get("group_by")
        if not isinstance(groups, dict) or not isinstance(group_by, str):
            raise wrong
        for number in (default, *groups.values()):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise wrong
        if not isinstance(default, int) or max(default, *groups.values(), 0) < 1:
            raise wrong  # nothing would ever be drafted: that is drafter=none
        return cls(default=default, group_by=group_by, groups=groups)

    @property
    def longest(self) -> int:
        """The longest draft that any group gets."""
        return max(self.default, *self.groups.values(), 0)

    def tokens_for(self, instance: Instance) -> int:
        """Tokens to draft per step for one request."""
        if self.group_by is None:
            return self.default
        task = instance.task_name or ""
        known = task_metadata.facts(task)
        facts = TaskFacts(task, known["metadata"], known["config"])
        group = group_of(facts, group_fields(instance.doc), self.group_by)
        return self.groups.get(group, self.default)

    def settings(self) -> int | dict[str, Any]:
        """For `run.json`."""
        if self.group_by is None:
            return self.default
        return {"default": self.default, "group_by": self.group_by, "groups": dict(self.groups)}
