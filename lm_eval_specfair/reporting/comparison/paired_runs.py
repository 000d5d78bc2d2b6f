"""Runs of the same requests, read side by side; what must be equal in them is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.comparison import pairing
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement, Trace
from lm_eval_specfair.reporting.format import listed
from lm_eval_specfair.reporting.runs import (
    RunReader,
    open_runs,
    refuse_contradictions,
    refuse_empty,
    refuse_unknown_field,
)

_MOST_REASONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRuns:
    """Runs by name, the base first, with what they add up to."""

    runs: Mapping[str, RunReader]
    aggregators: Mapping[str, Aggregator]
    other_machines: Mapping[str, Sequence[str]]  # what differs from the base's machine
    _traces: Mapping[str, Mapping[str, Trace]]

    def text_agreement(self, name: str) -> TextAgreement:
        """Whether a run's greedy texts are the base's."""
        return pairing.text_agreement(self._traces[next(iter(self.runs))], self._traces[name])


def read_paired(
    run_dirs: Sequence[Path], *, group_by: str, mapping: UserGroups | None = None
) -> PairedRuns:
    """Read runs, the base first, and make sure that they can be compared.

    Raises:
        ConfigError: If a folder cannot be read, or the runs differ in what must be equal.
    """
    readers = _named(open_runs(run_dirs))
    base, *others = readers
    for name in others:
        reasons = pairing.different_settings(readers[base].info, readers[name].info)
        _refuse_if(reasons, base, name)
    only_generated = any(reader.is_replayed for reader in readers.values())
    aggregators, traces = {}, {}
    for name, reader in readers.items():
        aggregators[name] = Aggregator(group_by, mapping)
        if reader.costs is not None:
            aggregators[name].costs = {"": reader.costs}
        traces[name] = _add(
            reader, aggregators[name], mapping or UserGroups(), only_generated=only_generated
        )
    refuse_contradictions(list(readers.values()))
    refuse_unknown_field(aggregators[base], group_by)
    for name in others:
        _refuse_if(pairing.different_requests(traces[base], traces[name]), base, name)
    return PairedRuns(
        runs=readers,
        aggregators=aggregators,
        other_machines={
            name: pairing.different_machines(readers[base].info, readers[name].info)
            for name in others
            if not (readers[base].is_replayed or readers[name].is_replayed)
        },
        _traces=traces,
    )


def _named(readers: Sequence[RunReader]) -> dict[str, RunReader]:
    """Runs by the names of their folders where these differ, else by their paths."""
    by_name = {reader.name: reader for reader in readers}
    if len(by_name) == len(readers):
        return by_name
    return {one_line(reader.folder): reader for reader in readers}


def _add(
    reader: RunReader, aggregator: Aggregator, mapping: UserGroups, *, only_generated: bool
) -> dict[str, Trace]:
    """Add a run's records; what is compared request by request, by request."""
    traces = {}
    for record, facts in reader.records():
        if only_generated and record.request_type != "generate_until":
            continue  # a replay has no scored text
        aggregator.add(record, facts)
        group = group_of(facts, record.group_fields, aggregator.group_by, mapping)
        traces[record.request_id] = pairing.trace(record, group, is_replayed=reader.is_replayed)
    refuse_empty([reader])
    return traces


def _refuse_if(reasons: Sequence[str], base: str, candidate: str) -> None:
    if reasons:
        raise ConfigError(
            f"cannot compare {candidate} with {base}: {listed(reasons, _MOST_REASONS, '; ')}. Runs "
            "must agree in all but the drafter and its draft length: repeat one with the other's "
            "tasks, --limit, target and settings."
        )
