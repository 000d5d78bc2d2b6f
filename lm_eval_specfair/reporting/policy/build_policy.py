"""From the folders of runs to a policy of draft lengths, and from a policy to its file."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec import structs

from lm_eval_specfair import __version__
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy, choose_policy
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts
from lm_eval_specfair.records import TEXTS, Record
from lm_eval_specfair.records.policy_file import PolicyFile
from lm_eval_specfair.reporting.runs import RunReader, open_runs, refuse_contradictions

_MAX_LENGTH = 64


def build_policy(
    run_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | None = None,
    served: Collection[int] = (),
) -> LengthPolicy:
    """Read runs and choose a draft length for each group, to improve on the first run's.

    Each run has one draft length. `longest` is the longest asked about, by default that of the
    runs; `costs` are c, v and o of the first run's steps, where not as measured; `served` are the
    only lengths to choose among, such as those that servers run with.

    Raises:
        ConfigError: If a folder cannot be read or is named twice, its draft length is not one
            number, there is too little in it to choose from, or that length is not served.
    """
    readers = open_runs(run_dirs)
    if longest is not None and not 1 <= longest <= _MAX_LENGTH:
        raise ConfigError(f"--longest must lie in 1 ... {_MAX_LENGTH}, got {longest}")
    runs = [_generated(reader) for reader in readers]
    refuse_contradictions(readers)
    measured = [length for length, _ in runs]
    if served and measured[0] not in served:
        raise ConfigError(
            f"expected a server with the {measured[0]} drafted tokens of {readers[0].folder} among "
            f"those named, which other groups keep, got {', '.join(map(str, sorted(served)))}"
        )
    if max(served, default=0) > _MAX_LENGTH or min(served, default=0) < 0:
        raise ConfigError(f"draft lengths must lie in 0 ... {_MAX_LENGTH}, got {sorted(served)}")
    longest = max(longest or 0, *measured, *served)
    lengths = DraftLengths(group_by, measured, longest, sorted(served))
    for length, requests in runs:
        for record, facts in requests:
            lengths.add(record, facts, length)
    given = None
    costs = costs or readers[0].costs
    if costs is not None:
        draft, verify, overhead = costs
        if not (draft >= 0 and verify > 0 and draft * measured[0] + verify + overhead > 0):
            raise ConfigError(
                "costs must be c at least 0, v above 0, and add up to more than nothing, got "
                f"{draft:g},{verify:g},{overhead:g}"
            )
        given = GivenCosts(draft=draft, verify=verify, overhead=overhead, length=measured[0])
    return choose_policy(lengths, current=measured[0], costs=given)


def _generated(reader: RunReader) -> tuple[int, list[tuple[Record, TaskFacts]]]:
    """A run's draft length, and its requests that generate text."""
    requests = [
        (structs.replace(record, **dict.fromkeys(TEXTS)), facts)  # lines are read whole
        for record, facts in reader.records(TEXTS)
        if record.request_type == "generate_until"
    ]
    histograms = (record.acceptance_histogram for record, _ in requests if not record.settings)
    lengths = {
        *(record.settings.num_speculative_tokens for record, _ in requests if record.settings),
        *(len(histogram) - 1 for histogram in histograms if histogram is not None),
    }
    if any(record.settings and record.settings.verification == "block" for record, _ in requests):
        raise ConfigError(
            f"{reader.folder}: its drafts were judged by blocks, which does not tell what other "
            "draft lengths would have kept; run it without verification=block"
        )
    if len(lengths) != 1 or not (length := lengths.pop()):
        got = ", ".join(map(str, sorted(each or 0 for each in lengths))) or "no drafts"
        raise ConfigError(
            f"{reader.folder}: expected a run in which all requests draft one number of tokens, "
            f"got {got}; run it with num_speculative_tokens=4, say"
        )
    return length, requests


def policy_file(policy: LengthPolicy, run_dirs: Sequence[Path]) -> PolicyFile:
    """The policy as `num_speculative_tokens=policy.json` reads it, with its origin."""
    return PolicyFile(
        group_by=policy.group_by,
        default=policy.default,
        groups=policy.groups,
        made_from={
            "specfair_version": __version__,
            "runs": [run_dir.resolve().name for run_dir in run_dirs],
            "draft_lengths": list(policy.measured),
            "longest": policy.longest,
        },
        expected={
            group: dataclasses.asdict(choice.expected.gain)
            for group, choice in sorted(policy.choices.items())
            if choice.chosen != policy.default
        },
    )
