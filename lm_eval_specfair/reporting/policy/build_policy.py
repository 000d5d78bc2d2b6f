"""From the folders of runs to a policy, and from a policy to its file."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from lm_eval_specfair import __version__
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.task_facts import facts_of_task
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy, choose_policy
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts
from lm_eval_specfair.records import TEXTS, Record, measured, read_records, read_run
from lm_eval_specfair.records.policy_file import PolicyFile

_MAX_LENGTH = 64


def build_policy(
    run_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | None = None,
) -> LengthPolicy:
    """Read runs and choose a draft length for each group.

    Args:
        run_dirs: Folders with `run.json` and records, each of a run with one draft length.
            The policy is to improve on the first one's.
        group_by: What makes a group (`groups.assign.group_of`).
        longest: The longest draft length asked about; by default the longest one of the runs.
        costs: c, v and o of the first run's steps, where not as measured.

    Raises:
        ConfigError: If a folder cannot be read or is named twice, its draft length is not one
            number, or there is too little in it to choose from.
    """
    if not run_dirs:
        raise ConfigError("expected at least one folder of a run, got none")
    resolved = Counter(run_dir.resolve() for run_dir in run_dirs)
    for run_dir in run_dirs:
        if resolved[run_dir.resolve()] > 1:
            raise ConfigError(f"{run_dir} is named twice; its requests would count double")
    if longest is not None and not 1 <= longest <= _MAX_LENGTH:
        raise ConfigError(f"--longest must lie in 1 ... {_MAX_LENGTH}, got {longest}")
    runs = [_read(run_dir) for run_dir in run_dirs]
    measured = [length for length, *_ in runs]
    lengths = DraftLengths(group_by, measured, max(longest or 0, *measured))
    for length, run, records in runs:
        for record in records:
            lengths.add(record, facts_of_task(run, record.task), length)
    return choose_policy(
        lengths,
        current=measured[0],
        costs=None if costs is None else _checked(costs, measured[0]),
    )


def _checked(costs: tuple[float, float, float], length: int) -> GivenCosts:
    draft, verify, overhead = costs
    if not (draft >= 0 and verify > 0 and draft * length + verify + overhead > 0):
        raise ConfigError(
            "costs must be c at least 0, v above 0, and add up to more than nothing, got "
            f"{draft:g},{verify:g},{overhead:g}"
        )
    return GivenCosts(draft=draft, verify=verify, overhead=overhead, length=length)


def _read(run_dir: Path) -> tuple[int, dict[str, Any], list[Record]]:
    """A run's draft length, what it says of itself, and what it generated."""
    run = read_run(run_dir)
    ids: set[str] = set()
    records = []
    for record in measured(read_records(run_dir, without=TEXTS)):
        if record.request_id in ids:
            raise ConfigError(
                f"{run_dir}: request {record.request_id!r} was recorded twice; were two runs "
                "written into one folder?"
            )
        ids.add(record.request_id)
        if record.request_type == "generate_until":
            # Of lines, they were read.
            records.append(structs.replace(record, **dict.fromkeys(TEXTS)))
    lengths = {_draft_length(record) for record in records} - {None}
    if len(lengths) != 1 or not (length := lengths.pop()):
        found = ", ".join(map(str, sorted(each or 0 for each in lengths))) or "no drafts"
        raise ConfigError(
            f"{run_dir}: expected a run in which all requests draft one number of tokens, got "
            f"{found}; run it with num_speculative_tokens=4, say"
        )
    return length, run, records


def _draft_length(record: Record) -> int | None:
    if record.settings is not None:
        return record.settings.num_speculative_tokens
    histogram = record.acceptance_histogram
    return None if histogram is None else len(histogram) - 1


def policy_file(policy: LengthPolicy, run_dirs: Sequence[Path]) -> PolicyFile:
    """What `num_speculative_tokens=policy.json` reads, and where it comes from."""
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
