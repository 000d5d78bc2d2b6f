"""A policy replayed: each text with the drafter and the draft length that its group gets."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from lm_eval_specfair.decoding.composed.named_drafters import NONE, DrafterName
from lm_eval_specfair.decoding.loading import shown_name
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.groups.task_facts import facts_of_task
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.records import (
    RUN_FILE,
    Record,
    RecordWriter,
    read_blocks,
    read_records,
    read_run,
    write_run,
)
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, read_pieces, write_pieces
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.replay_folder import Departures
from lm_eval_specfair.replays.replay_plan import NothingToReplay
from lm_eval_specfair.replays.replay_run import Replay
from lm_eval_specfair.replays.replay_run import replay as replay_drafters

_PARTS = "routes"


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """A drafter as the policy names it, or `none`, and its draft length; 0 where it is `none`."""

    drafter: str
    length: int


def replay(
    sources: Sequence[Path], drafters: Sequence[str], output: Path, **options: Any
) -> Replay:
    """Replay drafters (`replay_run.replay`), or the policy that is named in their place.

    Raises:
        ConfigError: As of `replay_run.replay`, or if a policy is one of several.
    """
    policies = [name for name in drafters if name.endswith(".json")]
    if not policies:
        return replay_drafters(sources, drafters, output, **options)
    if len(drafters) > 1:
        raise ConfigError(
            f"{policies[0]} is a policy, whose drafters are replayed together: replay it by itself"
        )
    return replay_policy(sources, policies[0], output, **options)


def replay_policy(
    sources: Sequence[Path],
    policy_file: str,
    output: Path,
    *,
    lengths: Sequence[int] = (4,),
    measure_costs: bool = False,
    references: bool = False,
    **others: Any,
) -> Replay:
    """Take the steps of finished texts again, as a run with this policy would have.

    Arguments are those of `replay_run.replay`; the policy has the draft lengths.

    Raises:
        ConfigError: If the policy is none with drafters, an option does not go with it, or as of
            `replay_run.replay`.
    """
    for option, given in {
        "--measure-costs": measure_costs,
        "--references": references,
        "--num-speculative-tokens": tuple(lengths) != (4,),
        "--drafter-temperature": others.get("drafter_temperature") is not None,
    }.items():
        if given:
            raise ConfigError(
                f"{option} is for drafters by themselves; {policy_file} is a policy: leave it out"
            )
    policy = DraftPolicy.read_routes(policy_file)
    if policy.temperatures or policy.default_temperature is not None:
        raise ConfigError(
            f"{policy_file} has drafter_temperature, which one replay has for all texts: replay "
            "the drafters by themselves with --drafter-temperature"
        )
    if (output / RUN_FILE).exists():
        raise ConfigError(f"{output} already holds this replay; name another folder with -o")
    route_of = _routing(policy, sources)
    routes = dict.fromkeys(
        _route(policy, group) for group in (None, *policy.groups)
    )  # in the policy's order, each once
    parts: dict[ServedRoute, Replay] = {}
    for number, route in enumerate(routes):
        name = NONE if route.drafter == NONE else _spelled_out(route.drafter, policy_file)
        part = output / _PARTS / str(number)
        if (part / RUN_FILE).exists():
            parts[route] = _finished(part)
            continue
        with contextlib.suppress(NothingToReplay):
            parts[route] = replay_drafters(
                sources,
                [name],
                part,
                lengths=[max(route.length, 1)],
                keep=functools.partial(_is_on, route, route_of),
                **others,
            )
    if not parts:
        raise ConfigError("no text is left: expected some to replay")
    departures = Departures(output)
    for replayed in parts.values():
        for departure in replayed.departures:
            departures.add(departure)
    _merge(parts, policy, policy_file, output)
    shutil.rmtree(output / _PARTS)
    done = list(parts.values())
    read = [part.sources for part in done if part.sources]
    return replace(
        done[0],
        folders=[output],
        sources=[
            replace(same[0], texts=[text for source in same for text in source.texts])
            for same in zip(*read, strict=True)
        ],
        departures=list(departures.found.values()),
        seconds=sum(part.seconds for part in done),
        num_earlier=sum(part.num_earlier for part in done),
        has_target=any(part.has_target for part in done),
        in_own_tokens=[name for part in done for name in part.in_own_tokens],
        on_learnt={name: number for part in done for name, number in part.on_learnt.items()},
    )


def _finished(part: Path) -> Replay:
    """A route that an earlier call, once killed, came to the end of."""
    return Replay(
        folders=[part],
        sources=[],
        departures=list(Departures(part).found.values()),
        seconds=0.0,
        num_earlier=0,
        has_target=read_run(part)["totals"]["texts_are_checked"],
    )


def _is_on(
    route: ServedRoute, route_of: Callable[[KnownText], ServedRoute], text: KnownText
) -> bool:
    return route_of(text) == route


def _route(policy: DraftPolicy, group: str | None) -> ServedRoute:
    drafter = policy.default_drafter if group is None else policy.drafters.get(group)
    length = policy.default if group is None else policy.groups.get(group, policy.default)
    if not length or drafter in (None, NONE):
        return ServedRoute(NONE, 0)
    return ServedRoute(str(drafter), length)


def _routing(policy: DraftPolicy, sources: Sequence[Path]) -> Callable[[KnownText], ServedRoute]:
    """What tells a text's route: by its own fields, and by what runs say of its task."""
    runs = [read_run(source) for source in sources if (source / RUN_FILE).is_file()]
    tasks = {name: task for run in runs for name, task in (run.get("tasks") or {}).items()}

    def route_of(text: KnownText) -> ServedRoute:
        facts = facts_of_task({"tasks": tasks}, text.task)
        group = group_of(facts, text.group_fields, str(policy.group_by))
        return _route(policy, group if group in policy.groups else None)

    return route_of


def _spelled_out(name: str, policy_file: str) -> str:
    """A drafter's name with its folders as they are found from here."""
    read = DrafterName.read(name, beside=policy_file)
    if read.lookup is None:
        return str(read.other)
    lookup = f"{read.lookup}:{read.least}"
    return lookup if read.other is None else f"{lookup}+{read.other}"


def _merge(
    parts: dict[ServedRoute, Replay], policy: DraftPolicy, policy_file: str, output: Path
) -> None:
    """One run's folder of those of all routes; `run.json` comes last."""
    runs = {route: read_run(part.folders[0]) for route, part in parts.items()}
    for file in output.glob("records*"):
        file.unlink()  # of a merge that was killed
    writer = RecordWriter(output)
    spelled: dict[int, bytes] = {}
    special: dict[int, str] = {}
    for route, part in parts.items():
        for record in read_records(part.folders[0]):
            writer.write(_as_routed(record, route))
        if (pieces := read_pieces(part.folders[0])) is not None:
            spelled |= pieces.spelled
            special |= pieces.special
    writer.close()
    run = next(iter(runs.values()))
    names = ", ".join(map(shown_name, policy.drafter_names))
    weights = {
        route.drafter: info["settings"]["drafter_weights"]
        for route, info in runs.items()
        if route.drafter != NONE
    }
    settings = {k: v for k, v in run["settings"].items() if k != "drafter_vocabulary"} | {
        "num_speculative_tokens": policy.settings(),
        "routes": policy.drafter_settings(),
        "drafter": f"{Path(policy_file).name} ({names})",
        "drafter_weights": weights,
    }
    identity = run["replay"] | {
        "texts": [info["replay"]["texts"] for info in runs.values()],
        "drafter": weights,
        "num_speculative_tokens": policy.settings(),
    }
    totals = {
        name: sum(info["totals"][name] for info in runs.values())
        for name, value in run["totals"].items()
        # What is left out is not in any route: each part counted it anew.
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if name != "num_left_out"
    }
    info = run | {"settings": settings, "replay": identity}
    checked = any(info["totals"]["texts_are_checked"] for info in runs.values())
    info["totals"] = run["totals"] | totals | {"texts_are_checked": checked}
    info["totals"]["records"] = tally_of(read_blocks(output)).to_json(info)
    if spelled:
        write_pieces(output, TokenPieces(spelled=spelled, special=special))
    write_run(output, info)


def _as_routed(record: Record, route: ServedRoute) -> Record:
    """The record as a run with the policy writes it."""
    assert record.settings is not None
    settings = structs.replace(
        record.settings, drafter=route.drafter, num_speculative_tokens=route.length
    )
    # A plain step has no draft, not one of no tokens.
    plain = {} if route.length else {"acceptance_histogram": [record.num_spec_steps]}
    return structs.replace(record, settings=settings, **plain)
