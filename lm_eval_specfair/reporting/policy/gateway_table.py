"""A policy for gateways: by group whether to speculate, how far, and which server does.

No server takes a draft length with a request (vLLM 0.32 and SGLang 0.5.23 know no such setting,
llama.cpp b11434 ignores `speculative.n_max`), so a gateway sends each request to a server that was
started with the length, and the drafter, that its group is to have.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
from lm_eval_specfair.metrics.routing.drafter_texts import PLAIN, Route
from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy
from lm_eval_specfair.reporting.format import csv_text, json_text

GATEWAY_FORMATS = (".csv", ".json", ".yaml", ".yml")
"""How the names of the files end that can be written."""

SCHEMA_VERSION = 1
ALL_OTHERS = "*"
"""The group of a CSV's last row, whose settings all other groups get."""


class Upstream(NamedTuple):
    """A server that drafts so many tokens per step; 0 drafts none.

    `drafter` is the drafter's name where servers differ in it.
    """

    num_speculative_tokens: int
    base_url: str
    drafter: str | None = None

    @property
    def serves(self) -> int | Route:
        """What `upstreams_by_route` has it by."""
        length = self.num_speculative_tokens
        return length if self.drafter is None or not length else Route(self.drafter, length)

    @classmethod
    def read(cls, text: str) -> "Upstream":
        """An upstream as a user names it, `4=http://HOST:PORT` or `DRAFTER:4=http://HOST:PORT`.

        Raises:
            ConfigError: If it is anything else, or its URL holds a password.
        """
        match = re.fullmatch(r"(?:(\S+?):)?(\d{1,3})=(https?://\S+)", text)
        parts = urlsplit(match[3]) if match else None
        if match is None or parts is None or not parts.hostname:
            raise ConfigError(
                f"expected LENGTH=URL, such as 0=http://plain:8000, or DRAFTER:LENGTH=URL, got "
                f"{text!r:.200}"
            )
        if parts.password or parts.username:
            raise ConfigError(
                f"the URL of {parts.hostname} holds a user or a password, which would stand in the "
                "table: leave it out, the gateway should have it"
            )
        return cls(int(match[2]), match[3], match[1])


Upstreams = Mapping[int, str] | Mapping[int | Route, str]
"""URLs of servers by draft length, or by drafter and length; 0 drafts none."""


def gateway_table(
    policy: LengthPolicy | RoutePolicy, path: Path, upstreams: Upstreams | None = None
) -> str:
    """The text of a file for gateways.

    Args:
        policy: Of draft lengths, or of drafters and lengths.
        path: The file; its ending, one of `GATEWAY_FORMATS`, says in what form.
        upstreams: URLs of servers by what they draft; without them no server is named.

    Raises:
        ConfigError: If its name ends otherwise.
    """
    form = table_form(path)
    groups = {
        group: _entry(chosen, upstreams) | _gain(policy, group)
        for group, chosen in policy.groups.items()
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


def _entry(chosen: int | Route, upstreams: Upstreams | None) -> dict[str, Any]:
    urls: dict[Any, str] = dict(upstreams or {})
    if isinstance(chosen, int):
        return _settings(chosen, urls.get(chosen))
    if not chosen.length:
        return {"drafter": PLAIN.drafter} | _settings(0, urls.get(0, urls.get(PLAIN)))
    return {"drafter": chosen.drafter} | _settings(chosen.length, urls.get(chosen))


def _settings(length: int, url: str | None) -> dict[str, Any]:
    return {
        "speculation": "on" if length else "off",
        "num_speculative_tokens": length,
        "base_url": url,
    }


def _gain(policy: LengthPolicy | RoutePolicy, group: str | None = None) -> dict[str, float | None]:
    """The gain expected of a group's route; nothing where it keeps the first run's."""
    names = ("expected_gain", "expected_gain_low", "expected_gain_high")
    nothing = dict.fromkeys(names)
    if group is None:
        return nothing
    if isinstance(policy, LengthPolicy):
        kept, gain = policy.groups[group] == policy.default, policy.choices[group].expected.gain
    else:
        kept, gain = policy.groups[group] == policy.incumbent, policy.choices[group].expected.gain
    if kept:
        return nothing
    return dict(zip(names, (gain.value, gain.low, gain.high), strict=True))


def upstreams_by_route(named: Sequence[Upstream]) -> dict[int | Route, str]:
    """The URLs by draft length, or by drafter and length.

    Raises:
        ConfigError: If two are named for one.
    """
    urls: dict[int | Route, str] = {}
    for each in named:
        if each.serves in urls:
            who = f" by {each.drafter}" if isinstance(each.serves, Route) else ""
            raise ConfigError(
                f"two servers are named for {each.num_speculative_tokens} drafted tokens{who}, "
                "expected one"
            )
        urls[each.serves] = each.base_url
    return urls


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
