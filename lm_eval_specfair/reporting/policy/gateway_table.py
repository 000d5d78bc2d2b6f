"""A policy for gateways: by group whether to speculate, how far, and which server does.

No server takes a draft length with a request (vLLM 0.32 and SGLang 0.5.23 know no such setting,
llama.cpp b11434 ignores `speculative.n_max`), so a gateway sends each request to a server that was
started with the length that its group is to have.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
from lm_eval_specfair.reporting.format import csv_text, json_text

GATEWAY_FORMATS = (".csv", ".json", ".yaml", ".yml")
"""How the names of the files end that can be written."""

SCHEMA_VERSION = 1
ALL_OTHERS = "*"
"""The group of a CSV's last row, whose settings all other groups get."""


class Upstream(NamedTuple):
    """A server that drafts so many tokens per step; 0 drafts none."""

    num_speculative_tokens: int
    base_url: str

    @classmethod
    def read(cls, text: str) -> "Upstream":
        """An upstream as a user names it, `4=http://HOST:PORT`.

        Raises:
            ConfigError: If it is anything else, or its URL holds a password.
        """
        match = re.fullmatch(r"(\d{1,3})=(https?://\S+)", text)
        parts = urlsplit(match[2]) if match else None
        if match is None or parts is None or not parts.hostname:
            raise ConfigError(
                f"expected LENGTH=URL, such as 0=http://plain:8000, got {text!r:.200}"
            )
        if parts.password or parts.username:
            raise ConfigError(
                f"the URL of {parts.hostname} holds a user or a password, which would stand in the "
                "table: leave it out, the gateway should have it"
            )
        return cls(int(match[1]), match[2])


def gateway_table(
    policy: LengthPolicy, path: Path, upstreams: Mapping[int, str] | None = None
) -> str:
    """The text of a file for gateways.

    Args:
        policy: Of draft lengths.
        path: The file; its ending, one of `GATEWAY_FORMATS`, says in what form.
        upstreams: URLs of servers by draft length; without them no server is named.

    Raises:
        ConfigError: If its name ends otherwise.
    """
    form = table_form(path)
    groups = {
        group: _entry(choice.chosen, upstreams) | _gain(policy, group)
        for group, choice in sorted(policy.choices.items())
    }
    default = _entry(policy.default, upstreams)
    if form == ".csv":
        rows = [(group, policy.group_by, *entry.values()) for group, entry in groups.items()]
        nothing = [""] * len(_gain(policy))
        last = (ALL_OTHERS, policy.group_by, *default.values(), *nothing)
        names = [*default, *_gain(policy)]
        return csv_text(["group", "group_by", *names], [*rows, last])
    table = {
        "schema_version": SCHEMA_VERSION,
        "group_by": policy.group_by,
        "default": default,
        "groups": groups,
    }
    if form == ".json":
        return json_text(table) + "\n"
    return yaml.safe_dump(table, allow_unicode=True, sort_keys=False)


def _entry(length: int, upstreams: Mapping[int, str] | None) -> dict[str, Any]:
    return {
        "speculation": "on" if length else "off",
        "num_speculative_tokens": length,
        "base_url": (upstreams or {}).get(length),
    }


def _gain(policy: LengthPolicy, group: str | None = None) -> dict[str, float | None]:
    """The gain expected of a group's length; nothing where it keeps the runs' own."""
    choice = None if group is None else policy.choices[group]
    names = ("expected_gain", "expected_gain_low", "expected_gain_high")
    if choice is None or choice.chosen == policy.default:
        return dict.fromkeys(names)
    gain = choice.expected.gain
    return dict(zip(names, (gain.value, gain.low, gain.high), strict=True))


def upstreams_by_length(named: list[Upstream]) -> dict[int, str]:
    """The URLs by draft length.

    Raises:
        ConfigError: If two are named for one length.
    """
    lengths = [each.num_speculative_tokens for each in named]
    if twice := {length for length in lengths if lengths.count(length) > 1}:
        raise ConfigError(f"two servers are named for {min(twice)} drafted tokens, expected one")
    return dict(named)


def table_form(path: Path) -> str:
    """How a file's name ends, for a table of that form.

    Raises:
        ConfigError: If there is no such form.
    """
    form = path.suffix.lower()
    if form not in GATEWAY_FORMATS:
        raise ConfigError(
            f"expected a file that ends in {', '.join(GATEWAY_FORMATS)}, got {path.name!r:.60}"
        )
    return form
