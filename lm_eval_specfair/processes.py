"""What processes that work together decide as one."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from lm_eval_specfair.errors import ConfigError

T = TypeVar("T")


def agreed(decide: Callable[[], T], rank: int, num_processes: int) -> T:
    """What rank 0 decides or makes, in every process.

    Args:
        decide: Called by rank 0 only; what it returns travels between processes.
        rank: Of this process.
        num_processes: Which all call this together.

    Raises:
        ConfigError: In every process, where rank 0 refuses: none is left waiting for it.
    """
    if num_processes == 1:
        return decide()
    told: list[Any] = [None, None]
    if rank == 0:
        try:
            told[0] = decide()
        except ConfigError as error:
            told[1] = error
    broadcast_object_list(told)
    decided, refusal = told
    if refusal is not None:
        raise refusal
    return decided  # type: ignore[no-any-return]
