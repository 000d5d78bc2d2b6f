"""Decoding that goes on where memory runs out or where one request raises."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lm_eval_specfair.decoding.counters import Statistics
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.engine import Completion, Engine, Request
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Decoded = tuple[T, Completion, Completion | None]

# So many requests that raise one after the other are no longer the fault of each.
MOST_IN_A_ROW = 8
LONGEST_REASON = 200


def reason(error: Exception) -> str:
    """An error as a record's `failure`: its kind and the first line of what it says."""
    said = (str(error).splitlines() or [""])[0][:LONGEST_REASON]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class Faults:
    """Which requests raised, and whether that was their own fault."""

    def __init__(self) -> None:
        """Start without any."""
        self._raised: dict[str, Exception] = {}
        self._has_decoded = False

    def give_up(self, request: Request, error: Exception) -> Completion:
        """What stands for a request of which nothing can be decoded, because of an error."""
        self._raised[request.request_id] = error
        return Completion(
            request=request,
            token_ids=[],
            finish_reason=None,
            statistics=Statistics(),
            failure=reason(error),
        )

    def single_faults(self, decoded: Iterable[Decoded[T]]) -> Iterator[Decoded[T]]:
        """What was decoded, once it is known that a request which raised did so alone.

        Where every request raises, or `MOST_IN_A_ROW` after each other, the fault is not theirs.

        Args:
            decoded: A name for the caller, the completion, and the one without a drafter.

        Raises:
            Exception: What the requests raised, where it is not the fault of single ones; none
                of these is yielded.
        """
        held: list[Decoded[T]] = []
        caught = None
        for each in decoded:
            error = self._raised.get(each[1].request.request_id) if each[1].failure else None
            if error is None:
                self._has_decoded = True
                yield from held
                held.clear()
                yield each
                continue
            held.append(each)
            caught = error
            if len(held) == MOST_IN_A_ROW:
                raise error
        if caught is not None and not self._has_decoded:
            raise caught
        yield from held


class Recovery(Faults):
    """Decodes requests; a lack of memory halves the rows, a request that raises fails alone.

    Attributes:
        most_rows: Rows that fit into memory as far as is known.
    """

    def __init__(self, target: CausalModel, rows: int) -> None:
        """Decode with at most this many rows."""
        super().__init__()
        self.most_rows = rows
        self._target = target

    def completions(
        self, engine: Engine, requests: Sequence[Request], drafter: Drafter
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes or fails.

        Raises:
            ConfigError: As the engine does.
        """
        left = {request.request_id: request for request in requests}
        alone = 0  # of those next in line, how many are decoded one at a time
        while left:
            rows = 1 if alone else self.most_rows
            batch = list(left.values())[: alone or None]
            try:
                for done in engine.decode(batch, drafter, batch_size=rows):
                    del left[done.request.request_id]
                    yield done
            except ConfigError:
                raise
            except Exception as error:  # whatever a model or a tokenizer raises
                caught = error.with_traceback(None)  # which keeps the pass's tensors alive
            else:
                alone = 0
                continue
            self._target.reset()
            drafter.reset()
            lacks_memory = should_reduce_batch_size(caught)
            if lacks_memory:
                clear_device_cache(garbage_collection=True)
            # Requests are taken in order, so those at fault are the first that are left.
            if rows == 1:
                yield self.give_up(left.pop(next(iter(left))), caught)
                alone = alone and sum(each.request_id in left for each in batch)
            elif lacks_memory:
                self._halve(rows)
            else:
                alone = min(rows, len(left))

    def _halve(self, rows: int) -> None:
        self.most_rows = rows // 2
        logger.warning(
            "out of memory with %d rows; going on with %d (--batch_size %d avoids this)",
            rows,
            self.most_rows,
            self.most_rows,
        )
