"""`--batch_size auto`: the number of rows with which decoding is fastest.

Requests of random tokens are decoded with a growing number of rows, and the row-steps per second
compared; the cost of a step does not depend on what is accepted in it.
"""

import random
import time

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request, failure_reason
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping

MOST_ROWS = 128
MOST_ROWS_ON_CPU = 32

_PROMPT_TOKENS = 64
_WORTH = 1.05  # the gain that makes a doubling worth its memory
_MOST_SECONDS = 30.0
LIKELY_TOKENS = 2_048  # of a text, prompt included, where the model could take more
_SHARE_OF_MEMORY = 0.5


def fastest_rows(target: CausalModel, drafter: Drafter, num_speculative_tokens: int) -> int:
    """The number of rows, a power of two, with the most row-steps per second.

    Stops where two doublings gained less than 5%, where texts of 2,048 tokens would need half of
    the free memory, where memory ends, or after half a minute. Both models are reset afterwards.
    """
    most = MOST_ROWS_ON_CPU if target.device.type == "cpu" else MOST_ROWS
    free = _free_bytes(target.device)
    engine = Engine(target, DecodeConfig(num_speculative_tokens=num_speculative_tokens))
    new_tokens = 2 * num_speculative_tokens + 2
    speeds, rows, began = dict[int, float](), 1, time.monotonic()
    progress = tqdm(desc="batch_size auto", unit="number", total=most.bit_length())
    try:
        _row_steps_per_second(engine, drafter, _requests(target, 1, new_tokens), 1)  # warms up
        while rows <= most:
            requests = _requests(target, 2 * rows, new_tokens)
            speeds[rows] = max(
                _row_steps_per_second(engine, drafter, requests, rows) for _ in range(2)
            )
            progress.update()
            progress.set_postfix_str(f"{speeds[rows]:,.0f} row-steps/s with {rows}")
            needed = min(target.max_length, LIKELY_TOKENS) * target.cache.bytes_per_entry
            if (
                2 * rows * needed > _SHARE_OF_MEMORY * free
                or time.monotonic() - began > _MOST_SECONDS
                or _gains_nothing(list(speeds.values()))
            ):
                break
            rows *= 2
    except RuntimeError as error:  # torch.OutOfMemoryError is one, as is a CPU's
        if not speeds or not should_reduce_batch_size(error):
            raise
        progress.write(f"batch_size auto: no more than {max(speeds)} rows, {failure_reason(error)}")
    finally:
        target.reset()
        drafter.reset()
    best = max(speeds.values())
    chosen = min(rows for rows, speed in speeds.items() if speed * _WORTH >= best)
    progress.set_postfix_str(f"{speeds[chosen]:,.0f} row-steps/s with {chosen}, which is chosen")
    progress.close()
    return chosen


def _gains_nothing(speeds: list[float]) -> bool:
    """Whether the last two were hardly faster than the best before them."""
    return len(speeds) > 2 and max(speeds[-2:]) < _WORTH * max(speeds[:-2])


def _requests(target: CausalModel, count: int, new_tokens: int) -> list[Request]:
    generator = random.Random(0)
    length = max(1, min(_PROMPT_TOKENS, target.max_length - new_tokens))
    return [
        Request(
            request_id=str(number),
            prompt=[generator.randrange(target.vocab_size) for _ in range(length)],
            stopping=Stopping(max_new_tokens=new_tokens),
        )
        for number in range(count)
    ]


def _row_steps_per_second(
    engine: Engine, drafter: Drafter, requests: list[Request], rows: int
) -> float:
    completions = engine.decode(requests, drafter, batch_size=rows)
    counters = [completion.counters for completion in completions]
    # A step's seconds are divided among its rows, so the sum over rows is that of all steps.
    return sum(c.num_steps for c in counters) / sum(c.decode_seconds for c in counters)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)
