"""Decoders: what turns requests into completions, and the one in this process."""

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import Drafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """Decodes requests with a drafter, or without it for the baseline."""

    drafts: bool  # whether there is a drafter
    max_rows: int  # most requests decoded together
    states: dict[str, str]  # by role, how recurrent states are kept: see `CausalModel.states`
    steps_differ: bool  # whether the target's own pass over a text is no standard for its steps

    def decode(
        self, requests: Sequence[Request], config: DecodeConfig, *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests in order, yielding each as it finishes or fails.

        With `plain`, the drafter is left out.

        Raises:
            ConfigError: If they cannot be decoded like this.
        """


class InProcessDecoder:
    """This package's engine; it survives a lack of memory, and single requests that raise."""

    def __init__(self, target: CausalModel, drafter: Drafter, *, max_rows: int) -> None:
        self._target, self._drafter = target, drafter
        self._no_drafter = NoDrafter(target.device)
        self.drafts = not isinstance(drafter, NoDrafter)
        self.max_rows = max_rows
        kept = {"target": target.states, "drafter": drafter.states}
        self.states = {role: states for role, states in kept.items() if states}
        self.steps_differ = target.steps_differ

    def decode(
        self, requests: Sequence[Request], config: DecodeConfig, *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests; see `Decoder`.

        A batch that does not fit into memory is decoded again with half the rows; one that raises,
        one row at a time, so that only the requests at fault fail.
        """
        engine = Engine(self._target, config)
        drafter = self._no_drafter if plain else self._drafter
        left = {request.request_id: request for request in requests}
        num_alone = 0  # of the next ones, those decoded one at a time
        while left:
            rows = 1 if num_alone else self.max_rows
            batch = list(left.values())[: num_alone or None]
            try:
                for completion in engine.decode(batch, drafter, batch_size=rows):
                    del left[completion.request.request_id]
                    yield completion
            except ConfigError:
                raise
            except Exception as raised:  # anything, from a model or a tokenizer
                error = raised.with_traceback(None)  # which keeps the pass's tensors alive
            else:
                num_alone = 0
                continue
            self._target.reset()
            drafter.reset()
            lacks_memory = should_reduce_batch_size(error)
            if lacks_memory:
                clear_device_cache(garbage_collection=True)
            # Requests are taken in order, so those at fault are the first that are left.
            if rows == 1:
                yield Completion.failed(left.pop(next(iter(left))), error)
                num_alone = num_alone and sum(request.request_id in left for request in batch)
            elif lacks_memory:
                self.max_rows = rows // 2
                logger.warning(
                    "out of memory with %d rows; continuing with %d (--batch_size %d avoids this)",
                    rows,
                    self.max_rows,
                    self.max_rows,
                )
            else:
                num_alone = min(rows, len(left))
