"""From a run's folder to the traces of some of its requests."""

from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.reporting.runs import RunReader
from lm_eval_specfair.reporting.viewer.piece_source import pieces_of_run
from lm_eval_specfair.reporting.viewer.request_choice import one_request, worst_requests
from lm_eval_specfair.reporting.viewer.request_trace import trace_of
from lm_eval_specfair.reporting.viewer.trace_text import ShownTrace


def traced_requests(
    folder: Path,
    *,
    request: str | None = None,
    worst: int = 1,
    tokenizer: str | None = None,
) -> Sequence[ShownTrace]:
    """The trace of one request, or of those with the fewest tokens a step, the slowest first.

    Args:
        folder: A run's.
        request: Its id, or how it begins.
        worst: How many, where no request is named.
        tokenizer: A folder or hub id, for runs that did not note what their tokens spell.

    Raises:
        ConfigError: If the run cannot be read, there is no such request, or no such tokenizer.
    """
    reader = RunReader(folder)
    pieces = pieces_of_run(folder, reader.info, tokenizer)
    records = [one_request(reader, request)] if request else worst_requests(reader, worst)
    return [ShownTrace(trace_of(record), pieces) for record in records]
