"""The conditions of an entry: what must be equal for one rank to mean more than another.

Entries differ in their drafter and its draft length, and in nothing else; those that do stand in
tables of their own, which say in what.
"""

import json
from collections.abc import Mapping, Sequence

from msgspec.structs import asdict

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.machine_load import is_busy
from lm_eval_specfair.metrics.comparison.pairing import MAY_DIFFER
from lm_eval_specfair.reporting.format import listed
from lm_eval_specfair.reporting.leaderboard.entry import Submission

Conditions = Mapping[str, str]
"""What an entry was measured under, by name."""

_LAW = ("temperature", "top_k", "top_p")
"""Settings of decoding that are not the drafter's."""
_MOST_NAMED = 6
_LONGEST = 60
_SAME_CLOCK = 1.25
"""Times that plain decoding may differ by between runs of one target on one machine."""


def conditions_of(entry: Submission) -> Conditions:
    """What must be equal in entries that are ranked together."""
    suite, settings = entry.suite, dict(entry.provenance.settings)
    if settings.get("target_weights"):
        settings.pop("target", None)  # the same weights may be in several places
    ways = {
        json.dumps({name: value for name, value in asdict(way).items() if name in _LAW})
        for way in entry.decoding
    }
    described = {
        f"{part}: {name}": json.dumps(value, sort_keys=True)
        for part, values in (("settings", settings), ("hardware", entry.provenance.hardware))
        for name, value in values.items()
        if name not in MAY_DIFFER | {"lossless_checks"}
    }
    return {
        "tasks": json.dumps(suite.tasks),
        "requests": suite.requests_sha256,
        "what makes a group": entry.figures.group_by,
        "groups of requests": suite.groups_sha256 or "",
        "groups": json.dumps(sorted(entry.figures.groups)),
        "requests decoded plainly": suite.baselines_sha256 or "",
        "decoding": json.dumps(sorted(ways)),
        **described,
        "load of the machine": "busy" if is_busy(entry.provenance.load) else "",
    }


def differences(one: Conditions, other: Conditions) -> list[str]:
    """The names of conditions that differ, with their values where these are short."""
    found = []
    for name in dict.fromkeys([*one, *other]):
        values = [one_line(each.get(name, "none")) for each in (one, other)]
        if values[0] != values[1]:
            short = all(len(value) <= _LONGEST for value in values)
            is_shown = short and ": " in name
            found.append(f"{name} ({values[0]} and {values[1]})" if is_shown else name)
    return found


def why_apart(one: Conditions, other: Conditions) -> str:
    """Why entries of two tables are not ranked together, in a sentence."""
    return (
        f"Not ranked with the table above, which differs in "
        f"{listed(differences(other, one), _MOST_NAMED)}."
    )


def clock_notes(entries: Sequence[Submission]) -> list[str]:
    """Entries whose plain decoding, which is all the same, took another time than the others'."""
    seconds = {
        entry.entry.name: value
        for entry in entries
        if (value := entry.figures.plain_seconds_per_token)
    }
    if len(seconds) < 2:
        return []
    fastest = min(seconds, key=lambda name: seconds[name])
    return [
        f"Plain decoding took {one_line(name)} {1_000 * value:.3g} ms a token and "
        f"{one_line(fastest)} {1_000 * seconds[fastest]:.3g}, with the same target on the same "
        "machine: speed-ups over the slower one are too high by as much, or the machine was busy."
        for name, value in sorted(seconds.items())
        if value > _SAME_CLOCK * seconds[fastest]
    ]
