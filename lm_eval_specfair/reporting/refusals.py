"""What a report and a comparison refuse alike."""

from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import NO_GROUP, OF_LANGUAGES
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator


def refuse_empty(folders: Sequence[Path], num_requests: int, num_failed: int) -> None:
    """Without a record there is nothing to say, nor where every request failed.

    Raises:
        ConfigError: If so.
    """
    if not num_requests:
        raise ConfigError(
            f"no records in {', '.join(str(folder) for folder in folders)}; a run writes one for "
            "each request that it finishes, so none was"
        )
    if num_requests == num_failed:
        raise ConfigError(f"all {num_failed} requests failed; `failure` in their records says why")


def refuse_unknown_field(aggregator: Aggregator, group_by: str) -> None:
    """A run of one language may well not say which; a field that no document has is a mistake.

    Raises:
        ConfigError: If so.
    """
    if aggregator.group_by not in OF_LANGUAGES and set(aggregator.requests) == {NO_GROUP}:
        raise ConfigError(
            f"no request says anything about {group_by!r}: expected {', '.join(OF_LANGUAGES)}, "
            "task, or a field of the documents, of the tasks' metadata or of a --groups file"
        )
