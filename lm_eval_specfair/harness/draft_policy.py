"""How a request is drafted: one length and drafter for all, or those of a policy file by group."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS, DecodeConfig
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import canonical_key, group_of, impossible_groups
from lm_eval_specfair.harness import task_metadata
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.records.policy_file import NO_DRAFTER, PolicyFile, read_policy

logger = logging.getLogger(__name__)

AUTO, LONGEST = "auto", 8  # the latter is the longest that `auto` tries
_MOST_NAMED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftPolicy:
    """Draft lengths by group, and drafters where the policy names them.

    Attributes:
        default: Tokens drafted per step where no group says otherwise.
        group_by: What makes a group (`groups.assign.group_of`), or None.
        groups: Tokens drafted per step for each group; 0 decodes it without a drafter.
        default_drafter: The drafter where no group says otherwise; None where all have the run's.
        drafters: The drafter of each group.
        temperatures: The temperature of the drafters of groups that have one of their own.
        default_temperature: That of the default, or None.
        made_for: Digest of the target's weights that the policy was made for, where it says so.
        is_auto: Whether the length is still to be found (`recording.auto_length`); until then
            `default` is the longest that is tried.
        met: Groups of the requests that were asked about.
    """

    default: int
    group_by: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    default_drafter: str | None = None
    drafters: Mapping[str, str] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    default_temperature: float | None = None
    made_for: str | None = None
    is_auto: bool = False
    met: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def read(cls, value: object) -> "DraftPolicy":
        """A policy from `num_speculative_tokens`: a number, `auto`, or a path to a file of lengths.

        Groups that no request can have, such as misspelled languages, are named in a warning.

        Raises:
            ConfigError: If it is neither, or the file is not a policy (`records.policy_file`).
        """
        if value == AUTO:
            return cls(default=LONGEST, is_auto=True)
        if isinstance(value, str) and not re.fullmatch(r"\s*-?\d{1,400}\s*", value):
            expected = (
                "num_speculative_tokens must be a whole number in 1 ... "
                f"{MAX_SPECULATIVE_TOKENS}, auto or a policy file"
            )
            policy = cls._of_file(Path(value), read_policy(Path(value), expected))
            if policy.routes:
                raise ConfigError(f"{value} names drafters too: pass it as drafter={value}")
            return policy
        number = int(value) if isinstance(value, str) else value
        DecodeConfig(num_speculative_tokens=number)  # type: ignore[arg-type]  # it checks
        return cls(default=number)  # type: ignore[arg-type]

    @classmethod
    def read_routes(cls, value: str) -> "DraftPolicy":
        """A policy from `drafter`: the path of a file that names drafters and lengths.

        Raises:
            ConfigError: If the file is not such a policy.
        """
        policy = cls._of_file(
            Path(value), read_policy(Path(value), "drafter must be a policy file")
        )
        if not policy.routes:
            raise ConfigError(
                f"{value} has lengths and names no drafters: pass it as "
                f"num_speculative_tokens={value}"
            )
        return policy

    @classmethod
    def _of_file(cls, path: Path, file: PolicyFile) -> "DraftPolicy":
        if not canonical_key(file.group_by):
            raise ConfigError(f"{path}: expected group_by to name a field, got an empty text")
        if unknown := impossible_groups(file.groups, file.group_by):
            logger.warning(
                "%s: %s; their requests get the default of %d tokens",
                path, one_line("; ".join(unknown))[:500], file.default,
            )  # fmt: skip
        made_for = file.made_from.get("target_weights")
        return cls(
            default=file.default,
            group_by=file.group_by,
            groups=file.groups,
            default_drafter=file.default_drafter,
            drafters={group: file.drafter_of(group) for group in file.groups}
            if file.routes
            else {},
            temperatures=file.drafter_temperatures,
            default_temperature=file.default_drafter_temperature,
            made_for=made_for if isinstance(made_for, str) else None,
        )

    @property
    def routes(self) -> bool:
        """Whether it names drafters."""
        return self.default_drafter is not None

    @property
    def drafter_names(self) -> list[str]:
        """The drafters that groups may get, each once, that of the default first."""
        named = dict.fromkeys(filter(None, [self.default_drafter, *self.drafters.values()]))
        return [name for name in named if name != NO_DRAFTER]

    @property
    def longest(self) -> int:
        """The longest draft that any group gets."""
        return max(self.default, *self.groups.values(), 0)

    def drafting_for(self, instance: Instance) -> tuple[int, str | None]:
        """Tokens to draft per step for one request, and with which drafter; None: the run's."""
        if self.group_by is None:
            return self.default, None
        group = self._group(instance, self.group_by)
        self.met.add(group)
        drafter = self.drafters.get(group, self.default_drafter)
        return self.groups.get(group, self.default), drafter

    def temperature_for(self, instance: Instance, config: DecodeConfig) -> float | None:
        """The temperature of one request's drafter, where the policy names one for its group."""
        if self.group_by is None or config.greedy:
            return None
        group = self._group(instance, self.group_by)
        return self.temperatures.get(group, self.default_temperature)

    def _group(self, instance: Instance, group_by: str) -> str:
        facts = task_metadata.facts(instance.task_name or "")
        return group_of(facts, group_fields(instance.doc), group_by)

    def refuse_other_target(self, weights: str | None) -> None:
        """Refuse a target that the policy was not made for, by the digest of its weights.

        Raises:
            ConfigError: If both are known and differ.
        """
        if self.made_for and weights and self.made_for != weights:
            raise ConfigError(
                f"the policy was made for a target with the weights {self.made_for:.20}..., this "
                f"one has {weights:.20}...; make one from runs of this target (`specfair policy`)"
            )

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
                "these groups are not in the policy, and got its default of %d tokens%s: %s",
                self.default, f" by {self.default_drafter}" if self.routes else "", _listed(others),
            )  # fmt: skip

    def settings(self) -> int | str | dict[str, Any]:
        """For `run.json`."""
        if self.is_auto:
            return AUTO
        if self.group_by is None:
            return self.default
        return {"default": self.default, "group_by": self.group_by, "groups": dict(self.groups)}

    def drafter_settings(self) -> dict[str, Any]:
        """Which drafter each group gets, for `run.json`; of a policy that names them."""
        found = {"default": self.default_drafter, "groups": dict(self.drafters)}
        own = {"default": self.default_temperature, "groups": dict(self.temperatures)}
        is_named = self.default_temperature is not None or self.temperatures
        return found | ({"drafter_temperatures": own} if is_named else {})


def _listed(groups: list[str]) -> str:
    more = f", and {len(groups) - _MOST_NAMED} more" if len(groups) > _MOST_NAMED else ""
    return one_line(", ".join(groups[:_MOST_NAMED]) + more)


def read_policy_argument(given: Mapping[str, Any], drafter: object) -> DraftPolicy:
    """The policy of a run: what `drafter` names, where that is a policy's file, else lengths.

    Raises:
        ConfigError: If it is none, or other arguments do not go with it.
    """
    if not (isinstance(drafter, str) and drafter.endswith(".json")):
        policy = DraftPolicy.read(given.get("num_speculative_tokens", 4))
        if policy.is_auto and given.get("backend", "hf") != "hf":
            raise ConfigError(
                "num_speculative_tokens=auto is for backend=hf: other engines fix the length when "
                "they start; name a number"
            )
        return policy
    if given.get("backend", "hf") != "hf":
        raise ConfigError(
            f"drafter={drafter} names drafters by group, which this package's engine decodes with "
            "(backend=hf); other engines have one drafter"
        )
    alone = ("num_speculative_tokens", "drafter_vocabulary", "drafter_gguf_file", "drafter_peft")
    if both := [name for name in alone if name in given]:
        raise ConfigError(
            f"{both[0]} does not go with drafter={drafter}, which says how each group is drafted; "
            "leave it out"
        )
    return DraftPolicy.read_routes(drafter)
