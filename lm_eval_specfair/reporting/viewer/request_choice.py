"""The choice of requests that are shown: all of a small run, or the worst and some others."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.records import Record
from lm_eval_specfair.records.reader import read_chosen, read_each
from lm_eval_specfair.reporting.runs import RunReader

MOST_REQUESTS = 1_200


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenRequests:
    """Requests of one run, or of several that were asked the same.

    Attributes:
        records: Of each run, by request; in the order of the first run.
        groups: Of each request.
        total: How many there are to choose from.
    """

    records: Sequence[Mapping[str, Record]]
    groups: Mapping[str, str]
    total: int


def tokens_per_step(record: Record) -> float:
    """How fast a request was, whatever the machine did: its tokens per target pass."""
    return (record.num_generated_tokens or 0) / max(record.num_spec_steps or 0, 1)


def measured_speedup(record: Record) -> float | None:
    """Its speed over that of the same request without a drafter, where that was decoded too."""
    plain, own = record.baseline_seconds, record.decode_seconds
    if not plain or not own or not record.baseline_generated_tokens:
        return None
    return (plain / record.baseline_generated_tokens) / (
        own / max(record.num_generated_tokens or 0, 1)
    )


def chosen_requests(
    readers: Sequence[RunReader],
    *,
    group_by: str,
    mapping: UserGroups | None = None,
    most: int = MOST_REQUESTS,
) -> ChosenRequests:
    """All requests, or `most` of them: of each group the slowest, and as many others by chance.

    A request of several runs is as slow as in its slowest one. Failed requests count as slowest.
    Chance is a digest of the request's id: the same requests in every run.

    Raises:
        ConfigError: If a folder cannot be read.
    """
    speeds, groups = _speeds(readers, group_by, mapping or UserGroups())
    ids = set(speeds) if len(speeds) <= most else _worst_and_others(speeds, groups, most)
    records = [
        {record.request_id: record for record in read_chosen(reader.folder, ids)}
        for reader in readers
    ]
    order = list(records[0]) if records else []
    return ChosenRequests(
        records=records, groups={name: groups[name] for name in order}, total=len(speeds)
    )


def _speeds(
    readers: Sequence[RunReader], group_by: str, mapping: UserGroups
) -> tuple[dict[str, float], dict[str, str]]:
    speeds: dict[str, float] = {}
    groups: dict[str, str] = {}
    known: dict[str, str] = {}
    for number, reader in enumerate(readers):
        for record in read_each(reader.folder):
            if record.request_type != "generate_until":
                continue
            name = record.request_id
            speed = -1.0 if record.failure is not None else tokens_per_step(record)
            if number == 0:
                speeds[name] = speed
                said = f"{record.task}\0{record.group_fields}"
                if said not in known:
                    facts = reader.facts_of(record.task)
                    known[said] = group_of(facts, record.group_fields, group_by, mapping)
                groups[name] = known[said]
            elif name in speeds:
                speeds[name] = min(speeds[name], speed)
    return speeds, groups


def _worst_and_others(
    speeds: Mapping[str, float], groups: Mapping[str, str], most: int
) -> set[str]:
    members: dict[str, list[str]] = defaultdict(list)
    for name in speeds:
        members[groups[name]].append(name)
    chosen: set[str] = set()
    left = most
    # Small groups first: what they do not need goes to the others.
    for place, names in enumerate(sorted(members.values(), key=len)):
        share = left // (len(members) - place)
        names.sort(key=lambda name: (speeds[name], name))
        worst, others = names[: (share + 1) // 2], names[(share + 1) // 2 :]
        others.sort(key=_chance)
        taken = [*worst, *others][:share]
        chosen.update(taken)
        left -= len(taken)
    return chosen


def _chance(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()


def one_request(reader: RunReader, name: str) -> Record:
    """A request by its id, or by how its id begins where that is enough.

    Raises:
        ConfigError: If there is none of that name, or there are several.
    """
    ids = [record.request_id for record in read_each(reader.folder)]
    found = [name] if name in ids else [each for each in ids if each.startswith(name)]
    if len(found) != 1:
        some = ", ".join((found or ids)[:3])
        problem = "several requests begin like it" if found else "there is no such request"
        raise ConfigError(f"--request {name!r:.100}: {problem} in {reader.folder} ({some}, ...)")
    return next(iter(read_chosen(reader.folder, set(found))))


def worst_requests(reader: RunReader, number: int) -> list[Record]:
    """The slowest requests: fewest tokens per target pass first."""
    speeds = {
        record.request_id: tokens_per_step(record)
        for record in read_each(reader.folder)
        if record.request_type == "generate_until" and record.failure is None
    }
    if not speeds:
        raise ConfigError(f"no generated requests in {reader.folder}: there is nothing to trace")
    ids = sorted(speeds, key=lambda name: (speeds[name], name))[:number]
    records = {record.request_id: record for record in read_chosen(reader.folder, set(ids))}
    return [records[name] for name in ids]
