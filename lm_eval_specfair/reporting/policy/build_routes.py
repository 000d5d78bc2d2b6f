"""From runs of several drafters to a policy of drafters and draft lengths."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.routing.drafter_texts import PLAIN, DrafterTexts, Route
from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy, choose_routes
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.reporting.policy.policy_runs import (
    MAX_LENGTH,
    PolicyRun,
    given_costs,
    read_generated,
    refuse_unpaired,
)
from lm_eval_specfair.reporting.runs import RunReader, refuse_contradictions


def build_routes(
    drafters: Mapping[str | None, Sequence[RunReader]],
    readers: Sequence[RunReader],
    *,
    group_by: str,
    longest: int | None,
    costs: object,
    served: Collection[int | Route],
    level: float,
) -> RoutePolicy:
    """Choose a drafter and a draft length for each group; as `build_policy` with several drafters.

    Raises:
        ConfigError: As `build_policy`.
    """
    if None in drafters:
        raise ConfigError(
            f"{drafters[None][0].folder}: its run.json does not say with what drafter, which is "
            "needed to choose between drafters"
        )
    if costs is not None and not isinstance(costs, Mapping):
        raise ConfigError(
            f"costs must say whose they are where runs have several drafters: --costs "
            f"{next(iter(drafters)):.100}=C,V,O, once for each"
        )
    runs = {reader.folder: read_generated(reader, group_by) for reader in readers}
    refuse_contradictions(readers)
    differing = refuse_unpaired(readers, list(runs.values()))
    routes = _served(served, drafters)
    texts: list[tuple[str, DraftLengths, Sequence[RunReader]]] = []
    for name, own in drafters.items():
        lengths = _lengths(group_by, [runs[reader.folder] for reader in own], longest, routes, name)
        texts.append((str(name), lengths, own))
    first = texts[0][1]
    _refuse_unlike(texts)
    incumbent = Route(texts[0][0], runs[readers[0].folder].length)
    if routes and incumbent not in routes:
        raise ConfigError(
            f"expected a server with {incumbent.drafter:.100} and the {incumbent.length} drafted "
            f"tokens of {readers[0].folder} among those named, which is to be improved on"
        )
    documents = first.documents
    num_runs = len(texts[0][2])
    requests = {group: n // num_runs for group, n in first.requests.items()}
    large = {
        group: n
        for group, n in sorted(requests.items())
        if n >= DEFAULT_MIN_REQUESTS and documents[group] >= MIN_DOCUMENTS and group != NO_GROUP
    }
    if not large:
        raise ConfigError(
            f"expected a {first.group_by} with at least {MIN_DOCUMENTS} documents that generate "
            f"text and say how many drafted tokens each step kept, got {documents or 'none'}"
        )
    found = []
    for name, lengths, own in texts:
        length = runs[own[0].folder].length
        blocks = [block / len(own) for block in lengths.blocks(list(large))]
        given = given_costs((costs or {}).get(name) or own[0].costs, length)
        if given is not None:
            # A lookup drafts less per step than it may: the costs are of steps as it took them.
            replayed = sum(
                block[..., lengths.columns.replayed(length)].sum((0, 1)) for block in blocks
            )
            given = replace(given, length=float(replayed[1] / replayed[0]))
        texts_of = DrafterTexts(name=name, columns=lengths.columns, blocks=blocks, given=given)
        found.append(texts_of)
    return choose_routes(
        found,
        group_by=first.group_by,
        requests=large,
        incumbent=incumbent,
        served=routes,
        not_reported={group: n for group, n in sorted(requests.items()) if group not in large},
        differing_texts=differing,
        level=level,
    )


def _lengths(
    group_by: str,
    runs: Sequence[PolicyRun],
    longest: int | None,
    served: Sequence[Route],
    name: str | None,
) -> DraftLengths:
    measured = [run.length for run in runs]
    own = [route.length for route in served if route.drafter == name]
    lengths = DraftLengths(group_by, measured, max(longest or 0, *measured, *own))
    for run in runs:
        for record, facts in run.requests:
            lengths.add(record, facts, run.length)
    return lengths


def _served(
    served: Collection[int | Route], drafters: Mapping[str | None, Sequence[RunReader]]
) -> list[Route]:
    routes = []
    for each in served:
        route = Route(PLAIN.drafter, each) if isinstance(each, int) else each
        if not 0 <= route.length <= MAX_LENGTH:
            raise ConfigError(f"draft lengths must lie in 0 ... {MAX_LENGTH}, got {route.length}")
        if route.length and route.drafter not in drafters:
            raise ConfigError(
                f"expected the drafter of each server where runs have several: "
                f"DRAFTER:{route.length}=URL with one of {', '.join(map(str, drafters))}"
            )
        routes.append(route if route.length else PLAIN)
    return routes


def _refuse_unlike(texts: Sequence[tuple[str, DraftLengths, Sequence[RunReader]]]) -> None:
    """Refuse runs in which some requests do not say their steps, and in others they do."""
    first, lengths, own = texts[0]
    counts = {group: n / len(own) for group, n in lengths.requests.items()}
    for name, others, runs in texts[1:]:
        if {group: n / len(runs) for group, n in others.requests.items()} != counts:
            raise ConfigError(
                f"the runs of {first:.100} and {name:.100} do not say for the same requests what "
                "each step kept; expected accepted_per_step, or a histogram, in all records"
            )
