"""The policy file: a draft length for each group. `specfair policy` writes it, a run reads it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

POLICY_SCHEMA_VERSION = 1  # of the files that are written
EXAMPLE = (
    '{"schema_version": 1, "group_by": "language", "default": 4, "groups": {"en": 6, "th": 0}}'
)
# Tokens drafted per step; 0 decodes without a drafter.
DraftLength = Annotated[int, Meta(ge=0, le=MAX_SPECULATIVE_TOKENS)]


class PolicyFile(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="schema_version",
    tag=POLICY_SCHEMA_VERSION,
):
    """Draft lengths by group.

    Attributes:
        group_by: What makes a group (`groups.assign.assignments`).
        default: The draft length of groups that are not named.
        made_from: The runs that the lengths were chosen from, as `specfair policy` names them.
        expected: The expected gain of each group whose length changes.
    """

    group_by: str
    default: DraftLength
    groups: dict[str, DraftLength]
    made_from: dict[str, Any] = {}
    expected: dict[str, Any] = {}

    def to_json(self) -> str:
        """The file's text."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"


class _Settings(Struct, frozen=True, forbid_unknown_fields=True):
    num_speculative_tokens: DraftLength


class _PolicyFile2(Struct, frozen=True, kw_only=True, tag_field="schema_version", tag=2):
    """Version 2 may name a drafter beside each length; only lengths are read."""

    group_by: str
    default: _Settings
    groups: dict[str, _Settings]


def read_policy(path: Path) -> PolicyFile:
    """The policy in a file.

    Raises:
        ConfigError: If it cannot be read, is not such a policy, or drafts nothing for anybody.
    """
    try:
        content = path.read_bytes()
        policy = msgspec.json.decode(content, type=PolicyFile | _PolicyFile2)
        json_data(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of msgspec, or a NUL byte
        reason = str(error.strerror if isinstance(error, OSError) else error)
        if "`drafter`" in reason:
            reason = "policies that choose between drafters cannot be read by this version"
        raise ConfigError(
            "num_speculative_tokens must be a whole number in 1 ... "
            f"{MAX_SPECULATIVE_TOKENS} or a policy file, got {str(path)!r:.200} ({reason:.200}); a "
            f"policy looks like {EXAMPLE}"
        ) from None
    if isinstance(policy, _PolicyFile2):
        lengths = {name: each.num_speculative_tokens for name, each in policy.groups.items()}
        default = policy.default.num_speculative_tokens
        policy = PolicyFile(group_by=policy.group_by, default=default, groups=lengths)
    if not max(policy.default, *policy.groups.values(), 0):
        raise ConfigError(
            f"{path} drafts nothing for anybody: expected a length of at least 1 somewhere; for "
            "plain decoding, pass drafter=none"
        )
    return policy
