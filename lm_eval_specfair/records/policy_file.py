"""The policy file: a draft length for each group, and a drafter if they differ in it too.

`specfair policy` writes it, a run reads it. Version 1 has lengths, version 2 lengths and drafters.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

EXAMPLE = (
    '{"schema_version": 1, "group_by": "language", "default": 4, "groups": {"en": 6, "th": 0}}'
)
EXAMPLE_OF_ROUTES = (
    '{"schema_version": 2, "group_by": "language", "default": {"drafter": "small-model", '
    '"num_speculative_tokens": 4}, "groups": {"uk": {"drafter": "none"}}}'
)
NO_DRAFTER = "none"
# Tokens drafted per step; 0 decodes without a drafter.
DraftLength = Annotated[int, Meta(ge=0, le=MAX_SPECULATIVE_TOKENS)]
DrafterName = Annotated[str, Meta(min_length=1)]
DrafterTemperature = Annotated[float, Meta(ge=0.0, le=1e6)]


class PolicyFile(Struct, frozen=True, kw_only=True):
    """Draft lengths by group, and drafters where the policy chooses between them.

    Attributes:
        group_by: What makes a group (`groups.assign.assignments`).
        default: The draft length of groups that are not named; 0 decodes without a drafter.
        groups: The draft length of each group that is named.
        default_drafter: The drafter of groups that are not named; None where the run's own drafter
            is everybody's.
        drafters: The drafter of each group that is named and drafts; empty where
            `default_drafter` is None.
        default_drafter_temperature: The default's own, where texts are sampled; None: the text's.
        drafter_temperatures: Those of groups whose drafters have one.
        made_from: The runs that the policy was chosen from, as `specfair policy` names them.
        expected: The expected gain of each group whose length or drafter changes.
    """

    group_by: str
    default: DraftLength
    groups: dict[str, DraftLength]
    default_drafter: str | None = None
    drafters: dict[str, str] = {}
    default_drafter_temperature: DrafterTemperature | None = None
    drafter_temperatures: dict[str, DrafterTemperature] = {}
    made_from: dict[str, Any] = {}
    expected: dict[str, Any] = {}

    @property
    def routes(self) -> bool:
        """Whether it names drafters."""
        return self.default_drafter is not None

    def drafter_of(self, group: str) -> str:
        """The drafter of a group, `none` where it is decoded without one; of a routing policy."""
        if not self.groups.get(group, self.default):
            return NO_DRAFTER
        return self.drafters.get(group) or self.default_drafter or NO_DRAFTER

    def to_json(self) -> str:
        """The file's text: version 2 where drafters are named, else 1."""
        made = {"made_from": self.made_from, "expected": self.expected}
        file: Struct
        if self.default_drafter is None:
            file = _Lengths(
                group_by=self.group_by, default=self.default, groups=self.groups, **made
            )
        else:
            default = _Route(
                drafter=self.default_drafter if self.default else NO_DRAFTER,
                num_speculative_tokens=self.default,
                drafter_temperature=self.default_drafter_temperature,
            )
            groups = {
                group: _Route(
                    drafter=self.drafter_of(group),
                    num_speculative_tokens=length,
                    drafter_temperature=self.drafter_temperatures.get(group),
                )
                for group, length in self.groups.items()
            }
            file = _Routes(group_by=self.group_by, default=default, groups=groups, **made)
        return msgspec.json.format(msgspec.json.encode(file), indent=2).decode() + "\n"


class _Lengths(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema_version", tag=1
):
    group_by: str
    default: DraftLength
    groups: dict[str, DraftLength]
    made_from: dict[str, Any] = {}
    expected: dict[str, Any] = {}


class _Route(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    drafter: DrafterName | None = None
    num_speculative_tokens: DraftLength | None = None
    drafter_temperature: DrafterTemperature | None = None


class _Routes(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema_version", tag=2
):
    group_by: str
    default: _Route
    groups: dict[str, _Route]
    made_from: dict[str, Any] = {}
    expected: dict[str, Any] = {}


def read_policy(path: Path, expected: str = "expected a policy file") -> PolicyFile:
    """The policy in a file; `expected` begins the message where it is none.

    Raises:
        ConfigError: If it cannot be read, is not such a policy, or drafts nothing for anybody.
    """
    try:
        content = path.read_bytes()
        file = msgspec.json.decode(content, type=_Lengths | _Routes)
        json_data(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of msgspec, or a NUL byte
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise ConfigError(
            f"{expected}, got {str(path)!r:.200} ({reason:.200}); a policy looks like "
            f"{EXAMPLE} or, with drafters, {EXAMPLE_OF_ROUTES}"
        ) from None
    policy = _of_routes(file, path) if isinstance(file, _Routes) else _of_lengths(file)
    if not max(policy.default, *policy.groups.values(), 0):
        raise ConfigError(
            f"{path} drafts nothing for anybody: expected a length of at least 1 somewhere; for "
            "plain decoding, pass drafter=none"
        )
    return policy


def _of_lengths(file: _Lengths) -> PolicyFile:
    return PolicyFile(
        group_by=file.group_by, default=file.default, groups=file.groups,
        made_from=file.made_from, expected=file.expected,
    )  # fmt: skip


def _of_routes(file: _Routes, path: Path) -> PolicyFile:
    default, default_length = file.default.drafter, file.default.num_speculative_tokens
    named = [route.drafter for route in file.groups.values() if route.drafter is not None]
    if default is None and any(name != NO_DRAFTER for name in named):
        raise ConfigError(
            f"{path} names drafters for groups and none for the rest: give its default a drafter, "
            f"as in {EXAMPLE_OF_ROUTES}"
        )
    if default_length is None and default != NO_DRAFTER:
        raise ConfigError(
            f"{path}: expected num_speculative_tokens in its default, as in {EXAMPLE_OF_ROUTES}"
        )
    length = 0 if default == NO_DRAFTER else default_length or 0
    lengths, drafters = {}, {}
    for group, route in file.groups.items():
        own = length if route.num_speculative_tokens is None else route.num_speculative_tokens
        lengths[group] = 0 if route.drafter == NO_DRAFTER else own
        if lengths[group] and default is not None:
            drafters[group] = route.drafter or default
        if lengths[group] and drafters.get(group, default) == NO_DRAFTER:
            raise ConfigError(
                f"{path}: {group!r:.60} drafts {lengths[group]} tokens with no drafter"
            )
    return PolicyFile(
        group_by=file.group_by, default=length, groups=lengths,
        default_drafter=default, drafters=drafters,
        default_drafter_temperature=file.default.drafter_temperature,
        drafter_temperatures={
            group: route.drafter_temperature
            for group, route in file.groups.items()
            if route.drafter_temperature is not None
        },
        made_from=file.made_from, expected=file.expected,
    )  # fmt: skip
