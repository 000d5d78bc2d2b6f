"""From the folders of runs to a policy, and from a policy to its file."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lm_eval_specfair import __version__
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy, choose_policy
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts
from lm_eval_specfair.metrics.routing.drafter_texts import Route
from lm_eval_specfair.metrics.routing.route_selection import LEVEL, RoutePolicy
from lm_eval_specfair.records.policy_file import PolicyFile
from lm_eval_specfair.reporting.policy.build_routes import build_routes
from lm_eval_specfair.reporting.policy.policy_runs import (
    MAX_LENGTH,
    by_drafter,
    drafter_of,
    given_costs,
    read_generated,
    settings_of,
)
from lm_eval_specfair.reporting.runs import RunReader, open_runs, refuse_contradictions

Costs = tuple[float, float, float]
"""c, v and o of a step, in plain steps."""


def build_policy(
    run_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    longest: int | None = None,
    costs: Costs | Mapping[str, Costs] | None = None,
    served: Collection[int | Route] = (),
    level: float = LEVEL,
) -> LengthPolicy | RoutePolicy:
    """Read runs and choose for each group, to improve on the first run's drafter and draft length.

    Each run has one draft length. Runs of one drafter give a policy of draft lengths, runs of
    several one of drafters and lengths. `longest` is the longest length asked about, by default
    that of a drafter's runs; `costs` are c, v and o of the steps of its first run, where not as
    measured, by drafter where there are several; `served` are the only lengths, or drafters and
    lengths, to choose among, such as those that servers run with. `level` is the chance that some
    group named has a drafter and ends below plain decoding; of a policy that chooses drafters.

    Raises:
        ConfigError: If a folder cannot be read or is named twice, its draft length is not one
            number, there is too little in it to choose from, runs of several drafters differ in
            more than these, or what the first run has is not served.
    """
    readers = open_runs(run_dirs)
    if longest is not None and not 1 <= longest <= MAX_LENGTH:
        raise ConfigError(f"--longest must lie in 1 ... {MAX_LENGTH}, got {longest}")
    if not 0 < level < 1:
        raise ConfigError(f"--level must lie between 0 and 1, such as 0.05, got {level:g}")
    drafters = by_drafter(readers)
    if isinstance(costs, Mapping) and (strangers := sorted(set(costs) - set(drafters), key=str)):
        raise ConfigError(
            f"costs are named for {strangers[0]!r:.100}, expected a drafter of the runs: "
            f"{', '.join(map(str, drafters))}"
        )
    if len(drafters) > 1:
        return build_routes(
            drafters,
            readers,
            group_by=group_by,
            longest=longest,
            costs=costs,
            served=served,
            level=level,
        )
    name = drafter_of(readers[0])
    if isinstance(costs, Mapping):
        costs = costs.get(name or "")
    lengths = [_length_of(each, name) for each in served]
    return _draft_lengths(readers, group_by, longest, costs, lengths)


def _draft_lengths(
    readers: Sequence[RunReader],
    group_by: str,
    longest: int | None,
    costs: Costs | None,
    served: Sequence[int],
) -> LengthPolicy:
    runs = [read_generated(reader) for reader in readers]
    refuse_contradictions(readers)
    measured = [run.length for run in runs]
    if served and measured[0] not in served:
        raise ConfigError(
            f"expected a server with the {measured[0]} drafted tokens of {readers[0].folder} among "
            f"those named, which other groups keep, got {', '.join(map(str, sorted(served)))}"
        )
    if max(served, default=0) > MAX_LENGTH or min(served, default=0) < 0:
        raise ConfigError(f"draft lengths must lie in 0 ... {MAX_LENGTH}, got {sorted(served)}")
    longest = max(longest or 0, *measured, *served)
    lengths = DraftLengths(group_by, measured, longest, sorted(served))
    for run in runs:
        for record, facts in run.requests:
            lengths.add(record, facts, run.length)
    given: GivenCosts | None = given_costs(costs or readers[0].costs, measured[0])
    return choose_policy(lengths, current=measured[0], costs=given)


def _length_of(served: int | Route, drafter: str | None) -> int:
    if isinstance(served, int):
        return served
    if served.length and served.drafter != drafter:
        raise ConfigError(
            f"a server is named for the drafter {served.drafter!r:.100}, expected one of the runs: "
            f"{drafter}"
        )
    return served.length


def policy_file(policy: LengthPolicy | RoutePolicy, run_dirs: Sequence[Path]) -> PolicyFile:
    """The policy as a run reads it, with its origin.

    A run takes lengths as `num_speculative_tokens=policy.json`, drafters and lengths as
    `drafter=policy.json`.
    """
    made_from: dict[str, object] = {
        "specfair_version": __version__,
        "runs": [run_dir.resolve().name for run_dir in run_dirs],
    }
    weights = settings_of(RunReader(run_dirs[0])).get("target_weights")
    of_target = {"target_weights": weights} if isinstance(weights, str) else {}
    if isinstance(policy, LengthPolicy):
        made_from |= {"draft_lengths": list(policy.measured), "longest": policy.longest}
        changed = {
            group: choice.expected.gain
            for group, choice in policy.choices.items()
            if choice.chosen != policy.default
        }
        default, groups, routes = policy.default, policy.groups, {}
    else:
        made_from |= {
            "draft_lengths": {name: list(all_of) for name, all_of in policy.drafters.items()},
            "incumbent": policy.incumbent._asdict(),
            "level": policy.level,
            "drafters_needed": policy.needed,
        }
        changed = {
            group: choice.expected.gain
            for group, choice in policy.choices.items()
            if choice.chosen != policy.incumbent
        }
        default = policy.default.length
        groups = {group: route.length for group, route in policy.groups.items()}
        routes = {group: route.drafter for group, route in policy.groups.items() if route.length}
    return PolicyFile(
        group_by=policy.group_by,
        default=default,
        groups=groups,
        default_drafter=policy.default.drafter if isinstance(policy, RoutePolicy) else None,
        drafters=routes,
        made_from=made_from | of_target,
        expected={group: dataclasses.asdict(gain) for group, gain in sorted(changed.items())},
    )
