"""The number of tokens to draft for a request: one number for all, or a policy file's by group."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import canonical_key, group_of, impossible_groups
from lm_eval_specfair.harness import task_metadata
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.records.policy_file import read_policy

logger = logging.getLogger(__name__)

_MOST_NAMED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftPolicy:
    """Draft lengths by group.

    Attributes:
        default: Tokens drafted per step where no group says otherwise.
        group_by: What makes a group (`groups.assign.group_of`), or None.
        groups: Tokens drafted per step for each group; 0 decodes it without a drafter.
        met: Groups of the requests that were asked about.
    """

    default: int
    group_by: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    met: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def read(cls, value: object) -> "DraftPolicy":
        """A policy from what the user passed: a number, or the path of a policy file.

        Groups that no request can have, such as misspelled languages, are named in a warning.

        Raises:
            ConfigError: If it is neither, or the file is not a policy (`records.policy_file`).
        """
        if isinstance(value, str) and not re.fullmatch(r"\s*-?\d{1,400}\s*", value):
            file = read_policy(Path(value))
            if not canonical_key(file.group_by):
                raise ConfigError(f"{value}: expected group_by to name a field, got an empty text")
            if unknown := impossible_groups(file.groups, file.group_by):
                logger.warning(
                    "%s: %s; their requests get the default of %d tokens",
                    value, one_line("; ".join(unknown))[:500], file.default,
                )  # fmt: skip
            return cls(default=file.default, group_by=file.group_by, groups=file.groups)
        number = int(value) if isinstance(value, str) else value
        DecodeConfig(num_speculative_tokens=number)  # type: ignore[arg-type]  # it checks
        return cls(default=number)  # type: ignore[arg-type]

    @property
    def longest(self) -> int:
        """The longest draft that any group gets."""
        return max(self.default, *self.groups.values(), 0)

    def tokens_for(self, instance: Instance) -> int:
        """Tokens to draft per step for one request."""
        if self.group_by is None:
            return self.default
        facts = task_metadata.facts(instance.task_name or "")
        group = group_of(facts, group_fields(instance.doc), self.group_by)
        self.met.add(group)
        return self.groups.get(group, self.default)

    def warn_of_strangers(self) -> None:
        """Log groups that the policy names and no request had, and those that got the default."""
        if not self.met:
            return
        if never := sorted(set(self.groups) - self.met):
            logger.warning(
                "the policy names groups that no request had: %s",
                _listed(never),
            )
        if others := sorted(self.met - set(self.groups)):
            logger.warning(
                "these groups are not in the policy, and got its default of %d tokens: %s",
                self.default, _listed(others),
            )  # fmt: skip

    def settings(self) -> int | dict[str, Any]:
        """For `run.json`."""
        if self.group_by is None:
            return self.default
        return {"default": self.default, "group_by": self.group_by, "groups": dict(self.groups)}


def _listed(groups: list[str]) -> str:
    more = f", and {len(groups) - _MOST_NAMED} more" if len(groups) > _MOST_NAMED else ""
    return one_line(", ".join(groups[:_MOST_NAMED]) + more)
